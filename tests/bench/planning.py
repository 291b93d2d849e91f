"""Planning on one core: a joint fit, 200 draws of its bootstrap, the ensemble, and a plan of ten buckets.

Ten synthetic buckets of 100,000 examples, each measured at 8 budgets with `BENCH_SEEDS` (3) seeds, noise of points and
of runs 0.3 % each; `BENCH_DRAWS` (200) draws. Seconds are of the processor, so that other processes do not count.
`BENCH_COVERAGE` (0) problems with random laws and noise measure how often the 90 % bands hold the true loss, and how
often the band of one real training, which knows of other laws too, holds the loss of a new training with such noise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from raydelt.plan.advice import advise
from raydelt.plan.bootstrap import bootstrap, ensemble
from raydelt.plan.fit import fit
from tests.unit.plan.buckets import drawn_curves, measure

SEEDS = int(os.environ.get("BENCH_SEEDS", "3"))
DRAWS = int(os.environ.get("BENCH_DRAWS", "200"))
COVERAGE = int(os.environ.get("BENCH_COVERAGE", "0"))
NOISE, NEW = 0.003, 50
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
        law, real = coverage(COVERAGE)
        print(
            f"coverage of the law's 90 % bands in {COVERAGE} problems: {law:.3f}, of those of one training: {real:.3f}"
        )


def coverage(problems: int) -> tuple[float, float]:
    """Shares of predictions, of four ratios at four budgets: true losses in the law's band, trainings in theirs."""
    inside, budgets = [], [1e5, 4e5, 1e6, 3e6]
    for seed in range(problems):
        rng = np.random.default_rng(seed)
        true = drawn_curves(rng)
        fitted = fit(measure(true, rng, seeds=SEEDS, point=NOISE, run=NOISE))
        drawn = bootstrap(fitted, draws=DRAWS, seed=seed)
        for advice in advise(fitted, drawn, budgets, variants=ensemble(fitted.points)).advice:
            for choice in advice.choices:
                loss = float(true.loss(advice.budget, range(choice.buckets)))
                new = loss * np.exp(NOISE * np.sqrt(2) * rng.normal(size=NEW))
                trained = np.mean((choice.real_low <= new) & (new <= choice.real_high))
                inside.append((choice.low <= loss <= choice.high, trained))
    law, real = np.mean(inside, axis=0)
    return float(law), float(real)


if __name__ == "__main__":
    main()
