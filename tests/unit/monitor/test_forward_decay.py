"""Forward decay: rows are written once, and weights at any time are those of their age."""

from __future__ import annotations

import numpy as np
import pytest

from raydelt.errors import InputError
from raydelt.monitor.forward import at, effective_size, rebased, stored
from raydelt.select.sampling import Gumbel, Priority


def test_weights_at_any_time_are_those_of_the_age() -> None:
    times, base = np.array([0.0, 3.0, 10.0]), np.log([1.0, 2.0, 0.5])
    kept = stored(times, reference=5.0, half_life=4.0, log_weights=base)
    for now in (10.0, 12.5, 400.0):
        expected = base - np.log(2) * (now - times) / 4.0
        assert at(kept, now, reference=5.0, half_life=4.0) == pytest.approx(expected)


def test_a_new_reference_changes_no_weight() -> None:
    kept = stored(np.array([0.0, 8.0]), reference=5.0, half_life=2.0)
    moved = rebased(kept, reference=5.0, new=100.0, half_life=2.0)
    now = at(kept, 120.0, reference=5.0, half_life=2.0)
    assert at(moved, 120.0, reference=100.0, half_life=2.0) == pytest.approx(now)


@pytest.mark.parametrize("method", [Gumbel(), Priority()])
def test_a_weighted_sample_never_changes_until_rows_are_added(method: Gumbel | Priority) -> None:
    rng = np.random.default_rng(0)
    kept = stored(rng.random(500) * 30, reference=0.0, half_life=7.0)
    draws = rng.integers(0, 2**63, 500).astype(np.uint64)
    samples = []
    for now in (30.0, 37.0, 300.0):
        keys = method.keys(at(kept, now, reference=0.0, half_life=7.0), draws, 1)
        samples.append(set(np.argsort(-keys)[:50].tolist()))
    assert samples[0] == samples[1] == samples[2]


def test_recent_rows_are_kept_in_proportion_to_their_weight() -> None:
    """Half a life older is kept 2^-1/2 as often where few are kept of many."""
    n = 40_000
    ages = np.repeat([0.0, 1.0], n // 2)
    kept = stored(-ages, reference=0.0, half_life=1.0)
    draws = np.random.default_rng(2).integers(0, 2**63, n).astype(np.uint64)
    chosen = np.argsort(-Gumbel().keys(kept, draws, 0))[:1500]
    assert np.mean(ages[chosen] == 0) == pytest.approx(2 / 3, abs=0.04)


def test_a_row_without_a_time_is_of_the_reference() -> None:
    assert stored(np.array([np.nan]), reference=3.0, half_life=1.0).tolist() == [0.0]
    with pytest.raises(InputError, match="half-life"):
        stored(np.zeros(1), reference=0.0, half_life=0.0)


def test_the_effective_size_knows_no_common_shift() -> None:
    logs = np.log([1.0, 1.0, 2.0])
    assert effective_size(logs) == pytest.approx(16 / 6)
    assert effective_size(logs - 5000) == pytest.approx(16 / 6)
    assert effective_size(np.empty(0)) == 0
