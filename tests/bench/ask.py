"""How long `raydelt why` takes on a run of `BENCH_ROWS` rows (10M), and `show` and `diff` beside it.

The run is made by the definitions without Ray (`tests.asked`): parts of 65,536 rows, ranges of the ranking of 1M,
three components. `why` is timed as a command, start of Python included, and within a process, for `ASKED` ids that are
drawn with a fixed seed; what it finds is held against the ranking. Files are in the page cache. `show` and `diff` run
in processes of their own, whose peak of memory is told.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.asked import Asked, Made

ROWS = int(os.environ.get("BENCH_ROWS", "10000000"))
ASKED = 20
ROOT = Path(__file__).parents[2]
MEASURED = """
import json, sys, time
from pathlib import Path
from raydelt.ask.diff import diff
from raydelt.ask.examples import listed
from raydelt.ask.run import Run
runs, started = [Run.open(place) for place in sys.argv[2:]], time.perf_counter()
{"diff": lambda: diff(*runs), "show": lambda: listed(runs[0], top=20, bottom=20, borderline=20)}[sys.argv[1]]()
seconds = time.perf_counter() - started
# Not ru_maxrss, which a process takes over from the one that starts it.
[peak] = [own.split()[1] for own in Path("/proc/self/status").read_text().splitlines() if own.startswith("VmHWM")]
print(json.dumps([seconds, int(peak) / 1024]))
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ask-") as folder:
        made = Asked(rows=ROWS, parts=max(1, ROWS // 65_536), ranges=max(1, ROWS >> 20), width=1)
        built, seconds = _timed(lambda: made.make(Path(folder) / "one"))
        print(f"{ROWS:,} rows, {os.cpu_count()} cores; built in {seconds:.0f} s")
        _why(built)
        made.seed = 1
        other = made.make(Path(folder) / "two")
        for name, places in (("show", [built]), ("diff", [built, other])):
            own = [sys.executable, "-c", MEASURED, name, *(one.store.root for one in places)]
            done = subprocess.run(own, cwd=ROOT, check=True, capture_output=True, text=True)
            seconds, peak = json.loads(done.stdout)
            print(f"{name:24} {seconds:8.2f} s   peak {peak:,.0f} MiB")


def _why(made: Made) -> None:
    from raydelt.ask.run import Run

    rows = np.random.default_rng(9).choice(made.ranking.num_rows, ASKED, replace=False)
    taken = []
    for row in rows:
        example = made.ranking["example_id"][int(row)].as_py()
        found, seconds = _timed(lambda example=example: Run.open(made.store.root).why(example))
        if found["combined"]["rank"] != row:
            raise SystemExit(f"why finds rank {found['combined']['rank']} of {example}, the ranking has {row}")
        taken.append(seconds)
    print(f"{'why, in a process':24} {statistics.median(taken):8.2f} s   worst {max(taken):.2f} s of {ASKED}")
    command = [sys.executable, "-m", "raydelt", "why", made.store.root, example, "--json"]
    _, seconds = _timed(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))
    print(f"{'why, as a command':24} {seconds:8.2f} s")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


if __name__ == "__main__":
    main()
