"""From a shortlist to the k examples that people are asked about: useful one by one, and different from each other.

    badge      k-means++ on g_i = delta_i (x) h_i, the gradient of the last layer at the label the model would give;
               delta = p - onehot(argmax p). The first is the longest g, the next are drawn by D^2
    k_center   greedy: next comes the example farthest from all labelled and chosen ones, a 2-approximation
    k_means_pp k-means++ on h: D^2 draws, the first uniform
    typical    labelled + k clusters; those with the fewest labels first, of these the largest; in each the example
               with the least mean distance to its 20 nearest in the cluster
    random     uniform

    |g_i - g_j|^2 = |delta_i - delta_j|^2 |h_i|^2 + |delta_j|^2 |h_i - h_j|^2
                    + 2 ((delta_i - delta_j) . delta_j) (h_i . (h_i - h_j))

so BADGE needs no vector of length C d; in differences, because the form in inner products cancels for near-copies.

Draws are hashes of (seed, id), ties go to the lower id, and rows are put in the order of ids first: the same examples
are chosen from any layout of the shortlist. Cost: O(m k (d + C)); typical O(m (k + labelled) d) per Lloyd step and
O(m d) per member of a cluster; k_center O(m d) per labelled example. Ash et al. 2020 (BADGE); Sener and Savarese 2018
(k-center); Hacohen et al. 2022 (TypiClust).

Caution: k_center and badge seek outliers, so screen a noisy pool first; typical is for few labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from raydelt.active.centres import k_means_parallel, lloyd
from raydelt.active.distances import DISTANCES, Shrinking, nearest, to_row
from raydelt.active.plus_plus import d2_picks
from raydelt.active.points import Points, in_one_part
from raydelt.errors import InputError, SpecError
from raydelt.examples import UInt64Array, draw_keys, mix
from raydelt.scorers.protocol import Array

NEIGHBOURS = 20
CLUSTERS = 500
LLOYD_STEPS = 20


@dataclass(frozen=True)
class Candidates:
    """A shortlist: ids [m], features h [m, d], probabilities p [m, C] where known, features of the labelled [l, d].

    Raises:
        InputError: lengths or widths differ, an id comes twice, or a number is not finite.
    """

    ids: Array
    h: Array
    p: Array | None = None
    labelled: Array | None = None

    def __post_init__(self) -> None:
        for name, values in (("features", self.h), ("probabilities", self.p)):
            if values is not None and (np.ndim(values) != 2 or len(values) != len(self.ids)):
                raise InputError(
                    f"the shortlist has {len(self.ids)} ids and {name} of shape {list(np.shape(values))}: "
                    "give one row per id"
                )
        if self.labelled is not None and (np.ndim(self.labelled) != 2 or self.labelled.shape[1] != self.h.shape[1]):
            raise InputError(
                f"labelled features have shape {list(np.shape(self.labelled))}, those of the shortlist width "
                f"{self.h.shape[1]}: give both the same features"
            )
        if len(np.unique(self.ids)) != len(self.ids):
            raise InputError("an id comes twice on the shortlist: give every example once")
        if not all(np.isfinite(values).all() for values in (self.h, self.p, self.labelled) if values is not None):
            raise InputError("the shortlist holds values that are not finite: drop or repair those rows")

    def keys(self) -> UInt64Array:
        """Draw keys [m]."""
        return draw_keys([str(entry) for entry in self.ids.tolist()])

    def in_order(self) -> tuple[Candidates, Array]:
        """The same by ascending id as float64, and the original rows [m]."""
        order = np.argsort(np.asarray(self.ids), kind="stable")
        h, p, seen = (None if own is None else np.asarray(own, np.float64) for own in (self.h, self.p, self.labelled))
        assert h is not None
        if seen is not None:
            seen = seen[np.lexsort(seen.T)] if seen.size else None
        return Candidates(np.asarray(self.ids)[order], h[order], None if p is None else p[order], seen), order


Strategy = Callable[[Candidates, int, int], Array]
"""From candidates, k and a seed to min(k, m) rows in the order of choice; the candidates come in the order of ids."""


def choose(name: str, candidates: Candidates, k: int, *, seed: int) -> Array:
    """Rows [min(k, m)] int64 that a strategy chooses, in the order of choice.

    Raises:
        SpecError: there is no such strategy, or k is below 1.
        InputError: the strategy needs probabilities and there are none.
    """
    if name not in STRATEGIES:
        raise SpecError(f"strategy {name!r} is unknown: there are {', '.join(sorted(STRATEGIES))}")
    if k < 1:
        raise SpecError(f"a batch of {k} asks for nothing: give a batch size of at least 1")
    if len(candidates.ids) == 0:
        return np.empty(0, np.int64)
    ordered, rows = candidates.in_order()
    return rows[STRATEGIES[name](ordered, k, seed)].astype(np.int64)


def badge(candidates: Candidates, k: int, *, seed: int) -> Array:
    """Rows [min(k, m)] by k-means++ on the gradients of the last layer."""
    return choose("badge", candidates, k, seed=seed)


def k_center(candidates: Candidates, k: int, *, seed: int) -> Array:
    """Rows [min(k, m)], each the farthest from the labelled and the chosen; without labels the first is a draw."""
    return choose("k_center", candidates, k, seed=seed)


def k_means_pp(candidates: Candidates, k: int, *, seed: int) -> Array:
    """Rows [min(k, m)] by k-means++ on the features."""
    return choose("k_means_pp", candidates, k, seed=seed)


def typical(candidates: Candidates, k: int, *, seed: int) -> Array:
    """Rows [min(k, m)], the most typical of the clusters with the fewest labels, largest first."""
    return choose("typical", candidates, k, seed=seed)


def random(candidates: Candidates, k: int, *, seed: int) -> Array:
    """Rows [min(k, m)], a uniform draw."""
    return choose("random", candidates, k, seed=seed)


def gradients(p: Array) -> Array:
    """delta [m, C]: probabilities [m, C] minus the one-hot of the most probable class, the lowest of equals."""
    delta = np.array(p, np.float64)
    delta[np.arange(len(delta)), delta.argmax(axis=1)] -= 1.0
    return delta


def gradient_distances(delta: Array, h: Array, row: int) -> Array:
    """Squared distances [m] of all delta (x) h, from delta [m, C] and h [m, d], to that of a row; 0 for its copies."""
    by_delta, by_h = delta - delta[row], h - h[row]
    apart = np.square(by_delta).sum(axis=1) * np.square(h).sum(axis=1)
    apart += np.square(delta[row]).sum() * np.square(by_h).sum(axis=1)
    apart += 2.0 * (by_delta * delta[row]).sum(axis=1) * (h * by_h).sum(axis=1)
    return np.asarray(np.maximum(apart, 0.0))


def typicality(x: Array, clusters: Array, *, neighbours: int = NEIGHBOURS) -> Array:
    """One over the mean distance [n] of points [n, d] to their nearest others in the same cluster [n].

    It is inf for copies of as many others, and 0 without company.
    """
    found = np.zeros(len(x))
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        near = min(neighbours, len(rows) - 1)
        step = max(1, DISTANCES // len(rows))
        for low in range(0, len(rows) if near else 0, step):
            own = rows[low : low + step]
            distances = np.partition(cdist(x[own], x[rows]), near, axis=1)[:, : near + 1]
            # Sorted, since the order that a partition leaves depends on where a copy stands.
            with np.errstate(divide="ignore"):
                found[own] = near / np.sort(distances, axis=1).sum(axis=1)
    return found


def _badge(candidates: Candidates, k: int, seed: int) -> Array:
    if candidates.p is None:
        raise InputError("badge needs probabilities: give p, or choose k_center, k_means_pp, typical or random")
    h, delta = candidates.h, gradients(candidates.p)
    longest = int((np.square(delta).sum(axis=1) * np.square(h).sum(axis=1)).argmax())

    def shrunk(rows: Sequence[int], closest: Array) -> list[Array]:
        return [np.minimum(closest, gradient_distances(delta, h, row)) for row in rows]

    return d2_picks(shrunk, candidates.keys(), k, seed=seed, start=longest, fill=True)


def _k_means_pp(candidates: Candidates, k: int, seed: int) -> Array:
    return d2_picks(Shrinking(candidates.h), candidates.keys(), k, seed=seed, fill=True)


def _k_center(candidates: Candidates, k: int, seed: int) -> Array:
    h, picks = candidates.h, list[int]()
    closest = np.full(len(h), np.inf)
    if candidates.labelled is not None:
        closest = nearest(h, candidates.labelled)[1]
    while len(picks) < min(k, len(h)):
        row = int(closest.argmax()) if np.isfinite(closest[0]) else int(_random(candidates, 1, seed)[0])
        picks.append(row)
        closest = np.minimum(closest, to_row(h, row))
        # Below every distance, so that copies of the chosen come before the chosen themselves.
        closest[picks] = -1.0
    return np.array(picks, np.int64)


def _typical(candidates: Candidates, k: int, seed: int) -> Array:
    m, seen = len(candidates.h), candidates.labelled
    x = candidates.h if seen is None else np.concatenate([candidates.h, seen])
    ids = np.array([*map(str, candidates.ids.tolist()), *(f"labelled {i}" for i in range(len(x) - m))], object)
    passes = in_one_part(Points(ids, draw_keys(ids.tolist()), x))
    seeds = k_means_parallel(passes, min(len(x) - m + k, CLUSTERS, len(x)), seed=seed)
    clusters = nearest(x, lloyd(passes, seeds, iterations=LLOYD_STEPS).centres)[0]
    labels = np.bincount(clusters[m:], minlength=len(seeds))
    sizes, density = np.bincount(clusters, minlength=len(seeds)), typicality(x, clusters)[:m]
    waiting = {c: rows[np.argsort(-density[rows], kind="stable")].tolist() for c, rows in _members(clusters[:m])}
    picks = list[int]()
    while len(picks) < min(k, m):
        c = min(waiting, key=lambda c: (labels[c], -sizes[c], c))
        picks.append(waiting[c].pop(0))
        labels[c] += 1
        if not waiting[c]:
            del waiting[c]
    return np.array(picks, np.int64)


def _members(clusters: Array) -> list[tuple[int, Array]]:
    return [(int(c), np.flatnonzero(clusters == c)) for c in np.unique(clusters)]


def _random(candidates: Candidates, k: int, seed: int) -> Array:
    return np.asarray(np.argsort(mix(candidates.keys(), seed, "random batch"), kind="stable")[:k])


STRATEGIES: dict[str, Strategy] = {
    "badge": _badge,
    "k_center": _k_center,
    "k_means_pp": _k_means_pp,
    "typical": _typical,
    "random": _random,
}
