"""The score stage on Ray against a bare torch loop on the same cores: 50,000 rows, work bound by the model.

Both read the corpus parts from Parquet, compute exact gradient norms over all parameters of the same network with the
same code, and write scores as Parquet; the loop does so in one process with all threads, the stage with one actor per
core. The stage's time is taken whole: trying the checkpoint, starting the actors and loading the model are included.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydelt import cluster, pipeline
from raydelt.config import RunConfig
from raydelt.examples import EXAMPLE_ID, LABEL, column_of, features_of
from raydelt.gradients import PerExampleGradients
from raydelt.models import classifier
from raydelt.specfile import validate
from raydelt.storage import Store, read_manifest

ROWS = int(os.environ.get("BENCH_ROWS", "50000"))
ROUNDS = int(os.environ.get("BENCH_PIPELINE_ROUNDS", "3"))
WIDTH, CLASSES = 784, 10
HIDDEN = [4096, 4096, 4096]
LOOP_BATCH = 512


def main() -> None:
    cores = os.cpu_count() or 1
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        config = _spec(Path(folder), cores)
        store = Store(config.output)
        with cluster.connected(config.cluster):
            pipeline.execute(config, until="corpus")
            print(f"{ROWS} rows, MLP {WIDTH}-{'-'.join(map(str, HIDDEN))}-{CLASSES}, {cores} cores, {ROUNDS} rounds")
            for _ in range(ROUNDS):
                bare = _bare_loop(config, store, Path(folder) / "bare")
                store.delete("scores")
                whole = pipeline.execute(config, until="scores").seconds["scores"]
                ratios.append(bare / whole)
                print(
                    f"  bare loop {ROWS / bare:6.0f} rows/s, {bare:.1f} s   "
                    f"score stage {ROWS / whole:6.0f} rows/s, {whole:.1f} s   ratio {ratios[-1]:.3f}",
                    flush=True,
                )
            difference = _largest_difference(store, Path(folder) / "bare")
    print(f"score stage / bare loop, rows/s: median {np.median(ratios):.3f}")
    print(f"largest relative difference of a norm: {difference:.1e}")


def _spec(folder: Path, cores: int) -> RunConfig:
    """Random rows and a random network on disk, and the spec that scores them."""
    generator = np.random.default_rng(0)
    (folder / "in").mkdir()
    for index in range(8):
        rows = ROWS // 8
        x = generator.standard_normal((rows, WIDTH), np.float32)
        table = pa.table({"x": list(x), "y": generator.integers(0, CLASSES, rows)})
        pq.write_table(table, folder / "in" / f"{index}.parquet")
    raw: dict[str, Any] = {
        "name": "bench",
        "corpus": {
            "source": str(folder / "in"),
            "feature_columns": ["x"],
            "label_column": "y",
            "standardize": False,
            "test": {"fraction": 0},
        },
        "model": {"network": "mlp", "hidden": HIDDEN, "checkpoint": str(folder / "model.safetensors")},
        "score": [{"kind": "grad_norm", "parameters": "all"}],
        "rank": {"method": "score", "combine": {"weights": {"grad_norm": 1.0}, "gate": None}},
        "output": str(folder / "run"),
        "cluster": {"actors": {"min": cores, "max": cores}},
    }
    config = validate(raw)
    network = classifier.build(config.model, (WIDTH,), CLASSES, seed=0)
    (folder / "model.safetensors").write_bytes(classifier.dump(network))
    return config


def _bare_loop(config: RunConfig, store: Store, out: Path) -> float:
    """Seconds of the loop that anyone would write."""
    out.mkdir(exist_ok=True)
    torch.set_num_threads(os.cpu_count() or 1)
    manifest = read_manifest(store, "corpus")
    assert manifest is not None
    started = time.perf_counter()
    model = classifier.build(config.model, (WIDTH,), CLASSES, seed=0)
    classifier.restore(model, classifier.read_checkpoint(config.model.checkpoints[0]), origin="")
    engine = PerExampleGradients(model.eval(), model.losses)
    for index, part in enumerate(manifest.parts):
        table = store.read_table(part.file, [EXAMPLE_ID, "x", LABEL])
        x, y = torch.from_numpy(features_of(table).copy()), torch.from_numpy(column_of(table, LABEL).astype(np.int64))
        norms = []
        for low in range(0, len(x), LOOP_BATCH):
            found = engine({"x": x[low : low + LOOP_BATCH], "y": y[low : low + LOOP_BATCH]}).norms
            assert found is not None
            norms.append(found.numpy())
        scores = pa.table({EXAMPLE_ID: table[EXAMPLE_ID], "grad_norm": np.concatenate(norms).astype(np.float32)})
        pq.write_table(scores, out / f"{index}.parquet", compression="zstd")
    return time.perf_counter() - started


def _largest_difference(store: Store, out: Path) -> float:
    manifest = read_manifest(store, "scores")
    assert manifest is not None
    ours = pa.concat_tables([store.read_table(part.file) for part in manifest.parts])["grad_norm"].to_numpy()
    files = sorted(out.iterdir(), key=lambda file: int(file.stem))
    bare = pa.concat_tables([pq.read_table(file) for file in files])["grad_norm"].to_numpy()
    return float(np.max(np.abs(ours - bare) / bare))


if __name__ == "__main__":
    main()
