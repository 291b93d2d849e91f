"""The data-constrained law of language models fitted to runs of several sizes, token budgets and pools.

    minimise sum rho(log L_j - log L(N_j, D_j, U_j)),   rho: soft l1 beyond `soft`
    L = E + A / N'^alpha + B / D'^beta, N' and D' saturating with excess parameters and repeats (see `laws`)

With `repetition=False` nothing saturates: the law of unique tokens, to compare with. Cost: O(runs) an evaluation, some
hundreds of them a start. Muennighoff et al. 2023 (arXiv 2305.16264), whose own fit holds all but R* at other runs.

Caution: R* is nearly flat in the published runs (its bootstrap reaches from 8 to no bound). Read the predictions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from raydelt.errors import InputError
from raydelt.plan.laws import ConstrainedLaw
from raydelt.scorers.protocol import Array

LOW = np.array([0.0, 0.0, -5.0, 0.05, 0.05, np.log(0.1), np.log(0.1)])
HIGH = np.array([25.0, 25.0, 3.0, 1.5, 1.5, np.log(1e4), np.log(1e4)])
PUBLISHED = np.array([6.26, 7.3, 0.63, 0.35, 0.35, 2.7, 1.7])


def fit_constrained(
    parameters: Any,
    tokens: Any,
    unique: Any,
    loss: Any,
    *,
    repetition: bool = True,
    soft: float = 0.01,
    starts: int = 8,
    seed: int = 0,
) -> ConstrainedLaw:
    """The law of runs [n] with so many parameters, tokens, unique tokens, and loss in nats per token.

    Raises:
        InputError: fewer than eight runs, or values that are not positive and finite.
    """
    runs = np.array([np.asarray(value, np.float64) for value in (parameters, tokens, unique, loss)])
    if runs.shape[1] < 8 or not np.all(np.isfinite(runs) & (runs > 0)):
        raise InputError(f"{runs.shape[1]} runs for the constrained law: give 8 or more, positive and finite")
    count = 7 if repetition else 5

    def residuals(theta: Array) -> Array:
        difference: Array = np.log(_law(theta).loss(*runs[:3])) - np.log(runs[3])
        return difference

    rng, options = np.random.default_rng(seed), {"f_scale": soft, "ftol": 1e-10, "xtol": 1e-10, "max_nfev": 400}
    bounds, near = (LOW[:count], HIGH[:count]), (LOW + 1e-6, HIGH - 1e-6)
    found = [
        least_squares(
            residuals,
            np.clip(PUBLISHED + (index > 0) * rng.normal(size=7), *near)[:count],
            bounds=bounds,
            loss="soft_l1",
            x_scale="jac",
            **options,
        )
        for index in range(starts)
    ]
    return _law(min(found, key=lambda result: float(result.cost)).x)


def _law(theta: Array) -> ConstrainedLaw:
    values = [float(value) for value in theta]
    law = replace(ConstrainedLaw(*values[:5]), repeats=float("inf"), excess=float("inf"))
    return law if len(values) == 5 else replace(law, repeats=float(np.exp(values[5])), excess=float(np.exp(values[6])))
