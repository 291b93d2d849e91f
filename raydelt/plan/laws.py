"""Scaling laws of loss over examples seen, for pools of data that are seen again and again, and for their mixtures.

    utility          y(n) = y0 (n_0 / pivot)^b_0 prod_{k>=1} (e_k / s_k)^b_k + d
                     epoch k = 0, 1, ... of a pool of D runs from s_k = kD to e_k = min((k+1) D, n);  n_0 = min(D, n)
                     b_k = sum_i w_i b_i 2^(-k / tau_i)                       half-life tau in epochs, b < 0
    effective data   the same in N = sum_k (e_k - s_k) m_k, the examples that still teach, instead of n
                     m_k = sum_i w_i 2^(-k / tau_i),   b_k = sum_i w_i b_i 2^(-k / tau_i) / m_k
    mixtures         w_i = D_i / D,   tau_i -> tau_i (D / U_i)^gamma          U_i: size of the pool tau_i comes from

gamma = 1 with equal buckets is the pool theorem (p buckets: tau_i -> p tau_i); gamma = 0 gives a larger pool no bonus.
The pivot is where every pool has the loss y0 + d; it, D and n are in one unit (examples or tokens). Error rates have
y0 = 1. Cost: O(epochs + budgets). Goyal et al. 2024 (arXiv 2404.07177); the constrained law of language models is
that of Muennighoff et al. 2023 (arXiv 2305.16264).

Caution: no pool of these laws ever gets worse by repetition; real training may overfit. Half-lives of mixtures are
an extrapolation that nothing here has measured, and unequal weights are not covered by the theorem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raydelt.errors import InputError
from raydelt.scorers.protocol import Array

Law = Literal["utility", "effective_data"]
MOST_EPOCHS = 1_000_000
# After so many half-lives an epoch adds less than a double can hold beside the first.
SPENT = 64.0


@dataclass(frozen=True)
class Curves:
    """The laws of p buckets, best first: b, tau (epochs) and size [p]; pivot n0, scale y0 and floor d are shared.

    `size` is the size of the pool that tau belongs to; it and `pivot` are in the unit of the examples seen.
    """

    b: Array
    tau: Array
    size: Array
    pivot: float
    scale: float = 1.0
    floor: float = 0.0
    law: Law = "utility"
    gamma: float = 1.0
    d_inside: bool = False

    def loss(self, n: Any, members: Sequence[int], sizes: Sequence[float] | Array | None = None) -> Array:
        """The loss [n] after n seen of a mixture of `members`, of `sizes` [members] (their own by default)."""
        chosen = np.asarray(members, np.int64)
        parts = self.size[chosen] if sizes is None else np.asarray(sizes, np.float64)
        total = float(parts.sum())
        tau = pooled_half_life(self.tau[chosen], self.size[chosen], total, gamma=self.gamma)
        law: dict[str, Any] = {"pivot": self.pivot, "scale": self.scale, "floor": self.floor, "weights": parts / total}
        if self.law == "utility":
            return utility(n, self.b[chosen], tau, unique=total, d_inside=self.d_inside, **law)
        return effective_data(n, self.b[chosen], tau, unique=total, **law)


def utility(
    n: Any,
    b: Any,
    tau: Any,
    *,
    unique: float,
    pivot: float,
    scale: float = 1.0,
    floor: float = 0.0,
    weights: Any = None,
    d_inside: bool = False,
) -> Array:
    """The loss [n] of one pool, or of a mixture of b, tau and weights [m] (equal by default), by decaying utility.

    With `d_inside` the floor decays with the epochs too, as in the published code; the published formula adds it last.
    """
    b, tau, weights = _members(b, tau, weights)
    n = _seen(n, unique, pivot)
    decay = _decay(n, tau, unique)
    first, later = _growth(n, unique, pivot, decay @ (weights * b), np.ones(len(decay)))
    power = scale * np.exp(first)
    loss: Array = (power + floor) * np.exp(later) if d_inside else power * np.exp(later) + floor
    return loss


def effective_data(
    n: Any,
    b: Any,
    tau: Any,
    *,
    unique: float,
    pivot: float,
    scale: float = 1.0,
    floor: float = 0.0,
    weights: Any = None,
) -> Array:
    """The loss [n] of one pool, or of a mixture of b, tau and weights [m] (equal by default), by effective data."""
    b, tau, weights = _members(b, tau, weights)
    n = _seen(n, unique, pivot)
    decay = _decay(n, tau, unique)
    fresh = decay @ weights
    first, later = _growth(n, unique, pivot, decay @ (weights * b) / fresh, fresh)
    loss: Array = scale * np.exp(first + later) + floor
    return loss


def pooled_half_life(tau: Array, size: Array, total: float, *, gamma: float) -> Array:
    """Half-lives [m] in epochs of a pool of `total`, for half-lives tau [m] known of pools of `size` [m]."""
    pooled: Array = tau * (total / size) ** gamma
    return pooled


def _members(b: Any, tau: Any, weights: Any) -> tuple[Array, Array, Array]:
    b, tau = np.atleast_1d(np.asarray(b, np.float64)), np.atleast_1d(np.asarray(tau, np.float64))
    shares = np.full(len(b), 1.0 / len(b)) if weights is None else np.atleast_1d(np.asarray(weights, np.float64))
    return b, tau, shares


def _seen(n: Any, unique: float, pivot: float) -> Array:
    seen: Array = np.asarray(n, np.float64)
    if not (unique > 0 and pivot > 0 and np.all(seen > 0)):
        raise InputError(
            f"a law of {unique:g} unique examples with pivot {pivot:g} needs all three above 0, with what is seen: "
            "give positive numbers"
        )
    if seen.size and float(seen.max()) > MOST_EPOCHS * unique:
        raise InputError(
            f"a budget of {float(seen.max()):g} repeats a pool of {unique:g} more than {MOST_EPOCHS:,} times: "
            "lower the budget or enlarge the pool"
        )
    return seen


def _decay(n: Array, tau: Array, unique: float) -> Array:
    """2^(-k / tau) [epochs, members], for the epochs that n needs or that still add something."""
    needed = np.ceil(float(n.max()) / unique) if n.size else 1.0
    epochs = int(max(min(needed, np.ceil(SPENT * float(tau.max())) + 1), 1))
    decay: Array = np.exp2(-np.arange(epochs)[:, None] / tau)
    return decay


def _growth(n: Array, unique: float, pivot: float, b: Array, fresh: Array) -> tuple[Array, Array]:
    """The logarithm of the power law [n] after the first epoch, and what later epochs add to it.

    b and fresh [epochs]: the exponent of each epoch, and how much of one of its examples counts.
    """
    ends = unique * np.cumsum(fresh)
    later = np.concatenate([[0.0], np.cumsum(b[1:] * np.log(ends[1:] / ends[:-1]))])
    first = b[0] * np.log(np.minimum(n, unique) / pivot)
    epoch = np.maximum(np.ceil(n / unique), 1).astype(np.int64) - 1
    inside = np.minimum(epoch, len(ends) - 1)
    before = np.maximum(inside - 1, 0)
    # The table ends where later epochs add nothing: beyond it the last epoch counts in full.
    part = np.minimum(n - inside * unique, unique) * fresh[inside]
    partial = later[before] + b[inside] * np.log1p(part / ends[before])
    return first, np.where(epoch > 0, partial, 0.0)


@dataclass(frozen=True)
class ConstrainedLaw:
    """E + A / N'^alpha + B / D'^beta, where repeated tokens and excess parameters saturate.

    D' = U (1 + R* (1 - exp(-R / R*))), R = D / U - 1, R* = `repeats`; N' alike with the parameters that U tokens call
    for, and R* = `excess`. The constants are the published ones for C4; logarithms of A, B and E.
    """

    log_a: float = 6.255414
    log_b: float = 7.3049974
    log_e: float = 0.6254804
    alpha: float = 0.3526596
    beta: float = 0.3526596
    repeats: float = 15.387756
    excess: float = 5.309743

    def loss(self, parameters: Any, tokens: Any, unique: Any) -> Array:
        """The loss, in nats per token, of models of so many parameters on tokens, `unique` of them different."""
        a, b = np.exp(self.log_a), np.exp(self.log_b)
        parameters, tokens, unique = (np.asarray(value, np.float64) for value in (parameters, tokens, unique))
        if not np.all((unique <= tokens) & (unique > 0) & (parameters > 0)):
            raise InputError("tokens_unique must be above 0 and at most tokens_total, and params above 0")
        ratio = (self.alpha * a / (self.beta * b)) ** (1 / (self.alpha + self.beta))
        called_for = np.minimum(parameters, (unique * ratio) ** (self.beta / self.alpha) * ratio)
        model = _saturated(called_for, parameters / called_for - 1, self.excess)
        data = _saturated(unique, tokens / unique - 1, self.repeats)
        loss: Array = np.exp(self.log_e) + a / model**self.alpha + b / data**self.beta
        return loss


def _saturated(base: Array, repeats: Array, limit: float) -> Array:
    """What `base` counts after so many repeats; an infinite limit has each count in full."""
    saturated: Array = base + base * (repeats if np.isinf(limit) else limit * -np.expm1(-repeats / limit))
    return saturated
