"""What a rescoring does after 1 % of new rows: its share of the first run's model work, and whether results differ.

A corpus of text lies in S3 (rclone on loopback), and is scored by two cheap scorers and one model, a fixed network.
Then one file with 1 % of new rows is added, and the run is scored again; and, for comparison, all of it is, by the
same fitted things and without any earlier score. Model work is counted in rows that the model is asked for, and in
seconds of the actors. Held to: 3 % of the rows at most, and the same ids, order and selection.

BENCH_ROWS sets the rows (100,000), BENCH_LARGE=1 makes it a million.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydelt import cluster, pipeline
from raydelt.config import RunConfig
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.models import classifier
from raydelt.rescore.rescore import rescore
from raydelt.scorers.cells import Earlier
from raydelt.scorers.protocol import Array
from raydelt.specfile import validate
from raydelt.storage import Manifest, Store, read_manifest
from tests import s3server
from tests.s3server import BUCKET

ROWS = int(os.environ.get("BENCH_ROWS", "1000000" if os.environ.get("BENCH_LARGE") else "100000"))
NEW_SHARE, MOST = 0.01, 0.03
FILES, WORDS, TEXT_FEATURES = 16, 30_000, 64
MODEL = "difficulty"
CHEAP = ("diversity", "prototype")
STAGES = ("scores", "ranking", "selection")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for index in range(FILES):
            write(root / "s3" / BUCKET / "in" / f"{index:03d}.parquet", ROWS // FILES, seed=index)
        with s3server.rclone(root / "s3", remember="1s") as server, s3server.using(server):
            config = spec(root / "model.safetensors")
            with cluster.connected(config.cluster):
                measure(config, root)


def measure(config: RunConfig, root: Path) -> None:
    """Score, add rows, score again, score all again; print what each took, and what came of it."""
    started = time.perf_counter()
    first = pipeline.execute(config, until="selection")
    seconds = {"first run": time.perf_counter() - started}
    write(root / "s3" / BUCKET / "in" / "new.parquet", int(ROWS * NEW_SHARE), seed=FILES)
    time.sleep(1.5)  # until the server has forgotten its listing
    before = Store(config.output)
    found = rescore(config)
    seconds["rescore"] = found.seconds
    whole = config.model_copy(update={"output": f"s3://{BUCKET}/whole"})
    started = time.perf_counter()
    pipeline.execute(whole, until="selection", earlier=without_cells(before))
    seconds["full rescore"] = time.perf_counter() - started
    runs = {"first run": before, "rescore": Store(found.place), "full rescore": Store(whole.output)}
    print(f"{ROWS} rows in S3, {found.examples - found.before} new ones, {', '.join(CHEAP)} and the model of {MODEL}")
    print(f"{'':14}{'model rows':>12}{'model s':>10}{'whole s':>10}")
    for name, store in runs.items():
        facts = manifest(store, "scores").facts
        work = facts["took"]["seconds"].get(MODEL, 0.0)
        print(f"{name:14}{facts['computed'][MODEL]:12}{work:10.2f}{seconds[name]:10.1f}", flush=True)
    share = found.computed[MODEL] / first.manifests["scores"].facts["computed"][MODEL]
    print(f"share of the first run's model rows: {share:.4f} (at most {MOST:g}: {'yes' if share <= MOST else 'NO'})")
    compare(runs["rescore"], runs["full rescore"])


def compare(again: Store, whole: Store) -> None:
    """Print whether two runs are the same."""
    for stage in STAGES:
        one, other = (table(store, stage) for store in (again, whole))
        same = one[EXAMPLE_ID].equals(other[EXAMPLE_ID])
        columns = [name for name in one.column_names if pa.types.is_floating(one.schema.field(name).type)]
        gaps = [_gap(column_of(one, name), column_of(other, name)) for name in columns] if same else []
        told = f"same ids in the same order: {'yes' if same else 'NO'}, every value identical: "
        told += "yes" if one.to_pydict() == other.to_pydict() else "no"
        print(f"{stage:10} {told}, greatest difference of a number {max(gaps, default=float('nan')):.2g}")


def _gap(one: Array, other: Array) -> float:
    """The greatest difference between two columns; what neither has is none."""
    return float(np.nanmax(np.abs(one - other), initial=0.0))


def without_cells(run: Store) -> Earlier:
    """A version of which nothing stays but what was fitted."""
    scores = manifest(run, "scores")
    scores = dataclasses.replace(scores, facts=scores.facts | {"cells": {}})
    return Earlier(run, {"corpus": manifest(run, "corpus"), "scores": scores})


def manifest(run: Store, stage: str) -> Manifest:
    found = read_manifest(run, stage)
    assert found is not None, stage
    return found


def table(run: Store, stage: str) -> pa.Table:
    return pa.concat_tables([run.read_table(part.file) for part in manifest(run, stage).parts])


def write(file: Path, rows: int, *, seed: int) -> None:
    """A Parquet file of texts of 30 words, drawn as words of a language are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    words = np.array([f"w{index}" for index in range(WORDS)])
    picks = words[np.minimum(generator.zipf(1.3, (rows, 30)), WORDS) - 1]
    texts = [" ".join(row) for row in picks.tolist()]
    held = pa.table({"text": texts, "label": generator.integers(0, 2, rows)})
    pq.write_table(held, file, row_group_size=65_536, compression="zstd")


def spec(checkpoint: Path) -> RunConfig:
    raw: dict[str, Any] = {
        "name": "bench",
        "corpus": {
            "source": f"s3://{BUCKET}/in",
            "text_column": "text",
            "text_features": TEXT_FEATURES,
            "label_column": "label",
            "test": {"fraction": 0},
        },
        "model": {"network": "mlp", "hidden": [256], "checkpoint": str(checkpoint)},
        "score": [{"kind": kind} for kind in (*CHEAP, MODEL)],
        "rank": {"method": "score", "combine": {"weights": {"difficulty": 1.0, "diversity": 1.0}, "gate": None}},
        "select": {"value": 0.3},
        "output": f"s3://{BUCKET}/out",
        "cluster": {"address": "local"},
    }
    config = validate(raw)
    checkpoint.write_bytes(classifier.dump(classifier.build(config.model, (TEXT_FEATURES,), 2, seed=0)))
    return config


if __name__ == "__main__":
    main()
