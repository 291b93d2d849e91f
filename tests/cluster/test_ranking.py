"""Rank and selection on Ray: the same bytes for any parts and ranges, whatever is ranked, excluded or budgeted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raydelt import pipeline
from raydelt.config import Combine, Order, Select
from raydelt.errors import InputError, SpecError
from raydelt.examples import RANKING_SCHEMA
from raydelt.rank import exact
from raydelt.rank.stage import rank_scores
from raydelt.select.stage import select_examples
from raydelt.storage import Manifest, Stage, Store
from tests.flow import spec, write_digits
from tests.flow import table as flow_table
from tests.language import sentences, tiny_lm, write_documents

pytestmark = pytest.mark.usefixtures("ray_session")

ROWS = 2000
CLASSES = ["a", "b", "c"]
WEIGHTS = {"weights": {"quality": 1.0}, "gate": {"component": "consistency", "at_least": 0.2}}


@dataclasses.dataclass(frozen=True)
class Scored:
    """A scored corpus made by hand, in as many parts as asked for."""

    run: Store
    corpus: Manifest
    scores: Manifest
    tokens: Manifest
    rows: dict[str, Any]


def scored(folder: Path, *, parts: int = 3, rows: int = ROWS) -> Scored:
    """Scores with many ties, ids of several kinds, documents of 0 to 9 tokens; part and row follow the layout."""
    generator = np.random.default_rng(0)
    raw = [generator.bytes(16).hex() for _ in range(rows)]
    ids = [key if i % 3 else f"doc/{key[: i % 17]}{i}" for i, key in enumerate(raw)]
    quality = (generator.integers(0, 40, rows) / 8 - 2).astype(np.float32)
    consistency = generator.random(rows).astype(np.float32)
    duplicate = (generator.random(rows) < 0.3).astype(np.float32)
    label, length = generator.integers(0, 3, rows), generator.integers(0, 10, rows)
    run, found = Store(str(folder)), {"corpus": [], "scores": [], "tokens": []}
    for index, own in enumerate(np.array_split(np.arange(rows), parts)):
        key = pa.array([ids[i] for i in own])
        columns = {"quality": quality[own], "consistency": consistency[own], "near_duplicate": duplicate[own]}
        tables = {
            "corpus": {"example_id": key, "label": pa.array(label[own], pa.int32())},
            "scores": {"example_id": key, **columns},
            "tokens": {"example_id": key, "tokens": pa.array([[1] * n for n in length[own]], pa.list_(pa.int32()))},
        }
        for stage, table in tables.items():
            found[stage].append(run.write_table(f"{stage}/{index}.parquet", pa.table(table)))
    facts = {"classes": CLASSES}
    manifests = [Manifest(stage, stage, written, {}, facts) for stage, written in found.items()]
    columns = {"quality": quality, "consistency": consistency, "near_duplicate": duplicate, "label": label}
    return Scored(run, *manifests, {"example_id": ids, "tokens": length, **columns})


def ranked(one: Scored, *, only: Select | None = None, tokens: bool = False, **combine: Any) -> Manifest:
    stage = Stage(one.run, "ranking", "f" * 32)
    tokens_of = one.tokens if tokens else None
    return rank_scores(
        Combine(**WEIGHTS | combine), one.corpus, one.scores, [], stage, seed=1, only=only, tokens=tokens_of
    )


def selected(one: Scored, ranking: Manifest, **select: Any) -> Manifest:
    stage = Stage(one.run, "selection", "e" * 32)
    return select_examples(Select(**select), Order(), ranking, CLASSES, stage, seed=1)


def table(one: Scored, manifest: Manifest) -> pa.Table:
    return pa.concat_tables([one.run.read_table(part.file) for part in manifest.parts])


def without_place(one: Scored, manifest: Manifest) -> list[list[dict[str, Any]]]:
    """The rows of every file; part and row in the corpus follow its layout and are left out."""
    return [one.run.read_table(part.file).drop(["part", "part_row"]).to_pylist() for part in manifest.parts]


def sorted_rows(one: Scored, eligible: Sequence[bool]) -> list[int]:
    """The oracle: rows in ascending order by sorting tuples."""
    rows = one.rows
    value = {x: rank for rank, x in enumerate(sorted(set(rows["quality"].tolist())))}
    keys = [
        (bool(eligible[i]), bool(rows["consistency"][i] >= np.float32(0.2)), value[float(rows["quality"][i])], key, i)
        for i, key in enumerate(rows["example_id"])
    ]
    return [key[-1] for key in sorted(keys)]


@pytest.fixture(autouse=True)
def _several_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "ROWS_PER_RANGE", 300)


def test_the_ranking_is_a_sort_of_everything(tmp_path: Path) -> None:
    one = scored(tmp_path)
    ranking = ranked(one)
    found = table(one, ranking)
    order = sorted_rows(one, [True] * ROWS)
    assert len(ranking.parts) == 7
    assert found.schema.equals(RANKING_SCHEMA)
    assert found["example_id"].to_pylist() == [one.rows["example_id"][i] for i in order]
    assert found["rank"].to_pylist() == list(range(ROWS))
    assert found["label"].to_pylist() == one.rows["label"][order].tolist()
    assert found["percentile"].to_numpy() == pytest.approx(100 * (np.arange(ROWS) + 0.5) / ROWS)
    assert ranking.facts["gated_out"] == np.count_nonzero(one.rows["consistency"] < np.float32(0.2))
    where = found.select(["part", "part_row", "example_id"]).to_pylist()
    corpus = [one.run.read_table(part.file)["example_id"].to_pylist() for part in one.corpus.parts]
    assert all(corpus[row["part"]][row["part_row"]] == row["example_id"] for row in where)


@pytest.mark.parametrize("extent", ["all", "kept"])
@pytest.mark.parametrize("parts", [2, 7])
def test_files_do_not_depend_on_the_parts(tmp_path: Path, parts: int, extent: str) -> None:
    select = {"method": "ratio", "value": 0.4, "quotas": {"share": "balanced"}}
    only = Select(**select) if extent == "kept" else None
    found = []
    for number in (1, parts):
        one = scored(tmp_path / str(number), parts=number)
        ranking = ranked(one, only=only)
        found.append((without_place(one, ranking), without_place(one, selected(one, ranking, **select))))
    assert found[0] == found[1]


def test_the_same_parts_give_the_same_bytes_whatever_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scored(tmp_path)
    first = [part.digest for part in ranked(one).parts]
    monkeypatch.setattr(exact, "TASKS_PER_CPU", 1)
    assert [part.digest for part in ranked(one).parts] == first


@pytest.mark.parametrize(
    "select",
    [
        {"method": "ratio", "value": 0.3},
        {"method": "top_k", "value": 777, "quotas": {"share": "proportional", "at_least": 20}},
        {"method": "threshold", "value": 0.7},
        {"method": "token_budget", "value": 3000},
    ],
)
def test_both_extents_select_the_same(tmp_path: Path, select: dict[str, Any]) -> None:
    one = scored(tmp_path)
    exclude = [{"component": "near_duplicate", "above": 0.5}]
    found = []
    for only in (None, Select(**select)):
        ranking = ranked(one, only=only, tokens=True, exclude=exclude)
        chosen = selected(one, ranking, **select)
        found.append((table(one, chosen).drop(["rank"]).to_pylist(), chosen.facts))
        if only is not None:
            kept = table(one, ranking)
            assert kept["percentile"].null_count == kept.num_rows == chosen.rows
            assert kept["rank"].to_pylist() == list(range(chosen.rows))
    assert found[0] == found[1]


@pytest.mark.parametrize(("bar", "value"), [("above", 0.5), ("below", 0.5)])
def test_what_is_excluded_ranks_lowest_and_is_never_kept(tmp_path: Path, bar: str, value: float) -> None:
    one = scored(tmp_path)
    duplicate = one.rows["near_duplicate"]
    eligible = duplicate <= value if bar == "above" else duplicate >= value
    ranking = ranked(one, exclude=[{"component": "near_duplicate", bar: value}])
    found, n = table(one, ranking), int(eligible.sum())
    assert found["example_id"].to_pylist() == [one.rows["example_id"][i] for i in sorted_rows(one, eligible)]
    assert ranking.facts["excluded"] == ROWS - n
    everything = selected(one, ranking, method="ratio", value=1.0)
    assert sorted(table(one, everything)["example_id"].to_pylist()) == sorted(
        key for key, ok in zip(one.rows["example_id"], eligible, strict=True) if ok
    )
    with pytest.raises(SpecError, match=rf"select\.value {n + 1} is more than the {n} examples that rank\.combine"):
        selected(one, ranking, method="top_k", value=n + 1)


def test_a_token_budget_keeps_the_longest_prefix(tmp_path: Path) -> None:
    one = scored(tmp_path)
    ranking = ranked(one, tokens=True)
    order = sorted_rows(one, [True] * ROWS)[::-1]
    total = np.cumsum(one.rows["tokens"][order])
    for budget in (50, 3001, int(total[-1]) - 1, int(total[-1]), 10**12):
        chosen = table(one, selected(one, ranking, method="token_budget", value=budget))
        expected = [one.rows["example_id"][i] for i, reached in zip(order, total, strict=True) if reached <= budget]
        assert chosen["example_id"].to_pylist() == expected[::-1]
        assert chosen["reason"][-1].as_py() == f"within {budget} tokens from the highest"


def test_budgets_that_keep_nothing_say_what_to_change(tmp_path: Path) -> None:
    one = scored(tmp_path)
    ranking = ranked(one, tokens=True, exclude=[{"component": "near_duplicate", "above": 0.5}])
    with pytest.raises(SpecError, match=r"select\.value 9: no example has a score that high: lower the threshold"):
        selected(one, ranking, method="threshold", value=9.0)
    all_out = ranked(one, exclude=[{"component": "near_duplicate", "above": -1.0}])
    with pytest.raises(SpecError, match=r"rank\.combine\.exclude and monitor\.retire leave none of the 2000 examples"):
        selected(one, all_out, method="ratio", value=0.5)
    nothing = dataclasses.replace(all_out, parts=[])
    with pytest.raises(InputError, match="no example has a score"):
        selected(one, nothing, method="ratio", value=0.5)


def test_a_first_document_longer_than_the_budget_is_refused(tmp_path: Path) -> None:
    one = scored(tmp_path)
    ranking = ranked(one, tokens=True)
    highest = next(i for i in sorted_rows(one, [True] * ROWS)[::-1])
    assert one.rows["tokens"][highest] > 1
    with pytest.raises(SpecError, match=r"select\.value 1: the highest example alone has more tokens"):
        selected(one, ranking, method="token_budget", value=1)


def test_a_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    one = scored(tmp_path, parts=1)
    [part] = one.scores.parts
    scores = one.run.read_table(part.file)
    broken = scores.set_column(1, "quality", pa.array(np.full(ROWS, np.nan, np.float32)))
    one.run.write_table(part.file, broken)
    with pytest.raises(InputError, match="scores are not finite"):
        ranked(one, normalise="raw")


def test_the_whole_flow_runs_on_a_ranking_of_kept_examples(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=400)
    exclude = [{"component": "consistency", "below": 0.3}]
    settings = {"corpus__noise": None, "train": {"recipe": {"steps": 20}, "seeds": [0], "baselines": []}}
    runs = []
    for extent in ("all", "kept"):
        combine = {"exclude": exclude, "gate": None}
        config = spec(source, tmp_path / extent, rank__combine=combine, rank__extent=extent, **settings)
        runs.append(pipeline.execute(config))
    orders = [[part.digest for part in run.manifests["ordered"].parts] for run in runs]
    assert orders[0] == orders[1]
    whole, kept = (run.manifests["report"].facts["summary"] for run in runs)
    # What was not kept is not in the shorter ranking, so its noise is not known.
    assert kept["selection"]["noise"].items() >= {"undecided_left": None, "expected_missed": None}.items()
    whole["selection"]["noise"] |= {"undecided_left": None, "expected_missed": None}
    assert whole["selection"] == kept["selection"]
    assert whole["ranked"]["classes"] == kept["ranked"]["classes"]
    assert sum(whole["ranked"]["left"]) > 0 == sum(kept["ranked"]["left"])
    page = (tmp_path / "kept" / "report" / "index.html").read_text()
    assert "that were not kept" not in page


def test_another_budget_ranks_again_only_where_the_ranking_holds_kept_examples(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    for extent, stages in (("all", ["selection"]), ("kept", ["ranking", "selection"])):
        for value in (0.5, 0.4):
            config = spec(source, tmp_path / extent, rank__extent=extent, select={"value": value})
            run = pipeline.execute(config, until="selection")
        assert [name for name, fresh in run.fresh.items() if fresh] == stages


def test_a_token_budget_counts_the_tokens_of_the_documents(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in.jsonl", sentences(60))
    config = spec(
        source,
        tmp_path / "out",
        corpus={"source": source, "text_column": "text", "test": {"fraction": 0.0}},
        model={"kind": "causal_lm", "path": tiny_lm(tmp_path / "lm"), "context": 32},
        score=[{"kind": "lm_loss"}],
        rank={"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}},
        select={"method": "token_budget", "value": 300},
    )
    pipeline.execute(config, until="selection")
    ranking = flow_table(tmp_path / "out", "ranking").to_pandas()
    corpus = flow_table(tmp_path / "out", "tokens").to_pandas().set_index("example_id")["tokens"].map(len)
    assert ranking["tokens"].tolist() == corpus.loc[ranking["example_id"]].tolist()
    from_top = ranking.iloc[::-1]
    kept = from_top["example_id"][from_top["tokens"].cumsum() <= 300].tolist()
    assert flow_table(tmp_path / "out", "selection")["example_id"].to_pylist() == kept[::-1]
