"""Two sets are told apart as far as they differ: closed forms, null p-values, shapes that no line separates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from raydelt.active.adversarial import Comparison, adversarial_validation, auc_of, verdict_of
from raydelt.active.permutation import permutation_p_value
from raydelt.active.two_sets import Settings
from raydelt.errors import InputError, SpecError
from raydelt.examples import UInt64Array, draw_keys
from raydelt.scorers.protocol import Array

SMALL = Settings(permutations=99, bootstraps=200, frequencies=64, permutation_rows=600)


def keys(side: str, n: int) -> UInt64Array:
    return draw_keys([f"{side} {i}" for i in range(n)])


def compared(a: Array, b: Array, *, seed: int = 1, settings: Settings = SMALL) -> Comparison:
    return adversarial_validation(a, b, keys("a", len(a)), keys("b", len(b)), seed=seed, settings=settings)


def test_two_gaussians_have_the_auc_of_their_distance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1000, 2)), rng.normal(size=(1200, 2))
    b[:, 1] += 1.0
    found = compared(a, b)
    assert found.low <= norm.cdf(1 / math.sqrt(2)) <= found.high
    assert found.p_value == 0.01
    assert found.features[0][0] == "feature 1"
    assert found.verdict in ("warn", "alarm")
    truth = a[:, 1] - 0.5
    assert np.corrcoef(np.log(found.ratio), truth)[0, 1] > 0.85
    assert np.abs(np.log(found.ratio) - truth).mean() < 0.4
    assert found.ratio.mean() == pytest.approx(1.0, abs=0.1)
    assert found.ess == pytest.approx(found.ratio.sum() ** 2 / np.square(found.ratio).sum())
    assert found.ess < 600


def test_one_distribution_is_ok_and_its_ratio_is_flat() -> None:
    rng = np.random.default_rng(3)
    found = compared(rng.normal(size=(400, 3)), rng.normal(size=(600, 3)))
    assert found.verdict == "ok"
    assert found.low <= 0.5 <= found.high
    assert found.p_value > 0.05
    assert found.ess > 0.95 * 400


def test_p_values_of_one_distribution_are_uniform() -> None:
    rng = np.random.default_rng(4)
    settings = replace(SMALL, frequencies=16)
    found = [
        permutation_p_value(*rng.normal(size=(2, 40, 2)), keys("a", 40), keys("b", 40), seed=i, settings=settings)
        for i in range(200)
    ]
    assert kstest(found, "uniform").pvalue > 1e-3
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / 200)


def same_moments(kind: str) -> tuple[Array, Array]:
    """Two sets of equal means and variances: the second with another correlation, or another parity of signs."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 600, 2))
    if kind == "correlation":
        b[:, 1] = 0.8 * b[:, 0] + 0.6 * b[:, 1]
    else:
        b[:, 1] = np.abs(b[:, 1]) * np.sign(b[:, 0])
    return a, b


@pytest.mark.parametrize("kind", ["correlation", "parity"])
def test_a_difference_in_shape_alone_is_found_where_a_line_finds_none(kind: str) -> None:
    a, b = same_moments(kind)
    x, y = np.concatenate([a, b]), np.repeat([0, 1], 600)
    linear = cross_val_predict(LogisticRegression(), x, y, method="decision_function")
    assert abs(roc_auc_score(y, linear) - 0.5) < 0.06
    found = compared(a, b)
    assert found.auc > 0.65
    assert found.p_value == 0.01
    assert found.verdict != "ok"


def test_any_order_of_the_sets_gives_the_same_numbers() -> None:
    a, b = same_moments("correlation")
    a, b = a[:150], b[:120]
    groups_a, groups_b = keys("a", 150), keys("b", 120)
    groups_a[3] = groups_a[2]
    one = adversarial_validation(a, b, groups_a, groups_b, seed=2, settings=SMALL)
    order_a, order_b = np.random.default_rng(1).permutation(150), np.random.default_rng(2).permutation(120)
    other = adversarial_validation(
        a[order_a], b[order_b], groups_a[order_a], groups_b[order_b], seed=2, settings=SMALL
    )
    assert (one.auc, one.low, one.high, one.p_value) == (other.auc, other.low, other.high, other.p_value)
    assert one.features == other.features
    assert np.array_equal(one.ratio[order_a], other.ratio)
    assert compared(a, b, seed=3).auc != one.auc


