"""Fits: exact recovery of known laws, exact derivatives, cautions at bounds, and published runs held out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raydelt.errors import InputError, SpecError
from raydelt.plan.constrained import fit_constrained
from raydelt.plan.design import Options, prepare
from raydelt.plan.fit import fit
from raydelt.plan.laws import Curves
from raydelt.plan.points import Points, from_columns
from tests.unit.plan.buckets import drawn_curves, measure, published

FORMS = [("utility", False), ("utility", True), ("effective_data", False)]
# Error rates of the published laws are above 1 before 1.5 epochs of a bucket.
LATE = (1.5, 1.9, 2, 4, 6, 8, 10)
REFERENCE = Path(os.environ.get("RAYDELT_REFERENCE", Path(__file__).parents[4] / "shared" / "reference"))


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """182 published runs of language models on C4, with their epochs."""
    path = REFERENCE / "datablations_c4_losses.csv"
    if not path.exists():
        pytest.skip(f"{path} is absent: set RAYDELT_REFERENCE to the folder that holds it")
    table = pd.read_csv(path)
    return table.assign(epochs=table.tokens_total / table.tokens_unique)


def same(found: Curves, true: Curves, tolerance: float) -> None:
    for name in ("b", "tau", "pivot", "scale", "floor"):
        np.testing.assert_allclose(getattr(found, name), getattr(true, name), rtol=tolerance, err_msg=name)


@pytest.mark.parametrize(("law", "inside"), FORMS)
def test_published_error_laws_are_recovered(law: str, inside: bool) -> None:
    true = published("U", law=law, d_inside=inside)
    points = measure(true, fractions=LATE, metric="error")
    same(fit(points, Options(law=law, d_inside=inside)).curves, true, 1e-6)


@pytest.mark.parametrize(("law", "inside"), FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_random_loss_laws_are_recovered(law: str, inside: bool, seed: int) -> None:
    base = drawn_curves(np.random.default_rng(seed), 5)
    size = base.size * [1, 2, 1, 3, 1]
    true = Curves(base.b, base.tau, size, base.pivot, base.scale, base.floor, law=law, d_inside=inside)
    found = fit(measure(true), Options(law=law, d_inside=inside))
    same(found.curves, true, 1e-6)
    assert found.rmse < 1e-10


def test_half_lives_of_pools_of_several_sizes_are_recovered() -> None:
    true = Curves(np.array([-0.2]), np.array([5.0]), np.array([4000.0]), 900.0, 2.0, 1.0, gamma=0.5)
    rows = [(n, u) for u in (1000.0, 2000.0, 4000.0) for n in (500.0, 2000.0, 8000.0, 16000.0)]
    losses = [float(true.loss(n, [0], [u])) for n, u in rows]
    points = from_columns(
        {"bucket": ["a"] * 12, "seen": [n for n, _ in rows], "unique": [u for _, u in rows], "loss": losses}
    )
    found = fit(points, Options(gamma=0.5, pivot=900.0)).curves
    same(found, true, 1e-6)


def test_one_bucket_of_losses_keeps_the_pivot_amid_the_data() -> None:
    true = Curves(np.array([-0.2]), np.array([5.0]), np.array([1e4]), 900.0, 2.0, 1.0)
    found = fit(measure(true)).curves
    n = np.geomspace(1e3, 1e6, 20)
    assert 5e3 < found.pivot < 8e4
    np.testing.assert_allclose(found.loss(n, [0]), true.loss(n, [0]), rtol=1e-7)


@pytest.mark.parametrize("metric", ["loss", "error"])
@pytest.mark.parametrize(("law", "inside"), FORMS)
def test_derivatives_are_those_of_finite_differences(metric: str, law: str, inside: bool) -> None:
    points = measure(published("D", law=law, d_inside=inside), fractions=LATE, metric=metric)
    options = Options(law=law, d_inside=inside)
    design, theta = prepare(points, options), fit(points, options).theta * 1.01
    _, exact = design.predict(theta)
    step = 1e-6
    sides = [
        (design.predict(theta + step * one)[0], design.predict(theta - step * one)[0]) for one in np.eye(len(theta))
    ]
    rough = np.array([(up - down) / (2 * step) for up, down in sides]).T
    np.testing.assert_allclose(exact, rough, atol=1e-7)


def test_the_prediction_of_the_design_is_the_law() -> None:
    true = drawn_curves(np.random.default_rng(5))
    found = fit(measure(true, np.random.default_rng(5), point=0.01, seeds=2))
    design = prepare(found.points, found.options)
    expected = [float(found.curves.loss(n, [i])) for n, i in zip(found.points.seen, found.points.bucket, strict=True)]
    np.testing.assert_allclose(np.exp(design.predict(found.theta)[0]), expected, rtol=1e-12)
    np.testing.assert_allclose(design.reduce(design.expand(found.theta)), found.theta, rtol=1e-12)


def test_an_outlier_moves_a_robust_fit_less() -> None:
    rng = np.random.default_rng(2)
    true = drawn_curves(rng)
    points = measure(true, rng, point=0.002, seeds=2)
    loss = points.loss.copy()
    loss[10] *= 1.3
    spoilt = Points(points.names, points.bucket, points.seen, points.unique, loss, points.seed)
    n = np.array([4e5, 8e5])
    errors = [
        np.abs(fit(spoilt, Options(robust=robust)).curves.loss(n, [0]) / true.loss(n, [0]) - 1).max()
        for robust in (True, False)
    ]
    assert errors[0] < errors[1] / 3


def test_parameters_at_their_bounds_are_told() -> None:
    true = Curves(np.array([-0.2, -0.1]), np.array([1e9, 5.0]), np.full(2, 1e4), 900.0, 2.0, 0.0)
    sentences = [caution.sentence for caution in fit(measure(true)).cautions if caution.code == "at_bound"]
    assert any("half-life of bucket 'bucket 0' is at its upper bound" in sentence for sentence in sentences)
    assert any("floor d is at its lower bound" in sentence for sentence in sentences)


def test_the_same_points_give_the_same_fit() -> None:
    points = measure(drawn_curves(np.random.default_rng(1)), np.random.default_rng(1), point=0.01)
    np.testing.assert_array_equal(fit(points).theta, fit(points).theta)


def test_a_fit_takes_a_tenth_of_a_second() -> None:
    points = measure(drawn_curves(np.random.default_rng(1)), np.random.default_rng(1), point=0.003, seeds=3)
    taken = []
    for _ in range(5):
        start = time.process_time()
        fit(points)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "magic"}, "law 'magic'"),
        ({"law": "effective_data", "d_inside": True}, "d_inside"),
        ({"starts": 0}, "0 starts"),
        ({"pivot": -1.0}, "above 0"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Options(**options)


def test_a_floor_above_the_data_is_refused() -> None:
    points = measure(drawn_curves(np.random.default_rng(1)))
    with pytest.raises(SpecError, match="floor 99"):
        fit(points, Options(floor=99.0))


def test_as_many_parameters_as_points_are_told() -> None:
    points = from_columns(
        {"bucket": ["a"] * 4, "seen": [1, 2, 3, 4], "unique": [2] * 4, "error": [0.9, 0.8, 0.7, 0.65]}
    )
    found = fit(points)
    assert len(found.theta) == 4
    assert "few_points" in [caution.code for caution in found.cautions]


def held_out(runs: pd.DataFrame, *, epochs: float, repetition: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """The runs above the median of tokens, and their losses predicted from those below."""
    within = runs[runs.epochs <= epochs]
    small = within.tokens_total <= within.tokens_total.median()
    columns = ["params", "tokens_total", "tokens_unique"]
    law = fit_constrained(*within.loc[small, columns].T.to_numpy(), within.val_loss[small], repetition=repetition)
    return within[~small], law.loss(*within.loc[~small, columns].T.to_numpy())


def test_held_out_larger_runs_are_predicted_better_with_repetition(runs: pd.DataFrame) -> None:
    """88 runs above 20G tokens from 94 below: mean error 0.193 nats with the terms of repetition, 0.252 without.

    Within 60 epochs (63 runs from 66) the level is predicted no better with them, 0.114 against 0.097.
    """
    error = {}
    for repetition in (True, False):
        large, predicted = held_out(runs, epochs=np.inf, repetition=repetition)
        error[repetition] = float(np.abs(predicted - large.val_loss).mean())
    assert error[True] < 0.2 < 0.24 < error[False]


@pytest.mark.parametrize(("epochs", "most"), [(16, 0.95), (60, 0.8), (np.inf, 0.75)])
def test_the_cost_of_repetition_in_held_out_runs_is_predicted(runs: pd.DataFrame, epochs: float, most: float) -> None:
    """Loss above that of the least repeated run of the same size and tokens; without the terms it is predicted 0."""
    large, predicted = held_out(runs, epochs=epochs, repetition=True)
    with_terms, without = [], []
    for _, group in large.assign(predicted=predicted).groupby(["params", "tokens_total"]):
        ordered = group.sort_values("tokens_unique")
        cost = (ordered.val_loss - ordered.val_loss.iloc[-1]).to_numpy()[:-1]
        with_terms += list(np.abs(cost - (ordered.predicted - ordered.predicted.iloc[-1]).to_numpy()[:-1]))
        without += list(np.abs(cost))
    assert len(without) >= 25
    assert np.mean(with_terms) < most * np.mean(without)


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(InputError, match="7 runs"):
        fit_constrained(*np.ones((4, 7)))
