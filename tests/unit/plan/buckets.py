"""Synthetic bucket problems with known laws, and the published parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydelt.plan.laws import Curves
from raydelt.plan.points import Points, from_columns

# Goyal et al. 2024, fitted to ImageNet errors of CLIP on buckets of 12.8M pairs: U by utility, D by effective data.
PUBLISHED: dict[str, dict[str, Any]] = {
    "U": {
        "b": np.array([-0.16, -0.125, -0.1, -0.085]),
        "tau": np.array([6.727272727, 8.545454545, 5.272727273, 2.272727273]),
        "pivot": 1e5 / 0.025,
    },
    "D": {
        "b": np.array([-0.182272727, -0.144848485, -0.135303030, -0.097575758]),
        "tau": np.array([4.0, 4.363636364, 2.909090909, 1.454545455]),
        "pivot": 1e5 / 0.022,
    },
}
FRACTIONS = (0.5, 1, 2, 3, 4, 6, 8)


def published(name: str, **form: Any) -> Curves:
    """The published curves of set U or D."""
    return Curves(size=np.full(4, 12.8e6), floor=0.1, **PUBLISHED[name], **form)


def drawn_curves(rng: np.random.Generator, p: int = 4) -> Curves:
    """Random laws of p buckets of 100,000 examples."""
    b = -np.sort(rng.uniform(0.08, 0.4, p))[::-1]
    tau = np.exp(rng.uniform(np.log(2), np.log(12), p))
    return Curves(b, tau, np.full(p, 1e5), 1e5 * rng.uniform(0.05, 0.5), 2.0, rng.uniform(0.5, 2.0))


def measure(
    curves: Curves,
    rng: np.random.Generator | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seeds: int = 1,
    point: float = 0.0,
    run: float = 0.0,
    metric: str = "loss",
) -> Points:
    """Points of every bucket at fractions of its size, with relative noise of points and of runs."""
    rng = rng or np.random.default_rng(0)
    rows = []
    for index, size in enumerate(curves.size):
        for seed in range(seeds):
            offset = run * rng.normal()
            for fraction in fractions:
                value = float(curves.loss(fraction * size, [index])) * np.exp(offset + point * rng.normal())
                rows.append((f"bucket {index}", fraction * size, size, seed, value))
    names = ("bucket", "seen", "unique", "seed", metric)
    return from_columns(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
