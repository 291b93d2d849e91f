"""Utilities equal their formulas and closed forms, and a function of the user's own is held to what it must return."""

from __future__ import annotations

import math
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy as scipy_entropy

from raydelt.active.utilities import COMMITTEE, UTILITIES, Predictor, custom
from raydelt.errors import InputError, SpecError

SINGLE = sorted(set(UTILITIES) - COMMITTEE)
WEIGHTS = arrays(np.float64, (3, 5, 4), elements=st.floats(1e-3, 1.0))
X = np.linspace(-3.0, 3.0, 13)[:, None]


def normalised(weights: Any) -> Any:
    return weights / weights.sum(axis=-1, keepdims=True)


def logistic(x: Any) -> Any:
    one = 1 / (1 + np.exp(-(x[:, 0] - 0.6)))
    return np.stack([1 - one, one], axis=1)


ONE = Predictor(lambda x: logistic(x)[None], 1, 2)


def test_certain_even_and_split_probabilities_have_the_closed_forms() -> None:
    p = np.array([[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]])
    assert UTILITIES["entropy"](p) == pytest.approx([0.0, math.log(4), math.log(2)])
    assert UTILITIES["margin"](p) == pytest.approx([0.0, 1.0, 1.0])
    assert UTILITIES["least_confidence"](p) == pytest.approx([0.0, 0.75, 0.5])


def test_members_that_are_sure_of_different_classes_disagree_by_ln_2() -> None:
    apart = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    together = np.array([[[0.7, 0.3]], [[0.7, 0.3]]])
    for name in sorted(COMMITTEE):
        assert UTILITIES[name](apart) == pytest.approx([math.log(2)]), name
        assert UTILITIES[name](together) == pytest.approx([0.0], abs=1e-15), name


@settings(deadline=None)
@given(WEIGHTS)
def test_utilities_equal_their_formulas(weights: Any) -> None:
    p = normalised(weights)
    top = np.sort(p[0], axis=-1)
    assert UTILITIES["entropy"](p[0]) == pytest.approx(scipy_entropy(p[0], axis=-1), abs=1e-12)
    assert UTILITIES["margin"](p[0]) == pytest.approx(1 - (top[:, -1] - top[:, -2]), abs=1e-12)
    assert UTILITIES["least_confidence"](p[0]) == pytest.approx(1 - top[:, -1], abs=1e-12)
    divergence = np.mean([scipy_entropy(own, p.mean(axis=0), axis=-1) for own in p], axis=0)
    assert UTILITIES["consensus_kl"](p) == pytest.approx(divergence, abs=1e-12)


@settings(deadline=None)
@given(WEIGHTS)
def test_consensus_kl_and_bald_are_one_quantity(weights: Any) -> None:
    p = normalised(weights)
    assert UTILITIES["consensus_kl"](p) == pytest.approx(UTILITIES["bald"](p), abs=1e-12)


def test_all_measures_of_one_binary_model_rank_by_nearness_to_its_boundary() -> None:
    nearest = np.argsort(np.abs(X[:, 0] - 0.6), kind="stable")
    for name in SINGLE:
        assert np.argsort(-UTILITIES[name](logistic(X)), kind="stable").tolist() == nearest.tolist(), name


@pytest.mark.parametrize("name", sorted(UTILITIES))
@pytest.mark.parametrize("fault", ["nan", "negative", "no sum", "one class", "wrong rank"])
def test_what_is_no_probability_is_refused(name: str, fault: str) -> None:
    p = np.full((2, 3, 4), 0.25)
    p[0, 0] = {"nan": [np.nan, 0.5, 0.25, 0.25], "negative": [-0.5, 0.5, 0.5, 0.5], "no sum": [0.5] * 4}.get(
        fault, p[0, 0]
    )
    p = p[..., :1] * 4 if fault == "one class" else p
    if (name in COMMITTEE) == (fault == "wrong rank"):
        p = p[0]
    with pytest.raises(InputError, match=name):
        UTILITIES[name](p)


