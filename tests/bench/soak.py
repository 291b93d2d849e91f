"""A day of a schedule compressed: 200 cycles of the scheduler's own code under a clock that jumps, and what grows.

A tiny run is kept scored by a cron line of every 7 minutes. Every few cycles one of its files is replaced, so a
version is made, watched and pruned; in the others nothing has changed. After each cycle: resident memory of this
process and of all that it started, open files, files of leases, and files in the run directory. Growth is the slope of
a line through the second half, when versions and history have as many members as they may have.

BENCH_CYCLES sets the cycles (200), BENCH_EVERY after how many of them a file is replaced (10).
"""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.rescore import versions
from raydelt.rescore.rescore import keep_scored
from raydelt.rescore.schedule import Clock, Cron
from raydelt.storage import Store
from tests.flow import spec

CYCLES = int(os.environ.get("BENCH_CYCLES", "200"))
EVERY = int(os.environ.get("BENCH_EVERY", "10"))
FILES, ROWS, KEPT = 3, 60, 3
SHOWN = 20
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
COLUMNS = ("MiB here", "MiB of Ray", "open files", "leases", "files")


class Jumping(Clock):
    """A clock that moves when somebody waits; the first wait after the work of a cycle is where the next begins."""

    def __init__(self, folder: Path, run: Store) -> None:
        self.moment, self.folder, self.run = START, folder, run
        self.cycle, self.asked, self.waits = 0, False, False
        self.seen: list[tuple[float, ...]] = []

    def now(self) -> float:
        # Who asks again without waiting has waited long enough, and works now.
        self.waits, self.asked = self.waits and not self.asked, True
        return self.moment

    def sleep(self, seconds: float) -> None:
        if not self.waits:
            if self.cycle:
                self.look()
            if self.cycle % EVERY == 0:
                write(self.folder, self.cycle // EVERY)
            self.cycle += 1
        self.waits, self.asked = True, False
        self.moment += seconds

    def look(self) -> None:
        """Remember what a cycle left."""
        family = psutil.Process().children(recursive=True)
        found = (
            psutil.Process().memory_info().rss / 2**20,
            sum(rss(process) for process in family) / 2**20,
            float(psutil.Process().num_fds()),
            float(sum(1 for _ in files(self.run.path("leases")))),
            float(sum(1 for _ in files(self.run.path()))),
        )
        self.seen.append(found)
        if self.cycle % SHOWN == 0:
            number = versions.current(self.run).number
            print(f"{self.cycle:6}{number:9}" + "".join(f"{value:12.1f}" for value in found), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = tiny(root)
        clock = Jumping(root / "in", Store(config.output))
        for index in range(FILES):
            write(root / "in", index)
        print(f"{'cycle':>6}{'version':>9}" + "".join(f"{name:>12}" for name in COLUMNS))
        with cluster.connected(config.cluster):
            keep_scored(config, Cron("*/7 * * * *"), clock=clock, times=CYCLES)
            clock.look()
        tell(np.array(clock.seen))


def tell(seen: np.ndarray) -> None:
    """Print the slopes over the second half."""
    half = seen[len(seen) // 2 :]
    print("growth per cycle, second half:")
    for index, name in enumerate(COLUMNS):
        slope = float(np.polyfit(np.arange(len(half)), half[:, index], 1)[0])
        spread = f"{half[:, index].min():.1f} to {half[:, index].max():.1f}"
        print(f"  {name:12} {slope:+.4f}   ({spread})")


def tiny(root: Path) -> RunConfig:
    """A run whose versions and history are pruned soon."""
    changes = {
        "score": [{"kind": "difficulty"}, {"kind": "diversity"}],
        "rank": {"folds": 2, "rounds": 1, "proxy": {"epochs": 2}, "combine": {"gate": None}},
        "cluster": {"address": "local", "num_cpus": 2, "object_store_bytes": 100_000_000},
        "rescore": {"versions": 2},
        "monitor": {"versions": KEPT, "history": {"keep": KEPT}, "trigger": {"drift": False, "rise": None}},
    }
    return spec(root / "in", root / "run", **changes)


def write(folder: Path, turn: int) -> None:
    """One of the files, with digits of its turn."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = load_digits()
    rows = (np.arange(ROWS) + turn * ROWS) % len(bundle.target)
    held = pa.table({"pixels": bundle.data[rows].astype(np.float32).tolist(), "label": bundle.target[rows]})
    pq.write_table(held, folder / f"{turn % FILES}.parquet")


def files(folder: str) -> Iterator[str]:
    return (name for _, _, names in os.walk(folder) for name in names)


def rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
