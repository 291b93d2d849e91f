"""The corpus stage accounts for every row, whatever the files, blocks and duplicates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.config import Corpus
from raydelt.corpus.read import BYTES_PER_TASK, bundles, partitions, read_corpus
from raydelt.corpus.sources import find
from raydelt.errors import ErrorBudgetExceeded, InputError
from raydelt.storage import Manifest, Stage, Store, fingerprint

pytestmark = pytest.mark.usefixtures("ray_session")


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"a": float(i), "b": float(i * i % 17), "y": "odd" if i % 2 else "even"} for i in range(start, start + count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def publish(source: Path, out: Path, **settings: Any) -> tuple[Manifest, Store]:
    corpus = Corpus(source=str(source), label_column="y", **settings)
    store = Store(str(out))
    return read_corpus(corpus, find(corpus), Stage(store, "corpus", fingerprint(str(settings))), seed=3), store


def table(store: Store, manifest: Manifest, side: str | None = None) -> pa.Table:
    parts = manifest.parts if side is None else manifest.sides[side]
    return pa.concat_tables([store.read_table(part.file) for part in parts])


def assert_reconciled(facts: dict[str, Any]) -> None:
    used = ("corpus", "validation", "test", "duplicates", "overlap", "quarantined")
    assert facts["read"] == sum(facts[name] for name in used)


def test_counts_reconcile_with_every_kind_of_loss(tmp_path: Path) -> None:
    rows = [*rows_of(200), *rows_of(10), {"a": 1.0, "b": None, "y": "odd"}, {"a": 1.0, "b": 2.0, "y": None}]
    write(tmp_path / "in" / "a.jsonl", rows)
    with (tmp_path / "in" / "a.jsonl").open("a") as file:
        file.write("{broken\n")
    held_out = write(tmp_path / "test.jsonl", rows_of(20, start=190))
    manifest, store = publish(
        tmp_path / "in", tmp_path / "out", test={"source": str(held_out)}, validation={"fraction": 0.1}
    )
    facts = manifest.facts
    assert_reconciled(facts)
    assert (facts["read"], facts["duplicates"], facts["overlap"], facts["quarantined"]) == (233, 10, 10, 3)
    assert facts["test"] == 20
    train = set(table(store, manifest)["example_id"].to_pylist())
    assert train.isdisjoint(table(store, manifest, "test")["example_id"].to_pylist())
    assert train.isdisjoint(table(store, manifest, "validation")["example_id"].to_pylist())
    quarantine = pa.concat_tables([store.read_table(p.file) for p in manifest.sides["quarantine"]])
    assert sorted(quarantine["row"].to_pylist()) == [210, 211, 212]


@pytest.mark.parametrize("mode", ["drop", "keep", "error"])
def test_duplicates_are_handled_as_the_spec_says(tmp_path: Path, mode: str) -> None:
    source = write(tmp_path / "a.jsonl", [*rows_of(30), *rows_of(5), *rows_of(5)])
    if mode == "error":
        with pytest.raises(InputError, match=r"corpus\.duplicates is 'error' and 10 rows are duplicates"):
            publish(source, tmp_path / "out", duplicates=mode, test={"fraction": 0})
        return
    manifest, store = publish(source, tmp_path / "out", duplicates=mode, test={"fraction": 0})
    ids = table(store, manifest)["example_id"].to_pylist()
    assert len(ids) == len(set(ids)) == (30 if mode == "drop" else 40)
    assert manifest.facts["duplicates"] == (10 if mode == "drop" else 0)
    assert_reconciled(manifest.facts)


def test_a_key_with_two_contents_keeps_one_and_quarantines_the_other(tmp_path: Path) -> None:
    rows = [row | {"key": f"k{i}"} for i, row in enumerate(rows_of(40))]
    rows += [rows[3], rows[4] | {"a": 99.0}, rows[5] | {"y": "even"}]
    source = write(tmp_path / "a.jsonl", rows)
    manifest, store = publish(source, tmp_path / "out", id_column="key", test={"fraction": 0}, error_budget=0.2)
    ids = table(store, manifest)["example_id"].to_pylist()
    assert sorted(ids) == sorted(f"k{i}" for i in range(40))
    assert (manifest.facts["duplicates"], manifest.facts["quarantined"]) == (1, 2)
    quarantine = pa.concat_tables([store.read_table(p.file) for p in manifest.sides["quarantine"]])
    assert sorted(quarantine["reason"].to_pylist()) == [
        "key 'k4' of corpus.id_column also stands for other content",
        "key 'k5' of corpus.id_column also stands for other content",
    ]
    assert_reconciled(manifest.facts)


def test_a_group_never_spans_two_splits(tmp_path: Path) -> None:
    rows = [row | {"patient": i % 25} for i, row in enumerate(rows_of(300))]
    settings = {"group_column": "patient", "feature_columns": ["a", "b"], "validation": {"fraction": 0.3}}
    manifest, store = publish(write(tmp_path / "a.jsonl", rows), tmp_path / "out", **settings)
    groups = [set(table(store, manifest, side)["group_key"].to_pylist()) for side in (None, "validation", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 25
    assert all(groups)


def test_flips_change_the_training_labels_alone_and_keep_the_truth(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", rows_of(600))
    noisy, store = publish(source, tmp_path / "noisy", noise={"fraction": 0.2})
    clean, other = publish(source, tmp_path / "clean")
    train, truth = table(store, noisy), table(other, clean)
    assert train["example_id"] == truth["example_id"]
    assert train["label_clean"] == truth["label"]
    flipped = sum(a != b for a, b in zip(train["label"].to_pylist(), truth["label"].to_pylist(), strict=True))
    assert flipped == noisy.facts["flipped"]
    assert 0.1 < flipped / train.num_rows < 0.3
    assert table(store, noisy, "test") == table(other, clean, "test")


def test_more_faults_than_the_budget_stop_with_the_first_of_them(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [*rows_of(20), *({"a": None, "b": 1.0, "y": "odd"} for _ in range(5))])
    with pytest.raises(ErrorBudgetExceeded) as caught:
        publish(source, tmp_path / "out")
    assert "5 of 25 rows and 0 of 1 files are bad, more than corpus.error_budget 0.05 allows" in str(caught.value)
    assert "a.jsonl row 20: feature 'a' is None: not a number" in str(caught.value)


def test_an_unreadable_file_among_many_good_ones_is_quarantined_and_the_run_goes_on(tmp_path: Path) -> None:
    for index in range(25):
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows_of(8, start=8 * index)), tmp_path / "in" / f"{index:02d}.parquet")
    (tmp_path / "in" / "99.parquet").write_bytes(b"PAR1 but not really PAR1")
    manifest, store = publish(tmp_path / "in", tmp_path / "out")
    assert (manifest.facts["read"], manifest.facts["bad_files"]) == (200, 1)
    assert_reconciled(manifest.facts)
    quarantine = pa.concat_tables([store.read_table(p.file) for p in manifest.sides["quarantine"]])
    assert [Path(p).name for p in quarantine["source_file"].to_pylist()] == ["99.parquet"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"a": 1.0, "y": "one"}] * 3, {}, "holds 1 classes \\(one\\): a classifier needs at least two"),
        (rows_of(3), {"test": {"fraction": 0.99}, "error_budget": 0.9}, "leaves no example to score"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_told(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        publish(write(tmp_path / "a.jsonl", rows), tmp_path / "out", **settings)


def test_the_number_of_parts_follows_from_the_data_alone() -> None:
    assert [partitions(n, 0) for n in (1, 128, 129, 5000, 65_536 * 16 + 1)] == [1, 1, 2, 16, 17]
    assert partitions(10, 640 << 20) == 10


def test_small_files_share_a_task_and_large_ones_have_their_own() -> None:
    big = BYTES_PER_TASK
    assert bundles([big, big + 1]) == [(0, 1), (1, 2)]
    assert bundles([1] * 1000) == [(0, 1000)]
    assert bundles([1, big, 1, 1]) == [(0, 2), (2, 4)]
    assert bundles([]) == []
