"""Estimate, then run, in fresh directories: the quickstart, a language model's job, and a score of 1M rows.

For each job: what the estimate cost, and estimated, actual and their ratio of time, memory, object store and disk.
The bar is 25 % for time and memory. `BENCH_JOBS` names some of the jobs, `BENCH_ROWS` the rows of the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raydelt.report.wording import quantity

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
JOBS = os.environ.get("BENCH_JOBS", "quickstart,language,rows").split(",")
SECONDS = os.environ.get("BENCH_SECONDS", "120")
WIDTH, CLASSES, FILES = 32, 10, 8
BAR = 0.25


def main() -> None:
    for name in JOBS:
        with tempfile.TemporaryDirectory() as folder:
            spec, until = {"quickstart": quickstart, "language": language, "rows": rows}[name](Path(folder))
            print(f"{name}: raydelt {until}", flush=True)
            report(spec, until, f"output={folder}/run")


def quickstart(_: Path) -> tuple[str, str]:
    return "jobs/quickstart.yaml", "run"


def language(_: Path) -> tuple[str, str]:
    if not Path("build/assets/graded/lm").exists():
        raise SystemExit("the language model's job needs `make assets`")
    return "jobs/lm_quality.yaml", "order"


def rows(folder: Path) -> tuple[str, str]:
    """Clusters of numbers, scored by proxies and cheap scorers."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLASSES, WIDTH))
    (folder / "in").mkdir()
    for index in range(FILES):
        label = generator.integers(0, CLASSES, ROWS // FILES)
        x = (centres[label] + generator.standard_normal((len(label), WIDTH))).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
        pq.write_table(pa.table({"x": column, "label": label}), folder / "in" / f"{index}.parquet")
    raw: dict[str, Any] = {
        "name": "rows",
        "corpus": {"source": str(folder / "in"), "feature_columns": ["x"], "label_column": "label"},
        "model": {"network": "logistic"},
        "score": [{"kind": "difficulty"}, {"kind": "diversity"}, {"kind": "prototype"}],
        "rank": {
            "folds": 2,
            "rounds": 2,
            "proxy": {"epochs": 1, "batch_size": 256},
            "max_proxy_examples": 50_000,
            "combine": {"gate": None},
        },
        "output": "given",
    }
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path), "score"


def report(spec: str, until: str, place: str) -> None:
    """Estimate and run, and print one beside the other."""
    started = time.perf_counter()
    raydelt("estimate", spec, "-o", place, "--until", until, "--seconds", SECONDS)
    cost = time.perf_counter() - started
    started = time.perf_counter()
    raydelt(until, spec, "-o", place)
    actual = time.perf_counter() - started
    record = json.loads((Path(place.removeprefix("output=")) / "run.json").read_text())
    print(f"  the estimate took {cost:.1f} s, the run {actual:.1f} s ({100 * cost / actual:.0f} %)")
    print(f"  {'':14}{'estimated':>14}{'actual':>14}{'ratio':>8}")
    for row in record["estimated"]:
        told = [quantity(row[key], row["unit"]) for key in ("estimated", "actual")]
        held = row["what"] in ("total", "peak memory")
        within = f"  within {BAR:.0%}: {abs(row['ratio'] - 1) <= BAR}" if held and row["ratio"] else ""
        print(f"  {row['what']:14}{told[0]:>14}{told[1]:>14}{row['ratio'] or float('nan'):>8.2f}{within}", flush=True)


def raydelt(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "raydelt", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"raydelt {' '.join(arguments)}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
