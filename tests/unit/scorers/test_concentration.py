"""Lorenz curve, Gini coefficient and top share equal their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from raydelt.scorers.concentration import concentration


def test_equal_shares_have_the_diagonal() -> None:
    found = concentration(np.full(500, 3.0, np.float32))
    np.testing.assert_allclose(found["lorenz"], np.linspace(0, 1, 101), atol=1e-9)
    assert found["gini"] == pytest.approx(0, abs=1e-9)
    assert found["top_share"] == pytest.approx(0.2)


def test_one_example_with_everything_has_the_largest_gini() -> None:
    values = np.zeros(100)
    values[7] = 5.0
    assert concentration(values)["gini"] == pytest.approx(0.99)
    assert concentration(values)["top_share"] == 1.0


def test_gini_equals_the_mean_absolute_difference() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    expected = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert concentration(values)["gini"] == pytest.approx(expected, rel=1e-9)


def test_order_is_of_no_matter_and_nothing_is_shared_out_evenly() -> None:
    values = np.random.default_rng(1).uniform(size=50)
    assert concentration(values) == concentration(values[::-1])
    assert concentration(np.zeros(10))["gini"] == 0
    assert concentration(np.empty(0))["top_share"] == 0.2
