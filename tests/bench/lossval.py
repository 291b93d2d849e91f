"""The closed Sinkhorn gradient against geomloss forward and backward: CPU time of a step of 128 rows."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from geomloss import SamplesLoss

from raydelt.valuation.sinkhorn import MARGIN, Target

BATCH, VALIDATION, WIDTHS, REPEATS, TRIALS = 128, 100, (57, 784), 20, 5


def main() -> None:
    torch.set_num_threads(1)
    print("one step, ms of CPU: geomloss | closed gradient (share) | with a fixed diameter (share)")
    for width in WIDTHS:
        torch.manual_seed(0)
        x, v, w = torch.randn(BATCH, width), torch.randn(VALIDATION, width), torch.ones(BATCH)
        diameter = MARGIN * float(torch.cdist(x, v).max())
        free, fixed = Target(v), Target(v, diameter=diameter)
        theirs = cpu_ms(lambda x=x, v=v, w=w: geomloss_step(x, v, w))
        ours, cached = (cpu_ms(lambda t=t, x=x, w=w: t.divergence(x, w)) for t in (free, fixed))
        print(f"d = {width:3}: {theirs:.2f} | {ours:.2f} ({ours / theirs:.2f}) | {cached:.2f} ({cached / theirs:.2f})")


def geomloss_step(x: torch.Tensor, v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    w = w.clone().requires_grad_()
    diameter = MARGIN * float(torch.cdist(x, v).max())
    SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.5, diameter=diameter)(w, x, torch.ones(len(v)), v).backward()
    assert w.grad is not None
    return w.grad


def cpu_ms(step: Callable[[], object]) -> float:
    """The least of several means, as other processes only add."""
    step()
    means = []
    for _ in range(TRIALS):
        started = time.process_time()
        for _ in range(REPEATS):
            step()
        means.append((time.process_time() - started) / REPEATS)
    return 1e3 * min(means)


if __name__ == "__main__":
    main()
