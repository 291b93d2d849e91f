"""The history: whole versions or none, by id, readable by ranges of hashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.errors import InputError
from raydelt.monitor.history import Shard, Version, append, prune, read, shards, versions
from raydelt.storage import Store


def table(n: int, seed: int = 0, **more: object) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns = {"example_id": [f"id-{seed}-{i}" for i in range(n)], "loss": rng.random(n).astype(np.float32)}
    return pa.table(columns | more)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def rows(store: Store, version: Version, shard: Shard | None = None) -> dict[str, float]:
    found = [pair for t in read(store, version, ["loss"], shard) for pair in zip(*t.to_pydict().values(), strict=True)]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_what_is_appended_is_read_back(store: Store) -> None:
    a, b = table(20, 1, label=["x"] * 20, error=[True] * 20), table(30, 2, label=["y"] * 30, error=[False] * 30)
    parts = append(store, 3, 100.5, [a, b])
    assert [part.file for part in parts] == ["history/v000003-00000.parquet", "history/v000003-00001.parquet"]
    [found] = versions(store)
    assert (found.number, found.time, found.rows) == (3, 100.5, 50)
    assert (found.components, set(found.beside)) == (("loss",), {"example_id", "label", "error"})
    whole = dict(zip(*pa.concat_tables([a, b]).select(["example_id", "loss"]).to_pydict().values(), strict=True))
    assert rows(store, found) == whole
    told = pq.read_schema(store.path(parts[0].file)).metadata
    assert (told[b"version"], told[b"time"]) == (b"3", b"100.5")


def test_shards_are_disjoint_and_whole_and_read_only_their_own(store: Store) -> None:
    append(store, 1, 0.0, [table(30_000, 1), table(50, 2)])
    [found] = versions(store)
    whole = rows(store, found)
    for of in (1, 2, 16, 64):
        pieces = [rows(store, found, Shard(index, of)) for index in range(of)]
        assert sum(len(piece) for piece in pieces) == len(whole)
        assert {k: v for piece in pieces for k, v in piece.items()} == whole
    with store.fs.open(store.path(found.parts[0].file), "rb") as file:
        parquet = pq.ParquetFile(file)
        assert parquet.num_row_groups == 8
        assert parquet.metadata.row_group(0).num_rows < 30_000 / 4


def test_as_few_shards_as_hold_the_rows() -> None:
    assert [len(shards(n, 100)) for n in (0, 100, 101, 399, 401)] == [1, 1, 2, 4, 8]


def test_a_version_that_was_not_finished_is_not_there(store: Store) -> None:
    append(store, 1, 0.0, [table(5)])

    def killed():  # type: ignore[no-untyped-def]
        yield table(5, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(store, 2, 1.0, killed())
    assert [own.number for own in versions(store)] == [1]
    append(store, 2, 1.0, [table(5, 1), table(5, 2)])
    assert [own.rows for own in versions(store)] == [5, 10]


def test_appending_again_does_nothing_and_other_rows_are_refused(store: Store) -> None:
    parts = append(store, 1, 0.0, [table(5), table(5, 1)])
    assert append(store, 1, 0.0, [table(5), table(5, 1)]) == parts
    for other in ([table(5)], [table(5), table(5, 2)], [table(5), table(5, 1), table(5, 2)]):
        with pytest.raises(InputError, match="version 1 stands"):
            append(store, 1, 0.0, other)
    assert rows(store, versions(store)[0]) == rows(store, versions(store)[0])
    assert versions(store)[0].rows == 10


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([], "no tables"),
        ([table(3).drop(["loss"])], "no component"),
        ([table(3).drop(["example_id"])], "no column example_id"),
        ([table(2), table(2).append_column("more", pa.array([1.0, 2.0]))], "differ in their columns"),
        ([pa.table({"example_id": ["a", "b"], "loss": [1.0, float("nan")]})], "1 values of 'loss'.* not finite"),
        ([pa.table({"example_id": ["a"], "loss": [None]}, schema=None)], "not finite"),
        ([table(2, error=[0.5, 1.5])], "leaves 0..1"),
        ([table(2, error=[0.5, float("nan")])], "leaves 0..1"),
        ([table(2, label=["a", "b"], time=["x", "y"])], "'time'.* numbers"),
        ([pa.table({"example_id": ["a", "a"], "loss": [1.0, 2.0]})], "'a' twice"),
        ([pa.table({"example_id": ["a"], "loss": ["much"]})], "'loss'.* numbers"),
    ],
)
def test_what_is_wrong_is_refused_in_one_sentence(store: Store, tables: list[pa.Table], words: str) -> None:
    with pytest.raises(InputError, match=words):
        append(store, 1, 0.0, tables)
    assert versions(store) == []


def test_a_clock_that_was_set_back_is_noticed(store: Store) -> None:
    append(store, 1, 100.0, [table(3)])
    with pytest.raises(InputError, match="clock"):
        append(store, 2, 99.0, [table(3)])
    with pytest.raises(InputError, match="number"):
        append(store, -1, 0.0, [table(3)])


def test_there_may_be_no_history(store: Store) -> None:
    assert versions(store) == []


def test_only_the_newest_versions_are_kept_and_those_are_whole(store: Store) -> None:
    for number in range(1, 8):
        append(store, number, float(number), [table(5, number), table(5, 100 + number)])
    kept = {found.number: rows(store, found) for found in versions(store)[-3:]}
    assert prune(store, keep=3) == [1, 2, 3, 4]
    assert {found.number: rows(store, found) for found in versions(store)} == kept
    assert len(store.at("history").names()) == 3 * 3
    assert prune(store, keep=3) == []


def test_what_a_kill_left_of_pruned_versions_goes_the_next_time(store: Store) -> None:
    for number in range(1, 5):
        append(store, number, float(number), [table(5, number)])
    store.remove(["history/v000001.json"])
    assert prune(store, keep=2) == [2]
    assert store.at("history").names() == [
        "v000003-00000.parquet",
        "v000003.json",
        "v000004-00000.parquet",
        "v000004.json",
    ]
