"""Trajectory LQS: its errors against derivatives and retraining, and its cost against plain passes.

Costs are ratios of times measured in turns within one run, as the median with the quartiles over the rounds, on the
transformer of the gradient benchmark (4 layers, d = 128, T = 64, V = 2000, batch 32).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import spearmanr

from raydelt.lqs.adjoint import walk_back
from raydelt.lqs.annotate import Visits, Walked
from raydelt.lqs.objective import Objective
from raydelt.lqs.terms import Mode
from raydelt.lqs.trajectory import Share, Trajectory
from tests.bench.gradients import quartiles
from tests.bench.norm_methods import plain, transformer
from tests.unit.lqs import test_lqs_oracle as oracle
from tests.unit.lqs import toy

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
STEPS, INTERVAL = 16, 4
VARIANTS: list[tuple[str, Mode, int]] = [
    ("pds, every step", "pds", 1),
    ("pds, interval 7", "pds", 7),
    ("released, interval 5", "released", 5),
    ("lqs as in the paper", "lqs", 1),
    ("lqs, interval 5", "lqs", 5),
]


def errors() -> None:
    """Scores against central differences of the area under the target loss, float64."""
    target, documents = toy.documents(9, seed=1), toy.documents(oracle.EXAMPLES, seed=2)
    for name, mode, interval in VARIANTS:
        for final_only in (False, True):
            pairs = oracle.walked(oracle.batches(), target, final_only=final_only)
            found = oracle.annotated(pairs, documents, mode, interval)["pds" if mode == "pds" else "lqs"]
            truth = np.array(
                [
                    oracle.by_differences(
                        ids, oracle.frozen_weights(pairs, ids, mode, interval), target, final_only=final_only
                    )
                    for ids in documents
                ]
            )
            worst = np.abs(found - truth).max() / np.abs(truth).max()
            print(f"  {name:22}{' (final loss)' if final_only else '':14} max relative error {worst:.1e}", flush=True)
    scores, change = oracle.left_out(24)
    print(f"  leave one out and train again, N = 24: Spearman {spearmanr(scores, change).statistic:.4f}")


class Model:
    """The transformer as what annotation sees."""

    def __init__(self) -> None:
        self.module, self.losses, self.batch = transformer()

    def groups(self, batch: pa.RecordBatch, rows: np.ndarray, budget: int) -> list[np.ndarray]:
        return [rows]

    def tensors(self, batch: pa.RecordBatch, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], None]:
        return self.batch, None


def walk(model: Model) -> tuple[Trajectory, Share, dict[int, Any]]:
    """A trajectory on the transformer whose batches are as large as its target set."""
    share = Share(lambda: [model.batch], len(model.batch["ids"]))
    start = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    return Trajectory(Objective(model.module, model.losses), start, [share] * STEPS, lr=0.01), share, start


def costs() -> None:
    """Annotation per visited step, and the way back per step, against plain forward and backward passes."""
    model = Model()
    baseline = plain((model.module, model.losses, model.batch))
    trajectory, share, _ = walk(model)
    last = trajectory.forward()
    pairs: list[Any] = [(last, None)] + [
        (at, adjoint) for t, at, adjoint in walk_back(trajectory, last, share) if t % INTERVAL == 0
    ]
    steps = list(range(0, STEPS + 1, INTERVAL))
    own = Walked(model, lambda i: pairs[len(steps) - 1 - i], hold=math.isqrt(STEPS))
    visits = Visits([own], steps, mode="lqs", steps=STEPS, lr=0.01, budget=1)
    batch = pa.RecordBatch.from_pydict({"n": np.arange(len(model.batch["ids"]))})

    def back() -> float:
        trajectory, share, _ = walk(model)
        last = trajectory.forward()
        started = time.perf_counter()
        for _ in walk_back(trajectory, last, share):
            pass
        return (time.perf_counter() - started) / STEPS

    ratios: dict[str, list[float]] = {"annotation": [], "adjoint": []}
    for round_ in range(2 + ROUNDS):
        once = _seconds(baseline, 3)
        annotation = _seconds(lambda: visits.scores(batch), 1) / len(steps)
        adjoint = back()
        again = _seconds(baseline, 3)
        if round_ >= 2:
            ratios["annotation"].append(2 * annotation / (once + again))
            ratios["adjoint"].append(adjoint / (once + again))
    for name, of in (
        ("annotation", "per example and visited step / one forward and backward pass"),
        ("adjoint", "pass per step, recomputation included / one pass on batch and one on target"),
    ):
        low, middle, high = quartiles(ratios[name])
        print(f"  {name} {of}: {middle:.2f} [{low:.2f}, {high:.2f}]", flush=True)


def _seconds(run: Callable[[], Any], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - started) / times


def memory() -> None:
    """Peak of live tensors on the way back, in copies of the parameters."""
    for steps in (16, 25, 100):
        copies = oracle.copies_held(steps)
        print(f"  T = {steps}: {copies:.2f} copies held at once; 2 sqrt(T) + 6 = {2 * math.sqrt(steps) + 6:.0f}")


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print("against derivatives (toy bigram model, 30 steps, float64):")
    errors()
    print("cost (transformer, 4 layers, d = 128, T = 64, V = 2000, batch 32):")
    costs()
    print("memory:")
    memory()


if __name__ == "__main__":
    main()
