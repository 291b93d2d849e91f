"""Detection figures: scikit-learn's AUROC exactly, precision at k with ties, the right end of each component."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from raydelt.lqs.terms import columns_of
from raydelt.report.detection import (
    HIGH_IS_SUSPICIOUS,
    LOW_IS_SUSPICIOUS,
    NEITHER_IS_SUSPICIOUS,
    Separation,
    detect,
    finding,
    kept_flips,
)
from raydelt.scorers.registry import BUILT_IN, config_class
from tests.documents import ROOT
from tests.unit.test_scorer_pages import fragment_of

Rows = list[tuple[int, bool]]


def separation(values: Any, flags: Any, cuts: int = 3) -> Separation:
    state = Separation.of(values[flags])
    for piece in np.array_split(values[~flags], cuts):
        state = state.add(piece)
    return state


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=60), st.integers(1, 5))
def test_auroc_is_scikit_learns_ties_included(rows: Rows, cuts: int) -> None:
    values, flags = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    found = separation(values, flags, cuts).auroc()
    if flags.all() or not flags.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(flags, values))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60), st.data())
def test_precision_counts_ties_with_their_mean(rows: Rows, data: st.DataObject) -> None:
    values, flags = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    k = data.draw(st.integers(1, len(rows)))
    bar = np.sort(values)[::-1][k - 1]
    above, tied = values > bar, values == bar
    expected = (flags[above].sum() + (k - above.sum()) * flags[tied].mean()) / k
    assert separation(values, flags).precision_at(k) == pytest.approx(expected)


def test_precision_at_ties_by_hand() -> None:
    values, flags = np.array([9.0, 5.0, 5.0, 5.0, 1.0]), np.array([True, True, False, False, False])
    assert separation(values, flags).precision_at(2) == pytest.approx((1 + 1 / 3) / 2)


def test_low_is_suspicious_where_low_means_doubt(finished: Callable[..., Any]) -> None:
    run = finished()
    flags = run.made.flipped()
    difficulty, consistency = (finding(run.parts, name) for name in ("difficulty", "consistency"))
    assert (difficulty.suspicious, consistency.suspicious) == ("high", "low")
    assert difficulty.auroc == pytest.approx(roc_auc_score(flags, run.columns["difficulty"]))
    assert consistency.auroc == pytest.approx(roc_auc_score(flags, -run.columns["consistency"]))
    assert min(difficulty.auroc, consistency.auroc) > 0.9


def test_every_column_of_every_scorer_has_a_stated_direction() -> None:
    ends = (LOW_IS_SUSPICIOUS, HIGH_IS_SUSPICIOUS, NEITHER_IS_SUSPICIOUS)
    built = [config_class(kind).model_validate(fragment_of(kind)).build().columns for kind in BUILT_IN]
    columns = {name for own in built for name in own} | set(columns_of("lqs"))
    assert columns == frozenset.union(*ends)
    assert sum(map(len, ends)) == len(columns)


def test_the_directions_are_those_that_were_measured() -> None:
    pages = "".join(path.read_text() for path in sorted((ROOT / "docs/scorers").glob("*.md")))
    measured = {name: float(auroc) for name, auroc in re.findall(r"^\| `(\w+)` \| ([\d.]+) \[", pages, re.MULTILINE)}
    assert len(measured) > 30
    wrong = {
        name: auroc
        for name, auroc in measured.items()
        if (name in LOW_IS_SUSPICIOUS and auroc > 0.35)
        or (name in HIGH_IS_SUSPICIOUS and auroc < 0.9)
        or (name in NEITHER_IS_SUSPICIOUS and not 0.4 < auroc < 0.6)
    }
    assert wrong == {}


def test_neither_end_of_a_component_may_be_suspicious(finished: Callable[..., Any]) -> None:
    run = finished()
    found = finding(run.parts, "diversity")
    assert found.suspicious == "neither"
    assert found.auroc == pytest.approx(roc_auc_score(run.made.flipped(), run.columns["diversity"]))


@pytest.mark.parametrize("cuts", [(), (80, 160), (0, 1, 239)])
def test_flips_in_the_selection_are_counted(finished: Callable[..., Any], cuts: tuple[int, ...]) -> None:
    run = finished(cuts=cuts)
    files = [[part.file for part in run.manifests[name].parts] for name in ("corpus", "selection")]
    kept = [int(key, 16) for key in run.ranked["example_id"].to_pylist()[120:]]
    assert kept_flips(run.store, *files) == sum(run.made.flipped()[kept])


def test_nothing_to_detect_without_flips(finished: Callable[..., Any]) -> None:
    run = finished(flips=False)
    manifests = [run.manifests[name] for name in ("corpus", "scores", "selection")]
    assert detect(run.store, *manifests) is None


def test_the_main_component_is_what_was_scored(finished: Callable[..., Any]) -> None:
    for columns, main in ((None, "difficulty"), ({"diversity": np.arange(240, dtype=np.float32)}, "diversity")):
        run = finished(columns=columns)
        found = detect(run.store, *(run.manifests[name] for name in ("corpus", "scores", "selection")))
        assert found is not None
        assert found.component == main
        assert found.flipped == 24
        assert len(found.components) == len(run.components)
