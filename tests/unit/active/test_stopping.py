"""Rules stop exactly when their bound is crossed, and decide nothing on what is not known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raydelt.active.stopping import Agreement, Budget, Plateau, Round, should_stop, slope_of
from raydelt.errors import SpecError


def metrics(*values: float | None) -> list[Round]:
    return [Round(10 * (i + 1), value) for i, value in enumerate(values)]


def test_the_slope_is_that_of_least_squares() -> None:
    values = np.random.default_rng(2).normal(size=7)
    assert slope_of(values.tolist()) == pytest.approx(np.polyfit(np.arange(7), values, 1)[0])
    assert slope_of([1.0, 1.5]) == 0.5


def test_a_plateau_is_a_slope_below_the_bound_over_the_last_rounds() -> None:
    rule = Plateau(3, 0.01)
    assert rule.reason(metrics(0.5, 0.6, 0.7)) is None
    assert rule.reason(metrics(0.5, 0.5)) is None, "too few rounds"
    assert rule.reason(metrics(0.1, 0.5, 0.7, 0.7, 0.701)) is not None
    assert rule.reason(metrics(0.7, 0.6, 0.5)) is not None, "a metric that falls stops too"
    assert Plateau(3, 0.5).reason(metrics(0.0, 0.5, 1.0)) is None, "the bound itself does not stop"


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
def test_a_round_without_a_metric_decides_nothing(unknown: float | None) -> None:
    assert Plateau(3, 0.01).reason(metrics(0.7, 0.7, unknown)) is None
    assert Plateau(2, 0.01).reason(metrics(unknown, 0.7, 0.7)) is not None


def test_the_budget_stops_when_it_is_spent() -> None:
    assert Budget(20).reason([]) is None
    assert Budget(20).reason([Round(19)]) is None
    assert Budget(20).reason([Round(10), Round(20)]) == "budget: 20 of 20 labels are spent"


def test_agreement_stops_when_every_one_of_the_last_rounds_is_below_the_bound() -> None:
    history = [Round(10, None, value) for value in (0.5, 0.04, 0.02)]
    assert Agreement(0.05, 2).reason(history) is not None
    assert Agreement(0.05, 3).reason(history) is None
    assert Agreement(0.02).reason(history) is None, "the bound itself does not stop"
    assert Agreement(0.05).reason([Round(10)]) is None


def test_the_first_rule_with_a_reason_gives_it() -> None:
    history = metrics(0.7, 0.7, 0.7)
    assert should_stop(history, []) is None
    assert should_stop(history, [Budget(1000), Agreement(1.0)]) is None
    reason = should_stop(history, [Agreement(1.0), Plateau(3), Budget(30)])
    assert reason is not None
    assert reason.startswith("plateau")
    assert should_stop([], [Plateau(3), Budget(30), Agreement(1.0)]) is None


def test_bounds_that_mean_nothing_are_refused() -> None:
    for build in (
        lambda: Plateau(1),
        lambda: Plateau(3, math.nan),
        lambda: Budget(0),
        lambda: Agreement(0.0),
        lambda: Agreement(0.1, 0),
    ):
        with pytest.raises(SpecError):
            build()
