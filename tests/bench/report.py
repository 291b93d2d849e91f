"""Seconds and peak memory of the report stage on a finished run of `BENCH_ROWS` rows (1M), against its bars.

    1M rows: at most 10 s and 1 GiB        20M rows (BENCH_LARGE=1): at most 60 s

The run is made by the definitions without Ray (`tests.asked`), with texts, five seeds of two arms, a tenth of the
rows near-duplicates and a history of three versions; it is made in a process of its own and stays in the page cache.
Measured is the stage as the flow runs it, page and figures included, on an embedded Ray of all CPUs. Memory is the
proportional set size of the driver, of its tasks' processes and of Ray together, less what Ray took before, and that
of the driver alone. Seconds are of the wall clock: the load average says what else the machine had to do.
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

LARGE = bool(os.environ.get("BENCH_LARGE"))
ROWS = int(os.environ.get("BENCH_ROWS", "20000000" if LARGE else "1000000"))
BARS = (60.0, None) if LARGE else (10.0, 1 << 30)
ROOT = Path(__file__).parents[2]
VERSIONS = 3
WORDS = ("the", "selection", "of", "examples", "that", "a", "model", "should", "see", "is", "about", "data")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        started = time.perf_counter()
        _call("build", folder)
        print(f"{ROWS:,} rows, {os.cpu_count()} cores; built in {time.perf_counter() - started:.0f} s")
        found = json.loads(_call("measure", folder))
    seconds, memory = found["seconds"], found["peak"] - found["before"]
    print(f"{'report stage':24} {seconds:8.2f} s   bar {BARS[0]:.0f} s   (load {found['load']:.1f})")
    print(f"{'driver, processor time':24} {found['cpu']:8.2f} s")
    bar = "" if BARS[1] is None else f"   bar {BARS[1] >> 20} MiB"
    print(f"{'memory it added':24} {memory >> 20:8,} MiB{bar}   (Ray had {found['before'] >> 20:,} MiB)")
    print(f"{'driver alone':24} {found['driver'] >> 20:8,} MiB")
    print(f"{'page':24} {found['page'] / 2**20:8.2f} MiB   summary {found['summary'] / 2**20:.2f} MiB")
    for label, took in sorted(found["passes"].items(), key=lambda own: -own[1])[:12]:
        print(f"  {label:32} {took:8.2f} s")


def _call(what: str, folder: str) -> str:
    own = [sys.executable, "-m", "tests.bench.report", what, folder]
    done = subprocess.run(own, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return done.stdout


def build(folder: str) -> None:
    """A finished run of `ROWS` rows, with all that the flow would have published before its report."""
    from tests.asked import Asked
    from tests.reported import finish

    rng = np.random.default_rng(4)
    texts = tuple(" ".join(rng.choice(WORDS, size)) for size in rng.integers(3, 12, 997))
    made = Asked(rows=ROWS, parts=max(16, ROWS // 65_536), ranges=max(1, ROWS >> 20), width=1, texts=texts)
    finish(made.make(folder), versions=VERSIONS)


def measure(folder: str) -> None:
    """The report stage on a run that was built, as JSON on standard output."""
    import resource

    from raydelt import cluster
    from raydelt.ask.run import Run
    from raydelt.estimate.memory import of_this_run, usage, watched
    from raydelt.report.again import standing
    from raydelt.report.stage import write_report
    from raydelt.storage import Stage

    run = Run.open(folder)
    passes: dict[str, float] = {}
    parallel = cluster.parallel

    def timed(function: Any, calls: Any, *, label: str, **options: Any) -> Any:
        started = time.perf_counter()
        found = parallel(function, calls, label=label, **options)
        passes[label] = passes.get(label, 0.0) + time.perf_counter() - started
        return found

    cluster.parallel = timed
    with watched() as watch, cluster.connected(run.spec.cluster):
        # Workers that are there: the flow has had them since its first stage.
        parallel(_started, [(index,) for index in range(4)], label="start")
        before, watch.stage = usage(of_this_run()).memory, "report"
        started, worked = time.perf_counter(), time.process_time()
        write_report(run.spec, standing(run), {}, Stage(run.store, "report", "f" * 32))
        seconds = time.perf_counter() - started
        # A report can be over between two looks of the watch.
        after = usage(of_this_run()).memory
    told = {
        "seconds": seconds,
        "cpu": time.process_time() - worked,
        "load": os.getloadavg()[0],
        "before": before,
        "peak": max(after, watch.peaks["report"].memory if "report" in watch.peaks else 0),
        "driver": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "page": run.store.size("report/index.html"),
        "summary": run.store.size("report/summary.json"),
        "passes": passes,
    }
    print(json.dumps(told))


def _started(index: int) -> int:
    return index


if __name__ == "__main__":
    if len(sys.argv) == 3:
        {"build": build, "measure": measure}[sys.argv[1]](sys.argv[2])
    else:
        main()
