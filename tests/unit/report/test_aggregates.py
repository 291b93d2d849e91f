"""What parts are reduced to equals numpy's figures on the concatenated data, however the data are cut into parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from raydelt.config import Gate
from raydelt.report import ranked, statistics
from raydelt.report.quarantine import kind_of, quarantined
from raydelt.report.suspects import suspects

CUTS: list[tuple[int, ...]] = [(), (80, 160), (1, 2, 3, 239), (0, 120, 120)]


@pytest.mark.parametrize("cuts", CUTS)
def test_histograms_do_not_depend_on_the_parts(finished: Callable[..., Any], cuts: tuple[int, ...]) -> None:
    run = finished(cuts=cuts)
    found = statistics.distributions(run.parts, run.components, flips=True)
    flipped = run.made.flipped()
    for name in run.components:
        values = run.columns[name].astype(np.float64)
        low, high = values.min(), values.max()
        for key, mask in (("clean", ~flipped), ("flipped", flipped)):
            expected, edges = np.histogram(values[mask], bins=statistics.BINS, range=(low, high))
            assert found[name][key] == expected.tolist()
            np.testing.assert_allclose(found[name]["edges"], edges)
        assert sum(found[name]["clean"]) + sum(found[name]["flipped"]) == run.made.rows


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (1e30, 1e30), (-3.4e38, 3.4e38), (5.0, 5.0 + 1e-12)])
def test_bins_cover_any_range(low: float, high: float) -> None:
    edges = statistics.bin_edges([(low, high), statistics.range_of(np.empty(0))])
    assert np.all(np.diff(edges) > 0)
    assert edges[0] <= low <= high <= edges[-1]


def test_examples_whose_score_went_to_quarantine_are_left_out(finished: Callable[..., Any]) -> None:
    run = finished()
    scored = np.flatnonzero(np.arange(80, 160) % 7 != 0)
    file = run.parts.scores[1]
    run.store.write_table(file, run.store.read_table(file).take(scored))
    assert run.parts.examples_of(1, ["row"])["row"].to_pylist() == (80 + scored).tolist()
    assert run.parts.flipped(1).tolist() == run.made.flipped()[80 + scored].tolist()
    found = statistics.distributions(run.parts, run.components, flips=True)["difficulty"]
    assert sum(found["clean"]) + sum(found["flipped"]) == 160 + len(scored)


def test_correlations_are_spearmans_on_the_first_examples(finished: Callable[..., Any]) -> None:
    run = finished()
    found = statistics.correlations_of(run.parts, run.components, 0.25, limit=100)
    assert found["rows"] == 100
    top = {name: set(np.argsort(-run.columns[name][:100])[:25]) for name in run.components[:2]}
    one, other = top.values()
    assert found["overlap"][0][1] == pytest.approx(len(one & other) / len(one | other), abs=1e-4)
    assert all(0 <= r <= 1 for r in found["redundancy"])
    expected = spearmanr(np.stack([run.columns[name][:100] for name in run.components], axis=1)).statistic
    np.testing.assert_allclose(np.array(found["matrix"]), expected, atol=1e-4)


def test_a_constant_component_has_no_correlation(finished: Callable[..., Any]) -> None:
    run = finished(columns={"a": np.arange(240, dtype=np.float32), "b": np.zeros(240, np.float32)}, flips=False)
    assert statistics.correlations_of(run.parts, ["a", "b"], 0.5)["matrix"] == [[1.0, None], [None, None]]


def test_the_ranking_is_described_exactly(finished: Callable[..., Any]) -> None:
    run = finished()
    selection = run.manifests["selection"]
    found = ranked.describe(run.store, run.manifests["ranking"], selection, 3)
    score, gate = run.ranked["score"].to_numpy(), run.ranked["gate"].to_numpy()
    kept = np.arange(240) >= 120
    edges = np.array(found["edges"])
    for name, mask in {"kept": kept, "left": ~kept & gate, "gated": ~kept & ~gate}.items():
        assert found[name] == np.histogram(score[mask], edges)[0].tolist()
    near = gate & (np.abs(score - found["cut"]) <= 0.03)
    assert found["noise"]["kept"] == np.count_nonzero(near & kept)
    assert found["noise"]["left"] == np.count_nonzero(near & ~kept)
    assert found["noise"]["share"] == pytest.approx(np.count_nonzero(near & kept) / 120)
    assert found["noise"]["width"] == pytest.approx(0.03)
    labels = run.ranked["label"].to_numpy()
    assert found["classes"]["corpus"] == np.bincount(labels).tolist()
    assert found["classes"]["selected"] == np.bincount(labels[kept]).tolist()


def test_the_order_is_binned_by_position(finished: Callable[..., Any]) -> None:
    run = finished()
    found = ranked.describe(run.store, run.manifests["ranking"], run.manifests["selection"], 3)["order"]
    position = np.random.default_rng(5).permutation(120)
    by_position = np.empty(120)
    by_position[position] = run.ranked["score"].to_numpy()[120:]
    bins = np.array_split(by_position, ranked.POSITION_BINS)
    np.testing.assert_allclose(found["mean"], [own.mean() for own in bins])
    np.testing.assert_allclose(found["spread"], [own.std() for own in bins], atol=1e-7)
    assert found["starts"] == list(range(0, 121, 2))


@pytest.mark.parametrize("kept", [1, 7, 59, 60, 61, 1000])
def test_position_bins_cover_every_position_once(kept: int) -> None:
    view = ranked.View(np.array([0.0, 1.0]), None, kept, 0)
    counted = ranked._order(np.zeros(kept), np.arange(kept), view)["order_count"]
    names = ("kept", "left", "gated", "near", "known", "se_sum", "classes_corpus", "classes_selected")
    rest = dict.fromkeys(names, np.zeros(1))
    order = ranked.summed([ranked._order(np.zeros(kept), np.arange(kept), view) | rest], view, None)["order"]
    assert np.diff(order["starts"]).tolist() == counted.tolist()
    assert counted.min() > 0


@pytest.mark.parametrize("cuts", CUTS)
def test_suspects_are_the_most_difficult_that_fail_the_gate(
    finished: Callable[..., Any], cuts: tuple[int, ...]
) -> None:
    run = finished(cuts=cuts)
    found = suspects(run.parts, run.components, Gate(), run.made.classes, truth=True)
    difficulty, failing = run.columns["difficulty"], run.columns["consistency"] < 0.5
    order = [i for i in np.lexsort((np.arange(240), -difficulty)) if failing[i]][:20]
    assert [row["example_id"] for row in found] == [f"{i:032x}" for i in order]
    assert [row["row"] for row in found] == order
    first = order[0]
    assert found[0]["label_clean"] == run.made.classes[first % 3]
    assert found[0]["difficulty_se"] == pytest.approx(float(run.columns["difficulty_se"][first]))
    hidden = suspects(run.parts, run.components, None, run.made.classes, truth=False)
    assert len(hidden) == 20
    assert all("label_clean" not in row for row in hidden)


def test_quarantine_is_grouped_by_reason_and_listed_in_order(finished: Callable[..., Any]) -> None:
    bad: list[tuple[str, int | None, str]] = [("b.csv", i, f"label '{i}' is unknown") for i in range(30)]
    bad += [("a.csv", 0, "3 features instead of 4"), ("a.csv", None, "not a CSV file")]
    run = finished(bad=bad)
    files = [part.file for part in run.manifests["corpus"].sides["quarantine"]]
    found = quarantined(run.store, files)
    assert found["total"] == 32
    assert found["reasons"][0] == {"reason": "label … is unknown", "count": 30}
    assert [(e["source_file"], e["row"]) for e in found["first"]][:3] == [("a.csv", None), ("a.csv", 0), ("b.csv", 0)]
    assert len(found["first"]) == 20
    assert quarantined(run.store, []) == {"total": 0, "reasons": [], "first": []}


def test_reasons_lose_their_values() -> None:
    assert kind_of("score not finite: loss = nan") == "score not finite: loss = nan"
    assert kind_of("key 'a' of row 12 is \"b\" at 1.5e-3") == "key … of row … is … at …"
