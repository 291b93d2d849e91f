"""What measured points leave open though laws can be fitted to them: a caution each, none of which stops a plan.

    rising         a mean over seeds above the one before, by more than two standard errors of their difference
    out_of_order   at the fewest seen that all buckets share, one below the one before, by as much; not asked of ratios
    noise          standard deviation over seeds, pooled; where no seed repeats a point, any rise or inversion counts

Cost: O(points). The list is this project's own, from what was seen to break such fits.

Caution: no caution is no proof. A learning-rate schedule that differs between points is not seen here.
"""

from __future__ import annotations

import numpy as np

from raydelt.plan.points import Caution, Points, noise, small_run
from raydelt.scorers.protocol import Array


def cautions(points: Points) -> tuple[Caution, ...]:
    """What the points leave open, in the order of the buckets."""
    found: list[Caution] = []
    for index, name in enumerate(points.names):
        found += _of_bucket(points, points.bucket == index, name)
    found += _out_of_order(points)
    keys = np.stack([points.bucket, points.seed, points.seen, points.unique], 1)
    if len(np.unique(keys, axis=0)) < len(keys):
        found.append(Caution("duplicates", "points are there more than once for one bucket, seed, seen and unique"))
    return tuple(found)


def _of_bucket(points: Points, mine: Array, name: str) -> list[Caution]:
    epochs, found = points.epochs[mine], []
    if epochs.max() < 2:
        found.append(
            Caution(
                "no_repeats",
                f"bucket {name!r} is never seen twice: its half-life is not identifiable, and budgets that repeat it "
                "are guesses; measure it at 2 epochs or more",
            )
        )
    if epochs.min() > 1:
        found.append(
            Caution(
                "only_repeats",
                f"bucket {name!r} has no point within its first epoch: its b and its half-life are told apart by "
                "repeats alone; measure it at 1 epoch or less",
            )
        )
    if len(np.unique(points.seed[mine])) < 2:
        found.append(
            Caution("one_seed", f"bucket {name!r} has one seed: what changes from run to run is not in the bands")
        )
    if rises := _rises(points, mine):
        found.append(
            Caution(
                "rising",
                f"the {points.metric} of bucket {name!r} rises {rises} times as more is seen: the law can only fall, "
                "so it will be too low there",
            )
        )
    return found


def _rises(points: Points, mine: Array) -> int:
    """How often the mean over seeds rises from one number seen to the next, beyond two standard errors if known."""
    spread = np.nan_to_num(noise(points))
    rises = 0
    for unique in np.unique(points.unique[mine]):
        pool = mine & (points.unique == unique)
        seen, cell, counts = np.unique(points.seen[pool], return_inverse=True, return_counts=True)
        means = np.bincount(cell, points.loss[pool]) / counts
        allowed = 2 * spread * np.sqrt(1 / counts[1:] + 1 / counts[:-1])
        rises += int(np.count_nonzero(np.diff(means) > allowed)) if len(seen) > 1 else 0
    return rises


def _out_of_order(points: Points) -> list[Caution]:
    """Whether the buckets, given best first, come out in another order at the fewest seen that all have in common."""
    ranked = None if points.cumulative else small_run(points, pick=min)
    if ranked is None or (order := [name for name, _ in ranked[1]]) == list(points.names):
        return []
    values = dict(ranked[1])
    given = np.array([values[name] for name in points.names])
    spread = np.nan_to_num(noise(points)) * np.sqrt(2 / max(len(np.unique(points.seed)), 1))
    if np.all(np.diff(given) >= -2 * spread):
        return []
    return [
        Caution(
            "out_of_order",
            f"the buckets are given as {', '.join(points.names)}, best first, but after {ranked[0]:g} {points.unit} "
            f"their {points.metric} ranks them {', '.join(order)}: the score does not order them as training does",
        )
    ]
