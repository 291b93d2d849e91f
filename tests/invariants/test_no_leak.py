"""No example is ever scored by a model that saw it, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt import pipeline
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_memoriser_finds_every_example_as_hard_as_can_be(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    rows = pq.read_table(source / "digits-0.parquet")
    twin = rows.slice(0, 40)
    relabelled = twin.set_column(1, "label", pa.array((np.asarray(twin["label"]) + 1) % 10))
    pq.write_table(pa.concat_tables([rows, relabelled]), source / "digits-0.parquet")
    config = spec(
        source,
        tmp_path / "out",
        model={"kind": "torch", "factory": "tests.plugins:memoriser"},
        score=[{"kind": "difficulty"}],
        rank={"folds": 3, "rounds": 2, "combine": {"gate": None}},
        corpus__classes=[*(str(c) for c in range(10)), "none of them"],
        corpus__noise=None,
    )
    pipeline.execute(config, until="scores")
    scores = table(tmp_path / "out", "scores")
    assert scores.num_rows > 200
    assert scores["difficulty"].to_pylist() == [1.0] * scores.num_rows
