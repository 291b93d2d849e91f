"""A question about one example reads the row groups that can hold it, and other columns than its id only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.ask import files, past
from raydelt.ask.lookup import resting_row
from raydelt.ask.ranked import cut_scores
from raydelt.ask.run import Run
from raydelt.monitor import history
from raydelt.select import resting
from raydelt.storage import Stage
from tests.asked import CLASSES, Asked, Made

Reads = list[tuple[str, tuple[int, ...] | None, tuple[str, ...] | None]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """File, row groups and columns of every read of `raydelt.ask.files`."""
    found: Reads = []
    real = files.of_groups

    def noted(store: Any, part: Any, parquet: Any, columns: Any = None, groups: Any = None) -> pa.Table:
        found.append(
            (part.file, None if groups is None else tuple(groups), None if columns is None else tuple(columns))
        )
        return real(store, part, parquet, columns, groups)

    monkeypatch.setattr(files, "of_groups", noted)
    return found


def test_who_rests_is_found_by_the_statistics_of_ids(tmp_path: Path, reads: Reads) -> None:
    made = Asked(rows=100).make(tmp_path / "run")
    ids = [f"id-{row:04d}" for row in range(900)]
    n = len(ids)
    rows = [ids, ["cat"] * n, [3] * n, ["low"] * n, [0.0 if row % 2 else 2.0 for row in range(n)]]
    stage = Stage(made.store, resting.STAGE, "r" * 32)
    name = stage.file("part", 0)
    Path(made.store.path(name)).parent.mkdir()
    pq.write_table(pa.table(rows, schema=resting.RESTING), made.store.path(name), row_group_size=100)
    stage.publish([made.store.described(name)], {"retired": n // 2, "released": 0})
    run = Run.open(made.store.root)
    found = resting_row(run, "id-0523")
    assert found is not None
    assert (found["example_id"], found["reason"]) == ("id-0523", "low")
    assert reads == [(name, (5,), ("example_id",)), (name, (5,), None)]
    reads.clear()
    assert resting_row(run, "id-0523x") is None
    assert reads == [(name, (5,), ("example_id",))]
    assert resting_row(run, "id-0524") is None


def test_the_cuts_of_all_classes_are_found_in_one_pass(tmp_path: Path, reads: Reads) -> None:
    made = Asked(rows=900, ranges=6, balanced=True, gate=False).make(tmp_path / "run")
    run = Run.open(made.store.root)
    found = cut_scores(run)
    looked = [file for file, _, columns in reads if columns is not None and "score" in columns]
    assert len(looked) == len(set(looked))
    kept = made.ranking.filter(pa.array([one in made.kept for one in made.ranking["example_id"].to_pylist()]))
    score, label = kept["score"].to_numpy(), kept["label"].to_numpy()
    assert found == {own: score[label == own].min() for own in range(len(CLASSES))}
    lowest = made.selection["rank"][0].as_py()
    parts = zip(made.manifests["ranking"].parts, made.cuts[1:], strict=True)
    below = {part.file for part, high in parts if high <= lowest}
    assert below
    assert not set(looked) & below


def with_history(made: Made, versions: int) -> None:
    table = pa.table({"example_id": [f"id-{row}" for row in range(30_000)]})
    table = table.append_column("difficulty", pa.array(np.arange(30_000, dtype=np.float32)))
    for number in range(versions):
        history.append(made.store, number, float(number), [table if number == 0 else table.slice(0, 50)])


def test_of_a_history_one_bucket_of_ids_is_read_and_the_rest_on_a_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Asked(rows=100).make(tmp_path / "run")
    with_history(made, 1)
    seen: list[Any] = []
    real = pq.ParquetFile.read_row_group

    def noted(parquet: Any, group: int, columns: Any = None, **named: Any) -> pa.Table:
        seen.append(columns)
        return real(parquet, group, columns=columns, **named)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    hashed: list[int] = []
    keys = history.draw_keys
    monkeypatch.setattr(history, "draw_keys", lambda ids: hashed.append(len(ids)) or keys(ids))
    run = Run.open(made.store.root)
    [own] = past.past(run, "id-12345")
    assert own == {"version": 0, "time": 0.0, "there": True, "components": {"difficulty": 12345.0}}
    assert seen == [["example_id"], None]
    seen.clear()
    [own] = past.past(run, "id-nowhere")
    assert (own["there"], own["components"]) == (False, {"difficulty": None})
    assert seen == [["example_id"]]
    assert max(hashed) == 1


def test_only_the_latest_versions_are_told(tmp_path: Path) -> None:
    made = Asked(rows=100).make(tmp_path / "run")
    with_history(made, past.VERSIONS + 3)
    found = past.past(Run.open(made.store.root), "id-7")
    assert [own["version"] for own in found] == list(range(3, past.VERSIONS + 3))
    assert all(own["components"] == {"difficulty": 7.0} for own in found)
    assert [own.number for own in history.versions(made.store)] == list(range(past.VERSIONS + 3))
