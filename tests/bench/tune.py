"""Tuning on the digits with 10 % flipped labels: what it finds from a poor spec and from a good one, on fresh splits.

The poor spec keeps the most difficult half without a gate, flipped labels first; the good one is that of the
quickstart. A row is a split: validation error and test accuracy of the spec as it is and of the winner, the interval,
and the verdict. A sound search turns the poor spec into a better one nearly always, and hardly ever claims anything
for the good one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from raydelt import cluster
from raydelt.config import Cluster, RunConfig
from raydelt.specfile import validate
from raydelt.tune import search

SPLITS = 4
GATES: dict[str, Any] = {"poor": None, "good": {"component": "consistency", "at_least": 0.5}}


def spec(kind: str, seed: int, folder: str, trials: int) -> RunConfig:
    return validate(
        {
            "name": f"{kind}-{seed}",
            "seed": seed,
            "corpus": {
                "source": "builtin://digits",
                "noise": {"fraction": 0.1},
                "validation": {"fraction": 0.2},
                "test": {"fraction": 0.3},
            },
            "rank": {"folds": 5, "rounds": 2, "combine": {"weights": {"difficulty": 1.0}, "gate": GATES[kind]}},
            "select": {"value": 0.5},
            "train": {"recipe": {"steps": 600}},
            "tune": {"trials": trials, "folds": "own"},
            "output": f"{folder}/{kind}-{seed}",
        }
    )


def row(kind: str, seed: int, found: dict[str, Any], seconds: float) -> str:
    told = found["verdict"]
    text = f"{kind:5} {seed:5} {100 * found['default']['value']:9.2f} {100 * found['best']['value']:9.2f}"
    if told is None:
        return f"{text} {'':32} the spec as it is wins {seconds:6.0f}"
    own, ours = (100 * sum(told["values"][arm]) / told["pairs"] for arm in ("default", "winner"))
    interval = f"[{100 * told['low']:+.2f}, {100 * told['high']:+.2f}]"
    return f"{text} {own:8.2f} {ours:8.2f} {interval:>15} {told['verdict']:26} {seconds:6.0f}"


def main(trials: int = 20) -> None:
    print(
        f"{'spec':5} {'split':>5} {'valid. %':>9} {'winner %':>9} {'test %':>8} {'winner':>8} {'gain':>15} verdict, s"
    )
    with tempfile.TemporaryDirectory() as folder, cluster.connected(Cluster(address="local", num_cpus=2)):
        for kind in GATES:
            for seed in range(SPLITS):
                started = time.perf_counter()
                found = search.tune(spec(kind, seed, folder, trials))
                print(row(kind, seed, found, time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
