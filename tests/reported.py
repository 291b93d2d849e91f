"""What a run made without Ray (`tests.asked`) lacks for its report: counts, a comparison, and copies of examples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import rundir
from raydelt.monitor import history
from tests.asked import CLASSES, STEPS, Made


def finish(run: Made, *, versions: int = 0) -> Made:
    """Give a run all that its report reads, as the flow would have; a tenth of its rows become copies."""
    corpus, scores, rows = run.manifests["corpus"], run.manifests["scores"], run.made.rows
    counts = {"validation": 0, "pool": 0, "duplicates": 0, "overlap": 0, "bad_files": 0, "flipped": 0}
    counts |= {"read": rows + 1, "corpus": corpus.rows, "test": rows - corpus.rows, "quarantined": 1}
    per_class = np.bincount(run.corpus["label"].to_numpy(), minlength=len(CLASSES)).tolist()
    own = {"per_class": per_class, "input_shape": [run.made.width], "content": "c" * 32}
    corpus.facts.update(counts | own)
    bad = corpus.rows - scores.rows
    scores.facts.update({"scored": scores.rows, "quarantined": bad, "concentration": {}})
    run.manifests["model"].facts.update(_compared())
    _copies(run)
    for name, manifest in run.manifests.items():
        run.store.write_json(f"{name}/manifest.json", asdict(manifest))
    measured: dict[str, Any] = {"peaks": {}, "cluster": {}, "start": 0.0}
    rundir.record(run.store, run.config, run.manifests, dict.fromkeys(run.manifests, 1.0), measured)
    for version in range(versions):
        names = ["example_id", "difficulty", "consistency"]
        tables = (run.store.read_table(part.file, names) for part in scores.parts)
        history.append(run.store, version, float(version), tables)
    return run


def _compared() -> dict[str, Any]:
    """Two arms over five seeds."""
    values = {arm: [0.9 + 0.01 * seed for seed in range(5)] for arm in ("selected", "random")}
    curve = [[step, 1.0 / step] for step in range(1, STEPS)]
    results = [{"arm": arm, "seed": seed, "curve": curve, "steps": STEPS} for arm in values for seed in range(5)]
    difference = {"mean": 0.01, "low": 0.001, "high": 0.02, "pairs": 5, "verdict": "better"}
    return {"metric": "accuracy", "values": values, "differences": {"random": difference}, "results": results}


def _copies(run: Made) -> None:
    """What the neighbours stage would have found if every tenth example were a copy of one before it."""
    stage, parts = run._stage("neighbours"), []
    names = ["example_id", "knn_cosine", "earlier_cosine", "neighbour"]
    for index, part in enumerate(run.manifests["corpus"].parts):
        ids = run.store.read_table(part.file, ["example_id"])["example_id"].combine_chunks()
        n = len(ids)
        before = pa.array(np.maximum(np.arange(n) - 1, 0) // 4 * 4)
        cosine = np.where(np.arange(n) % 10 == 9, 0.99, 0.5).astype(np.float32)
        parts.append(run._write(stage, "part", index, pa.table([ids, cosine, cosine, ids.take(before)], names)))
    run._publish("neighbours", parts, {})