def test_an_empty_pool_has_no_utilities() -> None:
    for name, utility in UTILITIES.items():
        assert utility(np.empty((2, 0, 3) if name in COMMITTEE else (0, 3))).shape == (0,)


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_queries")
    monkeypatch.setitem(__import__("sys").modules, "own_queries", module)
    return module


def closest(classifier: Any, x: Any, n_instances: int = 1, sign: float = 1.0) -> Any:
    rows = np.argsort(sign * np.abs(classifier.predict_proba(x)[:, 1] - 0.5), kind="stable")[:n_instances]
    return rows, x[rows]


def test_a_modal_style_function_picks_from_a_shortlist(queries: types.ModuleType) -> None:
    queries.closest = closest  # type: ignore[attr-defined]
    model = ONE
    expected = np.argsort(np.abs(X[:, 0] - 0.6), kind="stable")
    assert custom("own_queries:closest")(model, X, 3).tolist() == expected[:3].tolist()
    assert custom("own_queries:closest", sign=-1.0)(model, X, 1).tolist() == [0]
    assert len(custom("own_queries:closest")(model, X, 99)) == len(X)
    assert custom("own_queries:closest")(model, X[:0], 3).tolist() == []
    assert model.predict(X).tolist() == (X[:, 0] > 0.6).astype(int).tolist()


def test_a_function_may_ask_the_members_of_a_committee(queries: types.ModuleType) -> None:
    committee = Predictor(lambda x: np.stack([logistic(x), logistic(x + 1), logistic(x - 1)]), 3, 2)

    def by_votes(own: Any, x: Any, n_instances: int = 1) -> Any:
        votes = own.vote(x)
        shares = np.stack([(votes == c).sum(axis=1) / len(own) for c in own.classes_], axis=1)
        assert own.vote_proba(x).argmax(axis=-1).tolist() == votes.tolist()
        assert [member.predict(x).tolist() for member in own] == votes.T.tolist()
        return np.argsort(-scipy_entropy(shares, axis=1), kind="stable")[:n_instances]

    queries.by_votes = by_votes  # type: ignore[attr-defined]
    expected = np.argsort(-UTILITIES["vote_entropy"](committee.probabilities(X)), kind="stable")
    assert custom("own_queries:by_votes")(committee, X, 4).tolist() == expected[:4].tolist()


def test_a_function_that_fails_is_told_in_one_sentence(queries: types.ModuleType) -> None:
    queries.two = lambda classifier, x: [0]  # type: ignore[attr-defined]
    queries.ragged = lambda classifier, x, n_instances: [[0], [1, 2]]  # type: ignore[attr-defined]
    queries.zero = lambda classifier, x, n_instances: 1 / 0  # type: ignore[attr-defined]
    for name, fault in (("two", "n_instances"), ("ragged", "ValueError"), ("zero", "ZeroDivisionError")):
        with pytest.raises(SpecError, match=rf"own_queries:{name}' failed .*{fault}"):
            custom(f"own_queries:{name}")(ONE, X, 2)


@pytest.mark.parametrize("found", [(3, "instance"), 3, [3], (3,), np.array([3]), (np.array([3]), X[[3]])])
def test_row_numbers_are_read_from_every_usual_form(queries: types.ModuleType, found: Any) -> None:
    queries.query = lambda classifier, x, n_instances: found  # type: ignore[attr-defined]
    assert custom("own_queries:query")(ONE, X, 1).tolist() == [3]


@pytest.mark.parametrize(
    ("found", "fault"),
    [([1, 1], "twice"), ([1, 13], "row 13"), ([-1, 2], "row -1"), ([1], "1 rows"), ([0.5, 1.5], "float64")],
)
def test_a_function_that_returns_other_rows_is_refused(queries: types.ModuleType, found: Any, fault: str) -> None:
    queries.query = lambda classifier, x, n_instances: np.array(found)  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match=fault):
        custom("own_queries:query")(ONE, X, 2)


@pytest.mark.parametrize("target", ["nothing", "no_such_module:query", "math:no_such_name", "math:pi", ":x"])
def test_a_function_that_cannot_be_loaded_is_refused(target: str) -> None:
    with pytest.raises(SpecError, match=target):
        custom(target)
