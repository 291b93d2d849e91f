"""What benches of small classifiers share: the rows of a published stage, and one training on chosen rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from raydelt.config import ModelSpec, Recipe
from raydelt.models import classifier
from raydelt.models.moments import Moments
from raydelt.models.recipe import optimizer
from raydelt.scorers.protocol import Array
from raydelt.storage import Store, read_manifest

MODEL = ModelSpec(network="mlp", hidden=[64])


@dataclass(frozen=True)
class Splits:
    """Features [n, width] and labels [n] to train on, and those of the test split."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array


def rows_of(store: Store, stage: str, kind: str = "parts") -> pa.Table:
    """All rows of a stage, or of one of its sides."""
    manifest = read_manifest(store, stage)
    assert manifest is not None
    parts = manifest.parts if kind == "parts" else manifest.sides[kind]
    return pa.concat_tables([store.read_table(part.file) for part in parts]).combine_chunks()


def accuracy_on(data: Splits, rows: Array, recipe: Recipe, *, steps: int, seed: int) -> float:
    """Test accuracy after so many steps on these rows, in their order, over and over; weights by the seed."""
    torch.set_num_threads(1)
    model = classifier.build(MODEL, (data.x.shape[1],), int(data.y.max()) + 1, seed=seed)
    model.set_standardisation(*Moments.of(data.x[rows]).standardisation((data.x.shape[1],)))
    optimiser = optimizer(model, recipe)
    model.train()
    for step in range(steps):
        own = rows[np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size) % len(rows)]
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(
            model(torch.from_numpy(data.x[own])), torch.from_numpy(data.y[own].astype(np.int64))
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float((model.predict(data.test_x).argmax(axis=1) == data.test_y).mean())
