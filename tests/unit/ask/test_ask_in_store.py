"""A run in an object store answers as one on a local disk does, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raydelt.ask.diff import diff
from raydelt.ask.examples import listed
from raydelt.ask.export import DONE, export
from raydelt.ask.run import Run
from raydelt.errors import InputError
from raydelt.storage import Store
from tests import s3server
from tests.asked import Asked

PLACE = f"s3://{s3server.BUCKET}/run"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with s3server.rclone(tmp_path_factory.mktemp("s3")) as server, s3server.using(server):
        Asked(rows=300, parts=3, ranges=2).make(PLACE)
        yield


@pytest.mark.usefixtures("store")
def test_a_run_in_a_store_answers_as_a_local_one(tmp_path: Path) -> None:
    made = Asked(rows=300, parts=3, ranges=2).make(tmp_path / "run")
    here, there = Run.open(made.store.root), Run.open(PLACE)
    for row in (0, 200, 260):
        example = made.ranking["example_id"][row].as_py()
        assert there.why(example) == here.why(example) | {"run": PLACE}
    assert listed(there, top=3, borderline=4) == listed(here, top=3, borderline=4) | {"run": PLACE}
    assert diff(here, there)["selection"]["jaccard"] == 1.0
    assert there.ranking().equals(made.ranking)


@pytest.mark.usefixtures("store")
def test_an_export_to_a_store_is_whole_when_its_record_stands(tmp_path: Path) -> None:
    run, out = Run.open(PLACE), f"s3://{s3server.BUCKET}/out"
    told = export(run, "parquet", out)
    assert Store(out).read_json(DONE)["rows"] == told["rows"]
    export(run, "parquet", str(tmp_path / "out"))
    local = pq.ParquetFile(tmp_path / "out" / "part-00000.parquet").read()
    assert Store(out).read_table("part-00000.parquet").equals(local)
    with pytest.raises(InputError, match="--force"):
        export(run, "parquet", out)
    export(run, "jsonl", f"{out}.jsonl")
    with pytest.raises(InputError, match="give --force to replace it"):
        export(run, "jsonl", f"{out}.jsonl")
    assert export(run, "jsonl", f"{out}.jsonl", force=True)["files"] == ["out.jsonl"]
    lines = Store(f"s3://{s3server.BUCKET}").read_bytes("out.jsonl").decode().splitlines()
    assert [json.loads(line)["position"] for line in lines] == local["position"].to_pylist()


@pytest.mark.usefixtures("store")
def test_a_missing_file_in_a_store_is_named() -> None:
    place = f"s3://{s3server.BUCKET}/harmed"
    made = Asked(rows=60, parts=1, ranges=1).make(place)
    name = made.manifests["scores"].parts[0].file
    made.store.delete(name)
    with pytest.raises(InputError, match=name):
        Run.open(place).scores()
