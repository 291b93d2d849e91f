"""A corpus in a store is found and read as a local one is, and a fault of the store loses no row."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.config import Corpus
from raydelt.corpus import formats
from raydelt.corpus.sources import Item, find, items
from raydelt.errors import InputError, SpecError
from raydelt.precheck import check
from raydelt.storage import Store
from tests.flow import spec
from tests.s3proxy import Proxy, proxy
from tests.s3server import BUCKET, Server, using


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Files of several formats, one of them hidden."""
    folder = tmp_path / "in"
    (folder / "inner").mkdir(parents=True)
    for index in range(3):
        table = pa.table({"n": np.arange(500) + index, "text": [f"row {n}" for n in range(500)]})
        pq.write_table(table, folder / f"{index}.parquet", row_group_size=200)
    lines = "".join(json.dumps({"n": n, "text": f"line {n}"}) + "\n" for n in range(900))
    (folder / "inner" / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "inner" / "b.csv").write_text("n,text\n" + "".join(f"{n},cell {n}\n" for n in range(300)))
    (folder / "_SUCCESS.csv").write_text("not a corpus")
    return folder


@pytest.fixture
def there(local: Path, rclone_server: Server) -> str:
    """The same files in the store."""
    name = uuid4().hex
    with using(rclone_server):
        store = Store(f"s3://{BUCKET}/{name}")
        for path in sorted(p for p in local.rglob("*") if p.is_file()):
            store.put(str(path.relative_to(local)), path.read_bytes())
    return f"s3://{BUCKET}/{name}"


@pytest.fixture
def between(rclone_server: Server) -> Iterator[Proxy]:
    with proxy(rclone_server.endpoint) as found, using(rclone_server.at(found.endpoint)):
        yield found


def units(source: str) -> list[Item]:
    return items(find(Corpus(source=source, text_column="text")), text_unit="file")


def rows_of(unit: Item) -> list[tuple[int, str]]:
    found = []
    for raw in formats.read(unit, ["n", "text"]):
        assert not raw.bad, raw.bad
        columns = [c.to_pylist() if isinstance(c, pa.Array) else c for c in (raw.columns["n"], raw.columns["text"])]
        found += [(int(n), text) for n, text in zip(*columns, strict=True)]
    return found


def test_units_and_rows_are_those_of_the_local_copy_through_faults(local: Path, there: str, between: Proxy) -> None:
    between.rates = dict.fromkeys(("slowdown", "reset", "truncated", "slow"), 0.05)
    own, others = units(str(local)), units(there)
    strip = [replace(unit, path=unit.path.removeprefix(there)) for unit in others]
    assert strip == [replace(unit, path=unit.path.removeprefix(str(local))) for unit in own]
    assert [rows_of(unit) for unit in others] == [rows_of(unit) for unit in own]
    assert sum(between.faults.values()) > 3, "hardly a fault: it proved nothing"


def test_one_file_and_a_pattern_are_found(there: str, between: Proxy) -> None:
    assert [unit.path for unit in units(f"{there}/inner/b.csv")] == [f"{there}/inner/b.csv"]
    assert {unit.path for unit in units(f"{there}/*.parquet")} == {f"{there}/{n}.parquet" for n in range(3)}


def test_files_are_listed_and_not_asked_for_one_by_one(there: str, between: Proxy) -> None:
    find(Corpus(source=there, text_column="text"))
    assert dict(between.counts) == {"LIST": 1}


def test_a_store_that_fails_ends_the_reading_and_quarantines_nothing(
    there: str, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = units(there)
    between.refuse = lambda kind, _: (403, "AccessDenied") if kind in ("GET", "HEAD") else None
    for unit in found:
        with pytest.raises(InputError, match="the store denies it"):
            list(formats.read(unit, ["n", "text"]))


def test_a_file_that_is_gone_since_it_was_listed_ends_the_reading(there: str, between: Proxy) -> None:
    found = units(there)
    Store(there).delete("")
    for unit in found:
        with pytest.raises(InputError, match="it is not there, or no longer"):
            list(formats.read(unit, ["n", "text"]))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (f"s3://{BUCKET}/nothing", "does not exist: check the path"),
        (f"s3://{BUCKET}/nothing/*.csv", "does not exist: check the path"),
        ("s3://nowhere/x", "its bucket does not exist"),
        ("s3://key:hush@bucket/x", "corpus.source 's3://***@bucket/x' holds credentials"),
        ("gs://bucket/x", "needs the package gcsfs: pip install gcsfs"),
    ],
)
def test_a_source_that_cannot_be_found_is_told(s3: Server, source: str, sentence: str) -> None:
    with pytest.raises(InputError) as found:
        find(Corpus(source=source, text_column="text"))
    assert sentence in str(found.value)
    assert "hush" not in str(found.value)


def test_the_hub_is_asked_under_its_own_scheme_and_told_when_it_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"corpus\.source 'hf://datasets/someone/set/a\.parquet'"):
        find(Corpus(source="hf://datasets/someone/set/a.parquet", text_column="text"))


def test_a_spec_with_credentials_or_an_output_that_is_read_only_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"corpus\.test\.source 's3://\*\*\*@bucket/x' holds credentials"):
        check(spec(tmp_path, tmp_path, corpus__test={"source": "s3://key:hush@bucket/x"}), ("corpus",))
    with pytest.raises(InputError, match=r"output 'hf://datasets/a/b' can only be read"):
        check(spec(tmp_path, "hf://datasets/a/b"), ("corpus",))
    with pytest.raises(SpecError) as found:
        spec(tmp_path, tmp_path, corpus__format="s3://key:hush@bucket/x")
    assert "hush" not in str(found.value)


def test_a_local_file_that_is_gone_is_still_a_row_of_the_quarantine(local: Path) -> None:
    found = units(str(local))
    shutil.rmtree(local)
    for unit in found:
        [raw] = formats.read(unit, ["n", "text"])
        assert [entry.row for entry in raw.bad] == [None]
