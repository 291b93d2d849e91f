"""A limit reads no more rows than it says, spread over the sources, and held-out sources whole."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.config import Corpus, HeldOut
from raydelt.corpus.formats import read, rows_in
from raydelt.corpus.limit import limited
from raydelt.corpus.sources import Item, find, items


def units_of(corpus: Corpus) -> list[Item]:
    return items(find(corpus), text_unit=corpus.text_unit)


def taken(units: list[Item]) -> list[tuple[str, int]]:
    return [
        (path, int(row))
        for unit in units
        for raw in read(unit, None)
        for path, row in zip(raw.paths or [unit.path] * len(raw.rows), raw.rows, strict=True)
    ]


def parquet(folder: Path, *, files: int, rows: int, group: int) -> Corpus:
    folder.mkdir()
    for index in range(files):
        pq.write_table(pa.table({"x": np.arange(rows)}), folder / f"{index:03d}.parquet", row_group_size=group)
    return Corpus(source=str(folder))


@pytest.mark.parametrize("limit", [1, 7, 50, 399, 400, 1000])
def test_parquet_rows_are_spread_over_files_and_row_groups(tmp_path: Path, limit: int) -> None:
    units = units_of(parquet(tmp_path / "in", files=4, rows=100, group=30))
    found = taken(limited(units, limit))
    assert len(found) == len(set(found))
    assert 0.6 * min(limit, 400) <= len(found) <= limit
    if limit == 50:
        assert len({path for path, _ in found}) == 4
        assert max(row for _, row in found) > 80


def test_a_small_share_of_many_units_opens_few_of_them(tmp_path: Path) -> None:
    units = units_of(parquet(tmp_path / "in", files=5, rows=1000, group=10))
    assert len(units) == 500
    assert len(limited(units, 50)) == 16
    assert len(limited(units, 2500)) == 250


def test_lines_are_taken_from_the_front_of_every_file(tmp_path: Path) -> None:
    for index in range(3):
        lines = "".join(json.dumps({"x": row}) + "\n" for row in range(100))
        (tmp_path / f"{index}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = taken(limited(units_of(Corpus(source=str(tmp_path))), 30))
    assert [row for _, row in found] == list(range(10)) * 3


def test_files_of_one_example_each_are_left_out_unread(tmp_path: Path) -> None:
    for index in range(1000):
        (tmp_path / f"{index:03d}.txt").write_text(f"document {index}")
    units = limited(units_of(Corpus(source=str(tmp_path))), 40)
    members = [path for unit in units for path in unit.members]
    assert len(members) == 40
    assert len({Path(path).stem[:1] for path in members}) == 10


def test_a_bundled_set_is_taken_evenly() -> None:
    [unit] = limited(units_of(Corpus(source="builtin://digits")), 100)
    rows = [row for _, row in taken([unit])]
    assert rows_in(unit) == 1797
    assert len(rows) == 100
    assert np.ptp(rows) > 1600


def test_held_out_sources_stay_whole(tmp_path: Path) -> None:
    corpus = parquet(tmp_path / "in", files=1, rows=500, group=500)
    pq.write_table(pa.table({"x": np.arange(200)}), tmp_path / "test.parquet")
    held = HeldOut(source=str(tmp_path / "test.parquet"))
    found = taken(limited(units_of(corpus.model_copy(update={"test": held})), 50))
    assert len([path for path, _ in found if path.endswith("test.parquet")]) == 200
    assert len(found) == 250
