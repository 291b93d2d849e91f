"""What is measured of a split: sums over groups of rows that do not depend on the files that the rows lie in."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydelt.config import ModelSpec
from raydelt.examples import FEATURES, LABEL
from raydelt.storage import Store
from raydelt.train.learners import ClassifierLearner
from raydelt.tune.objective import GROUPS, grouped, objective


@pytest.fixture
def learner() -> ClassifierLearner:
    spec = ModelSpec.model_validate({"network": "logistic"})
    own = {"seed": 3, "dtype": torch.float32, "device": "cpu"}
    return ClassifierLearner(spec, [4], 3, (np.zeros(4), np.ones(4)), **own)


def written(store: Store, x: np.ndarray, y: np.ndarray, edges: list[int]) -> list[str]:
    names = []
    for low, high in itertools.pairwise(edges):
        column = pa.FixedSizeListArray.from_arrays(pa.array(x[low:high].ravel()), 4)
        store.write_table(f"part-{low}.parquet", pa.table({FEATURES: column, LABEL: y[low:high]}))
        names.append(f"part-{low}.parquet")
    return names


@pytest.mark.parametrize("rows", [37, 250])
def test_groups_are_every_so_many_rows_and_add_up(learner: ClassifierLearner, tmp_path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 4)).astype(np.float32), rng.integers(0, 3, rows).astype(np.int32)
    one = Store(str(tmp_path / "one"))
    found = grouped(learner, one, written(one, x, y, [0, rows]), rows=8)
    many = Store(str(tmp_path / "many"))
    cut = grouped(learner, many, written(many, x, y, [0, 5, 30, rows]), rows=1024)
    with torch.inference_mode():
        logits = learner.module(torch.from_numpy(x)).double()
    right = (logits.argmax(dim=1).numpy() == y).astype(float)
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y).long(), reduction="none").numpy()
    group = np.arange(rows) % GROUPS
    for name, values in (("hits", right), ("loss", losses), ("count", np.ones(rows))):
        expected = np.bincount(group, weights=values)
        assert found[name] == pytest.approx(expected, rel=1e-5)
        assert cut[name] == pytest.approx(expected, rel=1e-5)
    assert len(found["count"]) == min(rows, GROUPS)
    assert objective(found, "error") == pytest.approx(1 - right.mean())
    assert objective(found, "loss") == pytest.approx(losses.mean(), rel=1e-5)
