"""`raydelt.score` takes a Ray data set of anybody's and gives what a run over the same rows gives."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray.data

import raydelt
from raydelt import pipeline
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_data_set_is_scored_as_its_files_are(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=200)
    config = spec(source, tmp_path / "out", score=[{"kind": "difficulty"}, {"kind": "consistency"}])
    pipeline.execute(config, until="scores")
    raw = {name: value for name, value in config.resolved().items() if name not in ("output", "cluster")}
    raw["corpus"].pop("source")
    rows = ray.data.from_arrow(pq.read_table(source))
    run = raydelt.score(rows, raw, output=str(tmp_path / "scored"))
    assert run.scores().equals(table(tmp_path / "out", "scores"))
    again = run.scores(["difficulty"], as_="ray").to_pandas().sort_values("example_id")
    assert again["difficulty"].tolist() == run.scores(as_="pandas").sort_values("example_id")["difficulty"].tolist()
