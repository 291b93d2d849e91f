"""A materialised order of small examples, and trainings along it without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydelt.config import ModelSpec
from raydelt.corpus.canonical import fixed_lists
from raydelt.specfile import validate
from raydelt.storage import Stage, Store, fingerprint
from raydelt.train.learners import ClassifierLearner
from raydelt.train.plan import Plan
from raydelt.train.training import Training

ROWS, PER_FILE, BATCH = 53, 10, 8


@pytest.fixture
def ordered(tmp_path: Path) -> tuple[Store, list[str]]:
    """A store with 53 examples at positions 0..52, in files of 10; x = (position, 1), label = position mod 3."""
    store, files = Store(str(tmp_path / "run")), []
    for start in range(0, ROWS, PER_FILE):
        positions = np.arange(start, min(start + PER_FILE, ROWS))
        x = np.stack([positions / ROWS, np.ones(len(positions))], axis=1).astype(np.float32)
        table = pa.table(
            {
                "example_id": [f"{p:03d}" for p in positions],
                "x": fixed_lists(x),
                "label": pa.array(positions % 3, pa.int32()),
                "weight": np.ones(len(positions)),
                "position": positions,
            }
        )
        files.append(store.write_table(f"ordered/part-{start:05d}.parquet", table).file)
    return store, files


def plan(*, batch_size: int = BATCH, seed: int = 3, shuffle: bool = True) -> Plan:
    return Plan("an-order", ROWS, PER_FILE, batch_size, seed, shuffle)


@pytest.fixture
def training(ordered: tuple[Store, list[str]]) -> Callable[..., Training]:
    """A function that makes a training; `train` and `recipe` change the spec."""
    store, files = ordered

    def make(*, steps: int = 12, save: Callable[[Any], None] = lambda state: None, **train: Any) -> Training:
        recipe = {"batch_size": BATCH, "lr": 0.05} | train.pop("recipe", {})
        config = validate(
            {
                "name": "small",
                "corpus": {"source": "nowhere", "label_column": "label"},
                "train": {"recipe": recipe, "seeds": [0], "precision": "float64", "checkpoint_every": 5} | train,
                "output": store.root,
            }
        )
        spec = ModelSpec(network="mlp", hidden=[5])
        dtype = torch.float64 if config.train.precision == "float64" else torch.float32
        still = ([0.0, 0.0], [1.0, 1.0])
        return Training(
            config=config,
            stage=Stage(store, "model", fingerprint("toy")),
            name="selected-0",
            index=0,
            files=files,
            plan=plan(batch_size=recipe["batch_size"]),
            steps=steps,
            learner=ClassifierLearner(spec, (2,), 3, still, seed=0, dtype=dtype, device="cpu"),
            validation_files=[files[0], files[1]],
            keep_model=True,
            worker=0,
            workers=1,
            advance=None,
            save=save,
        )

    return make