def test_copies_in_both_sets_do_not_leak_through_the_folds() -> None:
    x = np.random.default_rng(6).normal(size=(300, 3))
    same = keys("both", 300)
    found = adversarial_validation(x, x.copy(), same, same.copy(), seed=0, settings=SMALL)
    assert found.verdict == "ok"
    assert found.auc == 0.5


def test_many_copies_of_few_examples_do_not_pass_for_many_examples() -> None:
    rng = np.random.default_rng(7)
    settings = replace(SMALL, permutation_rows=4000)
    found = []
    for seed in range(20):
        a, b = np.repeat(rng.normal(size=(2, 30, 2)), 10, axis=1)
        own = [np.repeat(keys(side, 30), 10) for side in "ab"]
        found.append(permutation_p_value(a, b, *own, seed=seed, settings=settings))
    assert np.mean(np.array(found) <= 0.05) <= 0.2


def test_constant_features_tell_nothing_apart() -> None:
    found = compared(np.ones((40, 3)), np.ones((60, 3)))
    assert (found.auc, found.low, found.high, found.p_value, found.verdict) == (0.5, 0.5, 0.5, 1.0, "ok")
    assert found.ratio.tolist() == pytest.approx([1.0] * 40)
    assert found.features == []


def test_sets_that_do_not_overlap_alarm_and_the_ratio_is_clipped() -> None:
    rng = np.random.default_rng(8)
    found = compared(rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 50)
    assert found.verdict == "alarm"
    assert found.auc == 1.0
    assert found.ratio.tolist() == pytest.approx([1 / SMALL.clip] * 100)


def test_rows_beyond_the_sample_have_a_ratio_too() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + 1
    found = compared(a, b, settings=replace(SMALL, rows=100, top=1))
    assert len(found.ratio) == 500
    assert np.isfinite(found.ratio).all()
    assert np.corrcoef(np.log(found.ratio), a.sum(axis=1))[0, 1] > 0.6
    assert len(found.features) == 1


def test_the_auc_is_that_of_pairs_within_a_fold_with_ties_half() -> None:
    rng = np.random.default_rng(10)
    scores, y, fold = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.4, rng.integers(0, 3, 80)
    weights = rng.integers(0, 3, 80).astype(float)
    above = pairs = 0.0
    for i in range(80):
        for j in range(80):
            if y[i] and not y[j] and fold[i] == fold[j]:
                pairs += weights[i] * weights[j]
                above += weights[i] * weights[j] * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    assert auc_of(scores, y, fold, weights) == pytest.approx(above / pairs)
    assert auc_of(scores, y, np.zeros(80)) == pytest.approx(roc_auc_score(y, scores))
    assert auc_of(scores, np.zeros(80, bool), fold) == 0.5


@pytest.mark.parametrize(
    ("auc", "low", "verdict"),
    [(0.9, 0.49, "ok"), (0.55, 0.52, "ok"), (0.6, 0.58, "ok"), (0.61, 0.55, "warn"), (0.76, 0.7, "alarm")],
)
def test_the_verdict_is_that_of_the_bounds(auc: float, low: float, verdict: str) -> None:
    assert verdict_of(auc, low, Settings()) == verdict


def test_sets_that_cannot_be_compared_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    bad = x.copy()
    bad[3, 0] = np.nan
    for match, a, b in (
        ("0 rows", x[:0], x),
        ("9 rows", x, x[:9]),
        ("widths 2 and 1", x, x[:, :1]),
        ("not finite", x, bad),
        ("shape", x[:, 0], x),
    ):
        with pytest.raises(InputError, match=match):
            compared(a, b)
    with pytest.raises(InputError, match="20 keys"):
        adversarial_validation(x[:12], x, keys("a", 20), keys("b", 20), seed=0)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"level": 1.0}, {"warn": 0.8}, {"clip": 1.0}, {"bootstraps": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="adversarial"):
        Settings(**wrong)  # type: ignore[arg-type]
