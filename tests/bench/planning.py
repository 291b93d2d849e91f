"""Planning on one core: a joint fit, 200 draws of its bootstrap, the ensemble, and a plan of ten buckets.

Ten synthetic buckets of 100,000 examples, each measured at 8 budgets with `BENCH_SEEDS` (3) seeds, noise of points and
of runs 0.3 % each; `BENCH_DRAWS` (200) draws. Seconds are of the processor, so that other processes do not count.
`BENCH_COVERAGE` (0) problems with random laws and noise measure how often the 90 % bands hold the true loss.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from raydelt.plan.advice import advise
from raydelt.plan.bootstrap import bands, bootstrap, ensemble, losses
from raydelt.plan.fit import fit
from tests.unit.plan.buckets import drawn_curves, measure

SEEDS = int(os.environ.get("BENCH_SEEDS", "3"))
DRAWS = int(os.environ.get("BENCH_DRAWS", "200"))
COVERAGE = int(os.environ.get("BENCH_COVERAGE", "0"))
FRACTIONS = (0.25, 0.5, 1, 2, 3, 4, 6, 8)
T = TypeVar("T")


def timed(name: str, work: Callable[[], T]) -> T:
    start = time.process_time()
    result = work()
    print(f"{name:<34} {time.process_time() - start:8.3f} s")
    return result


def main() -> None:
    rng = np.random.default_rng(0)
    points = measure(drawn_curves(rng, 10), rng, fractions=FRACTIONS, seeds=SEEDS, point=0.003, run=0.003)
    print(f"{len(points.loss)} points of 10 buckets, {SEEDS} seeds")
    fit(points)
    fitted = timed("fit, 8 starts", lambda: fit(points))
    drawn = timed(f"bootstrap, {DRAWS} draws", lambda: bootstrap(fitted, draws=DRAWS))
    variants = timed("ensemble, 9 laws", lambda: ensemble(points))
    timed("plan of 8 budgets", lambda: advise(fitted, drawn, np.geomspace(1e5, 1e7, 8).tolist(), variants=variants))
    if COVERAGE:
        print(f"coverage of the 90 % bands in {COVERAGE} problems: {coverage(COVERAGE):.3f}")


def coverage(problems: int) -> float:
    """The share of predictions of four ratios at four budgets whose true loss lies within the 90 % band."""
    inside, budgets = [], np.array([1e5, 4e5, 1e6, 3e6])
    for seed in range(problems):
        rng = np.random.default_rng(seed)
        true = drawn_curves(rng)
        mixtures = [range(k + 1) for k in range(len(true.b))]
        drawn = bootstrap(fit(measure(true, rng, seeds=SEEDS, point=0.003, run=0.003)), draws=DRAWS, seed=seed)
        low, _, high = bands(losses(drawn, budgets, mixtures))
        loss = losses([true], budgets, mixtures)[0]
        inside.append(np.mean((low <= loss) & (loss <= high)))
    return float(np.mean(inside))


if __name__ == "__main__":
    main()
