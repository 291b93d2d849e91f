"""How the components agree: Spearman's correlations, redundancy, and overlap of the examples each puts highest.

With d = (count below + count at or below) - n, an integer that grows with the mid-rank, over all n examples:

    rho_ab        = (n S_ab - s_a s_b) / sqrt((n S_aa - s_a^2) (n S_bb - s_b^2)),   s_a = sum d_a,  S_ab = sum d_a d_b
    redundancy_a  = r' R^-1 r, the R^2 of regressing component a's mid-ranks on those of the others
    overlap_ab    = |T_a and T_b| / |T_a or T_b|,   T_a = {value >= the threshold of a}

so rho is Spearman's, ties and all. The sums are exact integers: parts may be cut and merged in any way, and give the
same bits. Cost: O(n c^2) time by matrix products of `ROWS` rows, c^2 integers of state. Sources: Spearman 1904;
Jaccard 1901.

Caution: redundant is not useless. Two components that agree on the whole may differ just at the top, where the
selection is made: look at the overlap too. A constant component has no correlation (NaN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydelt.examples import column_of
from raydelt.scorers.composite import Distribution
from raydelt.scorers.protocol import Array

# Digits below 2^18 in products of 2^16 rows stay below 2^53, so float64 holds every sum exactly, up to n = 2^36.
DIGIT_BITS = 18
ROWS = 1 << 16
# Eigenvalues of a correlation matrix below this share of the largest are duplicates' rounding errors.
SINGULAR = 1e-13


@dataclass(frozen=True)
class Agreement:
    """Figures of c components over `rows` examples."""

    names: tuple[str, ...]
    rows: int
    spearman: Array  # [c, c]
    redundancy: Array  # [c]
    overlap: Array  # [c, c]

    def redundant(self, threshold: float = 0.95) -> list[tuple[str, str, float]]:
        """Pairs (a, b, rho) with |rho| at or above the threshold, the strongest first; opposites count too."""
        upper = zip(*np.triu_indices(len(self.names), 1), strict=True)
        pairs = [(self.names[a], self.names[b], float(self.spearman[a, b])) for a, b in upper]
        return sorted((pair for pair in pairs if abs(pair[2]) >= threshold), key=lambda pair: -abs(pair[2]))


@dataclass(frozen=True)
class AgreementState:
    """Sums over some of the examples; `sums` and `cross` are arrays of Python integers, which never overflow."""

    rows: int
    sums: Array  # [c]: of d
    cross: Array  # [c, c]: of d d'
    both: Array  # [c, c]: examples in the top sets of both components


@dataclass(frozen=True)
class AgreementReducer:
    """Monoid over batches of component columns, given each one's distribution over all and its top set's threshold."""

    distributions: Mapping[str, Distribution]
    thresholds: Mapping[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.distributions)

    def zero(self) -> AgreementState:
        c = len(self.names)
        return AgreementState(0, np.full(c, 0, object), np.full((c, c), 0, object), np.zeros((c, c), np.int64))

    def add(self, state: AgreementState, batch: pa.RecordBatch) -> AgreementState:
        for start in range(0, batch.num_rows, ROWS):
            state = self.merge(state, self._chunk(batch.slice(start, ROWS)))
        return state

    def _chunk(self, batch: pa.RecordBatch) -> AgreementState:
        columns = [column_of(batch, name) for name in self.names]
        places = [centred(self.distributions[name], x) for name, x in zip(self.names, columns, strict=True)]
        d = np.stack(places, axis=1)
        top = [x >= self.thresholds[name] for name, x in zip(self.names, columns, strict=True)]
        member = np.stack(top, axis=1).astype(np.float64)
        both = (member.T @ member).astype(np.int64)
        return AgreementState(batch.num_rows, d.sum(axis=0).astype(object), exact_products(d), both)

    def merge(self, left: AgreementState, right: AgreementState) -> AgreementState:
        return AgreementState(
            left.rows + right.rows, left.sums + right.sums, left.cross + right.cross, left.both + right.both
        )

    def finish(self, state: AgreementState) -> Agreement:
        moments = (state.rows * state.cross - np.outer(state.sums, state.sums)).astype(np.float64)
        spread = np.sqrt(moments.diagonal())
        sizes = state.both.diagonal()
        with np.errstate(invalid="ignore"):
            spearman = np.clip(moments / spread / spread[:, None], -1.0, 1.0)
            overlap = state.both / (sizes + sizes[:, None] - state.both)
        np.fill_diagonal(spearman, np.where(spread > 0, 1.0, np.nan))
        return Agreement(self.names, state.rows, spearman, redundancy(spearman), overlap)


def top_thresholds(distributions: Mapping[str, Distribution], ratio: float) -> dict[str, float]:
    """The k-th highest value of each component, k = max(1, round(ratio n)); its ties make a top set larger than k."""
    found = {}
    for name, distribution in distributions.items():
        cumulative = np.cumsum(distribution.counts)
        k = max(1, int(np.floor(ratio * cumulative[-1] + 0.5)))
        found[name] = float(distribution.values[np.searchsorted(cumulative, cumulative[-1] - k, side="right")])
    return found


def centred(distribution: Distribution, x: Array) -> Array:
    """d [n] int64: how many of all values are below x, plus how many are at or below, minus all of them."""
    n = int(distribution.counts.sum())
    places: Array = np.rint(2.0 * n * distribution.ecdf(x)).astype(np.int64) - n
    return places


def exact_products(d: Array) -> Array:
    """d' d [c, c] as Python integers, for at most `ROWS` rows of integers d [n, c] below 2^36 in size."""
    c = d.shape[1]
    digits = np.hstack([d >> DIGIT_BITS, d & ((1 << DIGIT_BITS) - 1)]).astype(np.float64)
    products = (digits.T @ digits).astype(np.int64).astype(object)
    middle = products[:c, c:] + products[c:, :c]
    exact: Array = (products[:c, :c] << 2 * DIGIT_BITS) + (middle << DIGIT_BITS) + products[c:, c:]
    return exact


def redundancy(spearman: Array) -> Array:
    """R^2 [c] of each component on the others, from correlations [c, c]; NaN for a constant, 0 where it is alone."""
    found = np.full(len(spearman), np.nan)
    varying = np.flatnonzero(np.isfinite(spearman.diagonal()))
    for a in varying:
        others = varying[varying != a]
        r = spearman[others, a]
        inverse = np.linalg.pinv(spearman[np.ix_(others, others)], rcond=SINGULAR, hermitian=True)
        found[a] = np.clip(r @ inverse @ r, 0.0, 1.0)
    return found
