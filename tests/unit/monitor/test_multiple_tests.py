"""Corrections against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from raydelt.monitor.multiple import adjusted


def by_definition(p: list[float], level: float) -> list[bool]:
    """Holm: step down the ascending p-values until one is above level / (tests left)."""
    rejected, order = [False] * len(p), np.argsort(p, kind="stable")
    for place, index in enumerate(order):
        if p[index] > level / (len(p) - place):
            break
        rejected[index] = True
    return rejected


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_its_steps_reject(p: list[float], level: float) -> None:
    margin = [abs(x * (len(p) - k) - level) for x in p for k in range(len(p))]
    if min(margin) > 1e-9:
        assert (adjusted(np.array(p)) <= level).tolist() == by_definition(p, level)


def test_known_values() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert adjusted(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted(p, "bh") == pytest.approx(false_discovery_control(p))
    assert len(adjusted(np.array([]))) == 0


def test_a_family_of_null_tests_is_rarely_alarmed() -> None:
    rng = np.random.default_rng(0)
    alarms = [(adjusted(rng.random(50)) < 0.05).any() for _ in range(1000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.025)
