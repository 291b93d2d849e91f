"""Training dynamics equal tables worked out by hand, and depend on nothing but an example's own ledger."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from raydelt.scorers.dynamics import (
    LEDGER_MARGIN,
    LEDGER_P,
    Dynamics,
    DynamicsConfig,
    dynamics,
    forgetting,
    ledger_of,
    margin_and_p,
)
from raydelt.scorers.protocol import ScoringContext

RNG = np.random.default_rng(0)


def batch_of(margins: np.ndarray, p: np.ndarray) -> pa.RecordBatch:
    """A batch with the ledger columns of margins and probabilities [M, B, E], as the ledger stage writes them."""
    columns = {}
    for name, values in ((LEDGER_MARGIN, margins), (LEDGER_P, p)):
        models, size, epochs = values.shape
        flat = np.concatenate([np.asarray(values[m], np.float32) for m in range(models)], axis=1).reshape(-1)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), models * epochs)
        assert len(columns[name]) == size
    return pa.record_batch(columns)


def scorer_of(models: int) -> Dynamics:
    scorer = DynamicsConfig().build()
    scorer.setup(ScoringContext(0, 3, (4,), np.zeros(4), np.ones(4), ledger_models=models))
    return scorer


def random_ledger(models: int, size: int, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    margins = RNG.normal(size=(models, size, epochs)).astype(np.float32)
    return margins, RNG.uniform(size=margins.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ([1, 0, 1, 0], 2),
        ([0, 1, 0, 1], 1),
        ([0, 0, 1, 1], 0),
        ([1, 1, 1, 1], 0),
        ([1, 1, 0, 0], 1),
        ([0, 0, 0, 0], 4),
        ([1], 0),
        ([0], 1),
    ],
)
def test_forgetting_counts_right_to_wrong_and_never_learned_counts_every_epoch(
    right: list[int], expected: int
) -> None:
    assert forgetting(np.array(right, bool)) == expected
    margins = np.where(np.array(right), 1.5, -0.5)[None, None]
    assert dynamics(margins, np.full(margins.shape, 0.5))["forgetting"].tolist() == [[expected]]


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_forgetting_equals_the_count_one_by_one_and_never_learned_is_above_it(right: list[bool]) -> None:
    transitions = sum(before and not after for before, after in itertools.pairwise(right))
    found = forgetting(np.array(right))
    assert found == (transitions if any(right) else len(right))
    if any(right):
        assert found < len(right)


def test_a_margin_of_zero_is_not_right() -> None:
    found = dynamics(np.array([[[0.0, 0.0, 1.0]]]), np.full((1, 1, 3), 0.5))
    assert found["correctness"][0, 0] == pytest.approx(1 / 3)
    assert found["forgetting"][0, 0] == 0


def test_constant_logits_have_their_margin_as_aum_and_no_variability() -> None:
    logits = np.array([[2.0, -1.0, 0.5]] * 2)
    margin, p = margin_and_p(logits, np.array([0, 2]))
    assert margin.tolist() == [1.5, -1.5]
    epochs = [np.repeat(values[None, :, None], 5, axis=2) for values in (margin, p)]
    found = dynamics(epochs[0].astype(float), epochs[1].astype(float))
    assert found["aum"].tolist() == [[1.5, -1.5]]
    np.testing.assert_allclose(found["confidence"], softmax(logits, axis=1)[[0, 1], [0, 2]][None], rtol=1e-7)
    np.testing.assert_allclose(found["variability"], 0.0, atol=1e-15)
    assert found["correctness"].tolist() == [[1.0, 0.0]]
    assert found["forgetting"].tolist() == [[0.0, 5.0]]


def test_two_epochs_have_half_their_difference_as_variability() -> None:
    p = RNG.uniform(size=(3, 20, 2))
    found = dynamics(np.ones(p.shape), p)
    np.testing.assert_allclose(found["variability"], np.abs(p[:, :, 0] - p[:, :, 1]) / 2, rtol=1e-12)
    np.testing.assert_allclose(found["confidence"], (p[:, :, 0] + p[:, :, 1]) / 2, rtol=1e-12)


def test_margins_and_probabilities_equal_scipy_and_tell_whether_the_prediction_is_right() -> None:
    logits = (RNG.normal(size=(200, 7)) * 5).astype(np.float32)
    labels = RNG.integers(0, 7, 200)
    margin, p = margin_and_p(logits, labels)
    assert margin.dtype == p.dtype == np.float32
    expected = [z[y] - max(np.delete(z, y)) for z, y in zip(logits.astype(float), labels, strict=True)]
    np.testing.assert_allclose(margin, expected, rtol=1e-6)
    np.testing.assert_allclose(p, softmax(logits.astype(float), axis=1)[np.arange(200), labels], rtol=1e-6)
    assert ((margin > 0) == (logits.argmax(axis=1) == labels)).all()


def test_extreme_logits_stay_finite() -> None:
    margin, p = margin_and_p(np.array([[1e30, -1e30, 0.0]] * 3, np.float32), np.arange(3))
    assert np.isfinite(margin).all()
    assert p.tolist() == [1.0, 0.0, 0.0]


def test_models_give_mean_and_standard_error() -> None:
    margins, p = random_ledger(4, 10, 6)
    found = scorer_of(4).score(batch_of(margins, p))
    components = dynamics(margins.astype(float), p.astype(float))
    assert tuple(components) == Dynamics().columns
    assert set(found) == {name for column in components for name in (column, f"{column}_se")}
    for name, values in components.items():
        np.testing.assert_allclose(found[name], values.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found[f"{name}_se"], values.std(axis=0, ddof=1) / 2, rtol=1e-12, atol=1e-12)


def test_one_model_has_no_standard_error() -> None:
    assert set(scorer_of(1).score(batch_of(*random_ledger(1, 5, 3)))) == set(Dynamics().columns)


def test_lists_divide_into_models_and_epochs_and_nothing_else() -> None:
    margins, p = random_ledger(3, 5, 4)
    batch = batch_of(margins, p)
    np.testing.assert_array_equal(ledger_of(batch, LEDGER_MARGIN, 3), margins)
    np.testing.assert_array_equal(ledger_of(batch.slice(2, 2), LEDGER_P, 3), p[:, 2:4])
    assert ledger_of(batch.slice(0, 0), LEDGER_P, 3).shape == (3, 0, 4)
    with pytest.raises(ValueError, match="reshape"):
        ledger_of(batch, LEDGER_MARGIN, 5)


def test_scores_do_not_depend_on_the_batch() -> None:
    margins, p = random_ledger(3, 50, 7)
    scorer, batch = scorer_of(3), batch_of(margins, p)
    whole = scorer.score(batch)
    for cuts in ([1] * 50, [13, 37], [49, 1]):
        starts = np.concatenate([[0], np.cumsum(cuts)[:-1]])
        parts = [scorer.score(batch.slice(int(start), size)) for start, size in zip(starts, cuts, strict=True)]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_scores_follow_their_rows_and_forget_the_order_of_the_models() -> None:
    margins, p = random_ledger(3, 40, 6)
    scorer = scorer_of(3)
    found = scorer.score(batch_of(margins, p))
    rows = RNG.permutation(40)
    for name, values in scorer.score(batch_of(margins[:, rows], p[:, rows])).items():
        np.testing.assert_array_equal(values, found[name][rows])
    for name, values in scorer.score(batch_of(margins[[2, 0, 1]], p[[2, 0, 1]])).items():
        np.testing.assert_allclose(values, found[name], rtol=1e-12, atol=1e-14)


def test_a_margin_that_is_not_finite_gives_a_score_that_is_not() -> None:
    margins, p = random_ledger(2, 4, 3)
    margins[1, 2, 0] = np.nan
    found = scorer_of(2).score(batch_of(margins, p))
    assert np.isnan(found["aum"]).tolist() == [False, False, True, False]
