"""How far the standard errors of the scores blur the cut between kept and left examples.

    undecided:        |score - cut| <= z se                  noise at the cut = share of the kept set that is undecided
    expected wrong  = sum over kept of Phi((cut - score) / se)      kept, though the true score lies below the cut
    expected missed = sum over left of Phi((score - cut) / se)      left, though the true score lies above it

Phi is the normal distribution function; at se = 0 it is 0 for an example on its own side of the cut, 1 on the other.
An unknown error is a NaN, and such an example is never undecided and adds nothing. Sums are integers in units of
2^-62, so parts of any layout add up to the same bits. Cost: O(n) time, O(1) state. Normal errors about the observed
score are the usual large-sample approximation; no paper is followed.

Caution: the true score is taken as score + se * normal, with no prior. Where true scores crowd below the cut, as they
do for a small ratio, more of the kept set is wrong than expected here (the winner's curse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import ndtr

from raydelt.scorers.protocol import Array

HALF_BITS = 31


@dataclass(frozen=True)
class Noise:
    """The cut's noise: numbers of examples, the share of the kept set, expected numbers on the wrong side."""

    kept: int
    undecided_kept: int
    undecided_left: int
    share: float
    expected_wrong: float
    expected_missed: float


@dataclass(frozen=True)
class NoiseSums:
    """A commutative monoid over parts; `NoiseSums()` is its zero, `wrong` and `missed` are in units of 2^-62."""

    known: int = 0
    kept: int = 0
    undecided_kept: int = 0
    undecided_left: int = 0
    wrong: int = 0
    missed: int = 0

    def merge(self, other: NoiseSums) -> NoiseSums:
        return NoiseSums(
            self.known + other.known,
            self.kept + other.kept,
            self.undecided_kept + other.undecided_kept,
            self.undecided_left + other.undecided_left,
            self.wrong + other.wrong,
            self.missed + other.missed,
        )

    def finish(self) -> Noise | None:
        """The figures, or None where no standard error is known."""
        if not self.known:
            return None
        return Noise(
            self.kept,
            self.undecided_kept,
            self.undecided_left,
            self.undecided_kept / max(self.kept, 1),
            from_units(self.wrong),
            from_units(self.missed),
        )


def noise_of(
    scores: Array, errors: Array, kept: Array, cut: float | Array, *, gate: Array | None = None, z: float = 1.0
) -> NoiseSums:
    """The sums over one part: scores [n], standard errors [n] (NaN where unknown), mask kept [n], cut scalar or [n].

    An example that fails the `gate` [n] counts in the size of the kept set alone: the cut did not decide about it.
    With quotas every class has a cut of its own; give each example that of its class.
    """
    known = ~np.isnan(errors)
    decided = known if gate is None else known & gate
    near = undecided(scores, errors, cut, z=z) & decided
    below = below_cut(scores, errors, cut)
    above = below_cut(-scores, errors, np.negative(cut))
    return NoiseSums(
        known=int(np.count_nonzero(known)),
        kept=int(np.count_nonzero(kept)),
        undecided_kept=int(np.count_nonzero(near & kept)),
        undecided_left=int(np.count_nonzero(near & ~kept)),
        wrong=unit_sum(below[decided & kept]),
        missed=unit_sum(above[decided & ~kept]),
    )


def errors_of(table: pa.Table) -> Array:
    """The standard errors [n] of combined scores, NaN where they are unknown."""
    errors: Array = (
        table["score_se"].combine_chunks().cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    )
    return errors


def undecided(scores: Array, errors: Array, cut: float | Array, *, z: float = 1.0) -> Array:
    """Which examples [n] lie within z standard errors of the cut; none whose error is unknown (NaN)."""
    near: Array = np.abs(scores - cut) <= z * errors
    return near


def below_cut(scores: Array, errors: Array, cut: float | Array) -> Array:
    """The probability [n] that the true score lies below the cut; NaN where the error is unknown."""
    away = np.asarray(cut - scores, np.float64)
    exact = np.where(away > 0, np.inf, -np.inf)
    steps = np.divide(away, errors, out=exact, where=errors != 0)
    probability: Array = ndtr(steps)
    return probability


def unit_sum(values: Array) -> int:
    """The sum of values [n] in [0, 1], each rounded to units of 2^-62: exact, so the same in any order and layout."""
    # Two halves of 31 bits, because an int64 holds the sum of 2^32 of either but not of both together.
    scaled = np.asarray(values, np.float64) * 2.0**HALF_BITS
    high = np.floor(scaled)
    low = np.rint((scaled - high) * 2.0**HALF_BITS)
    return (int(high.astype(np.int64).sum()) << HALF_BITS) + int(low.astype(np.int64).sum())


def from_units(total: int) -> float:
    """A sum in units of 2^-62 as a float, rounded down: a sum of n that is just below n does not pass for n."""
    nearest = total / (1 << (2 * HALF_BITS))
    return nearest if nearest * 2.0 ** (2 * HALF_BITS) <= total else math.nextafter(nearest, 0.0)
