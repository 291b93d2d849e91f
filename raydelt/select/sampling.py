"""Sampling in place of a cut: the higher an example's weight, the likelier it is kept. Pure functions of draws.

    w = exp((score - mean) / std / temperature)          u = uniform(draw_key, seed, "select", method), in (0, 1)

    method     key                   kept                       inclusion probability     weight
    poisson    log w - log u         key >= t, sum of p = k     p = min(1, w / e^t)       1 / p
    priority   log w - log u         the k highest keys         min(1, w / e^t)           max(w, e^t) / w
    gumbel     log w - log(-log u)   the k highest keys         no closed form            1

Poisson's t is -log c for the constant c of p = min(1, c w): key >= t says u <= p. It is found by bisection, each step
a sum over the parts, and the number of kept examples is random with mean k. Priority's t is the (k+1)-th highest key,
-inf where there are only k. In both, the sum of weight * f over the kept examples is an unbiased estimate of the sum
of f over all (the weight of poisson is Horvitz and Thompson's). Weights are held as logarithms throughout.

A weight of zero has the key -inf, and such an example is not to be kept, even if fewer than k remain. The k highest
keys are an exact top-k over all parts, ties by the id. Cost: O(n) per pass; poisson 65 passes of O(1) state.

Sources: Duffield, Lund and Thorup 2007 (priority); Efraimidis and Spirakis 2006, the same as Gumbel top-k, which PDS
selects with (Gu et al. 2024). Caution: gumbel keeps exactly k, but no inclusion probability is proportional to w.
A temperature so low that |log w| passes 1e6 leaves no room for the draw: the highest scores are kept then.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raydelt.examples import FloatArray, UInt64Array, uniform
from raydelt.rank.noise import from_units, unit_sum

# Beyond any weight that makes a difference, and far enough from the greatest float for sums of a few to be finite.
GREATEST_LOG = 1e300
GREATEST = float(np.finfo(np.float64).max)
SMALLEST = float(np.finfo(np.float64).tiny)


def log_weights(scores: FloatArray, *, mean: float, std: float, temperature: float = 1.0) -> FloatArray:
    """Logarithms [n] of the sampling weights of scores [n], from the mean and deviation of all; all 0 where std is 0.

    Raises:
        ValueError: the temperature is not above 0, or the deviation is negative or not finite.
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature:g} must be above 0: 1 is usual, lower is closer to a cut")
    if not 0 <= std < math.inf:
        raise ValueError(f"std {std:g} must be finite and at least 0: rank scores that lie so far apart by percentile")
    if std == 0:
        return np.zeros(len(scores))
    with np.errstate(over="ignore"):
        found = (np.asarray(scores, np.float64) - mean) / std / temperature
    return np.clip(found, -GREATEST_LOG, GREATEST_LOG)


@dataclass(frozen=True)
class Poisson:
    """Every example is kept or not by its own draw: a random number of them, k on average."""

    name: ClassVar[str] = "poisson"

    def keys(self, log_weights: FloatArray, draw_keys: UInt64Array, seed: int) -> FloatArray:
        """Keys [n] of examples with log weights [n]; kept are those at or above the threshold."""
        return log_weights - np.log(_draws(draw_keys, seed, self.name))

    def importance(self, log_weights: FloatArray, threshold: float) -> tuple[FloatArray, FloatArray]:
        """Inclusion probabilities [n] and weights [n] at the threshold of `poisson_threshold`."""
        return _inverse(log_weights, threshold)


@dataclass(frozen=True)
class Priority:
    """Exactly k examples, with weights that estimate totals without bias."""

    name: ClassVar[str] = "priority"

    def keys(self, log_weights: FloatArray, draw_keys: UInt64Array, seed: int) -> FloatArray:
        """Keys [n] of examples with log weights [n]; kept are the k highest."""
        return log_weights - np.log(_draws(draw_keys, seed, self.name))

    def importance(self, log_weights: FloatArray, threshold: float) -> tuple[FloatArray, FloatArray]:
        """Probabilities [n] and weights [n] given the (k+1)-th highest key (-inf if there is none); for kept ones."""
        return _inverse(log_weights, threshold)


@dataclass(frozen=True)
class Gumbel:
    """Exactly k examples, drawn one after the other in proportion to the weights of those that are left."""

    name: ClassVar[str] = "gumbel"

    def keys(self, log_weights: FloatArray, draw_keys: UInt64Array, seed: int) -> FloatArray:
        """Keys [n] of examples with log weights [n]; kept are the k highest."""
        return log_weights - np.log(-np.log(_draws(draw_keys, seed, self.name)))

    def importance(self, log_weights: FloatArray, threshold: float) -> tuple[FloatArray, FloatArray]:
        """Probabilities [n], NaN as they have no closed form, and weights [n], all 1."""
        return np.full(len(log_weights), np.nan), np.ones(len(log_weights))


@dataclass(frozen=True)
class InclusionSum:
    """Monoid of the sum of min(1, w / e^threshold) over log weights [n], exact in units of 2^-62 in any layout."""

    threshold: float

    def zero(self) -> int:
        return 0

    def add(self, state: int, log_weights: FloatArray) -> int:
        return state + unit_sum(_inverse(log_weights, self.threshold)[0])

    def merge(self, left: int, right: int) -> int:
        return left + right

    def finish(self, state: int) -> float:
        return from_units(state)


def poisson_threshold(sum_of: Callable[[float], float], k: float) -> float:
    """The threshold at which inclusion probabilities sum to k, to the last bit of a float.

    `sum_of(threshold)` is `InclusionSum(threshold)` over all parts. Where fewer than k weights are above zero it is
    -inf: all of them are kept.
    """
    low, high = -_code(GREATEST), _code(GREATEST)
    if sum_of(_number(low)) < k:
        return -math.inf
    # Halving the codes, not the numbers: 64 steps reach neighbouring floats, whatever their size.
    while high - low > 1:
        middle = (low + high) // 2
        if sum_of(_number(middle)) < k:
            high = middle
        else:
            low = middle
    return _number(low)


def _code(number: float) -> int:
    """The place of a number >= 0 among all floats: 0 for 0, one more for each next one."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _number(code: int) -> float:
    """The float at a place; those below zero have negative places."""
    return math.copysign(struct.unpack("<d", struct.pack("<q", abs(code)))[0], code)


def _draws(draw_keys: UInt64Array, seed: int, method: str) -> FloatArray:
    # The greatest draw rounds to 1, whose Gumbel key would be infinite whatever the weight.
    return np.minimum(uniform(draw_keys, seed, "select", method), np.nextafter(1.0, 0.0))


def _inverse(log_weights: FloatArray, threshold: float) -> tuple[FloatArray, FloatArray]:
    """min(1, w / e^threshold) [n] and one over it [n]; both 0 where no draw can keep the example."""
    with np.errstate(over="ignore", invalid="ignore"):
        probability = np.exp(np.minimum(0.0, log_weights - threshold))
    probability[np.isneginf(log_weights)] = 0.0
    # A draw is at least 2^-54, so what is kept has a probability far above the smallest normal float.
    weight = np.divide(1.0, probability, out=np.zeros_like(probability), where=probability >= SMALLEST)
    return probability, weight
