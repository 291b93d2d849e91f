"""Values of training data on real sets, against noise that is known: every method by the measures of OpenDataVal.

1,000 training, 100 validation and at most 3,000 test examples; label, feature and mixed noise at 5, 10, 15 and 20 %,
on the validation set too. Settings of LossVal were chosen on `valued.TUNING`, sets which are not here. F1 of the lower
of two clusters, AUROC, CPU seconds on one thread; for label noise also the area under the removal curve, most valuable
first (lower is better), of a logistic regression. `BENCH_SEEDS` seeds (5). Needs `make assets`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from raydelt import cluster
from raydelt.config import Cluster
from raydelt.scorers.protocol import Array
from raydelt.train.compare import paired
from raydelt.valuation.data_oob import data_oob, fitted
from raydelt.valuation.knn_shapley import knn_shapley
from raydelt.valuation.lava import lava
from raydelt.valuation.lossval import LossVal, lossval
from raydelt.valuation.problem import Problem, Values
from raydelt.valuation.protocol import area, detection, random_values, removal_curve
from raydelt.valuation.self_confidence import self_confidence
from tests import valued

SEEDS = range(int(os.environ.get("BENCH_SEEDS", "5")))
RATES = (0.05, 0.1, 0.15, 0.2)
CLASSES = ("digits", "spam", "fashion", "satellite", "letter")
TARGETS = ("cpu_activity", "puma32", "white_wine")
NOISES = ("label", "feature", "mixed")
LARGE = os.environ.get("BENCH_LARGE") == "1"


def _lossval(problem: Problem, *, seed: int) -> Values:
    return lossval(problem, LossVal(), seed=seed)


def _published(problem: Problem, *, seed: int) -> Values:
    return lossval(problem, LossVal(mode="reference", repeats=1), seed=seed)


METHODS: dict[str, Callable[..., Values]] = {
    "lossval": _lossval,
    "lossval, as published": _published,
    "knn_shapley": knn_shapley,
    "data_oob": data_oob,
    "self_confidence": self_confidence,
    "lava": lava,
    "random": random_values,
}


def measured(name: str, noise: Any, rate: float, seed: int) -> dict[str, tuple[float, float, float, float]]:
    """F1, AUROC, CPU seconds and removal area (NaN where it is not taken) of every method in one case."""
    torch.set_num_threads(1)
    case = valued.problem(name, seed, noise=noise, rate=rate)
    found = {}
    for method, value in METHODS.items():
        started = time.process_time()
        values = value(case.problem, seed=seed).values
        took = time.process_time() - started
        own = detection(values, case.noisy)
        removal = np.nan
        if noise == "label" and rate in (0.1, 0.2) and case.problem.classes:
            removal = _removal(case, values)
        found[method] = (own.f1, own.auroc, took, removal)
    return found


def _removal(case: valued.Case, values: Array) -> float:
    def accuracy(rows: Array) -> float:
        return float((fitted(case.problem, rows).predict(case.test_x) == case.test_y).mean())

    return area(removal_curve(values, accuracy, highest_first=True))


def main() -> None:
    with cluster.connected(Cluster()):
        for noise in NOISES:
            for kind, names in (("classes", CLASSES), ("targets", TARGETS)):
                _table(noise, kind, names)
    if LARGE:
        _large()


def _table(noise: str, kind: str, names: Sequence[str]) -> None:
    """F1 and AUROC of every method, a column for each set and rate of 10 and 20 %, and means over all rates."""
    cases = [(name, noise, rate, seed) for name in names for rate in RATES for seed in SEEDS]
    held = cluster.parallel(measured, cases, label=f"value: {noise}")
    shape = (len(names), len(RATES), len(SEEDS), 4)
    found = {method: np.reshape([case[method] for case in held], shape) for method in METHODS}
    print(f"\n{noise} noise, {kind}: F1/AUROC, mean of {len(SEEDS)} seeds")
    heads = [f"{name} {rate:.0%}" for name in names for rate in (0.1, 0.2)]
    print(f"{'method':22}" + "".join(f"{head:>17}" for head in heads) + f"{'all rates':>13}{'CPU s':>8}")
    for method, own in found.items():
        cells = [own[i, j].mean(axis=0) for i in range(len(names)) for j in (1, 3)]
        mean = own.mean(axis=(0, 1, 2))
        line = f"{method:22}" + "".join(f"{f'{c[0]:.3f}/{c[1]:.3f}':>17}" for c in cells)
        print(line + f"{f'{mean[0]:.3f}/{mean[1]:.3f}':>13}{mean[2]:>8.2f}", flush=True)
    if noise == "label" and kind == "classes":
        _removals(names, {method: own[:, [1, 3]][..., 3] for method, own in found.items()})


def _removals(names: Sequence[str], areas: dict[str, Array]) -> None:
    """Areas under removal curves, and the difference of every method to ours, paired over cases."""
    print("\nremoval, most valuable first: mean accuracy (lower is better), label noise of 10 and 20 %")
    print(f"{'method':22}" + "".join(f"{name:>12}" for name in names) + "    - lossval, 95 %")
    for method, own in areas.items():
        d = paired(own.ravel(), areas["lossval"].ravel())
        told = "" if method == "lossval" else f"    {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        print(f"{method:22}" + "".join(f"{a.mean():>12.4f}" for a in own) + told, flush=True)


def _large() -> None:
    """100,000 rows of 784 features: wall seconds on all cores, and what the process grew by."""
    import resource

    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 101_000)
    centres = rng.normal(size=(10, 784)).astype(np.float32)
    x = (centres[y] + rng.normal(size=(len(y), 784), scale=4.0)).astype(np.float32)
    problem = Problem(x[:100_000], y[:100_000], x[100_000:], y[100_000:], classes=10)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    lossval(problem, LossVal(batch=512), seed=0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"\n100,000 x 784: {time.perf_counter() - started:.0f} s, {grown:.2f} GiB above the data")


if __name__ == "__main__":
    main()
