"""A small real corpus on disk, and specs that run on it in a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from raydelt.config import RunConfig
from raydelt.specfile import validate
from raydelt.storage import Store, read_manifest


def write_digits(folder: Path, *, files: int = 1, rows: int = 600, shuffle: int | None = None) -> Path:
    """The first digits as Parquet files with columns `pixels` (list) and `label`."""
    bundle = load_digits()
    order = np.arange(rows) if shuffle is None else np.random.default_rng(shuffle).permutation(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for index, own in enumerate(np.array_split(order, files)):
        table = pa.table({"pixels": bundle.data[own].astype(np.float32).tolist(), "label": bundle.target[own]})
        pq.write_table(table, folder / f"digits-{index}.parquet")
    return folder


def spec(source: Path | str, output: Path | str, **changes: Any) -> RunConfig:
    """A spec of the whole flow with a small model; `changes` replace fields, written as `section__field`."""
    raw: dict[str, Any] = {
        "name": "small",
        "seed": 5,
        "corpus": {
            "source": str(source),
            "feature_columns": ["pixels"],
            "label_column": "label",
            "noise": {"fraction": 0.1},
        },
        "model": {"network": "logistic"},
        "score": [{"kind": kind} for kind in ("difficulty", "consistency", "diversity", "prototype", "grad_norm")],
        "rank": {"folds": 2, "rounds": 2, "proxy": {"epochs": 3}},
        "select": {"value": 0.5},
        "train": {"recipe": {"steps": 60}, "seeds": [0, 1], "checkpoint_every": 20},
        "output": str(output),
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            raw[section] = raw.get(section, {}) | {field: value}
        else:
            raw[section] = value
    return validate(raw)


STAGES = ("scores", "ranking", "selection", "ordered")


def digests(output: Path) -> dict[str, list[str]]:
    """Digests of the published files of each stage: equal exactly when the bytes are."""
    found = {}
    for stage in STAGES:
        manifest = read_manifest(Store(str(output)), stage)
        assert manifest is not None, f"{stage} is not published"
        found[stage] = [part.digest for part in manifest.parts]
    return found


def table(output: Path, stage: str) -> pa.Table:
    """All published rows of a stage."""
    store = Store(str(output))
    manifest = read_manifest(store, stage)
    assert manifest is not None, f"{stage} is not published"
    return pa.concat_tables([store.read_table(part.file) for part in manifest.parts])
