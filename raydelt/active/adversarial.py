"""Adversarial validation: can a classifier tell two sets of examples apart, and by which features?

    AUC = P(score of a row of b > score of a row of a), ties half, over pairs within one fold, scores by models that
    never saw the fold        0.5: nothing tells them apart
    w_i = p_i / (1 - p_i) n_a / n_b, clipped to [1 / c, c]      density of b over that of a;  ESS = (sum w)^2 / sum w^2

Scores are those of gradient-boosted trees, so that a difference in shape alone is found too. Their probabilities are
calibrated by a logistic fit on the held-out scores before the ratio. The interval is a Poisson bootstrap over groups,
apart in a and b. The p-value is that of a permutation test, and belongs to the AUC of the test's own classifier.

    verdict    ok: the interval's lower end <= 0.5      else alarm: AUC > 0.75      warn: AUC > 0.6      else ok

Cost: F fits of trees on n rows, O(B' n log n) for B' bootstraps, and the permutation test. Lopez-Paz and Oquab 2017
(classifier two-sample tests); Sugiyama et al. 2012 (density ratio).

Caution: leave out ids and times, which tell any two sets apart. Bits depend on the library's version, not on the
layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.stats import poisson

from raydelt.active.permutation import permutation_p_value
from raydelt.active.two_sets import Rows, Settings, lowest, together
from raydelt.examples import UInt64Array, mix, uniform
from raydelt.scorers.protocol import Array

FARTHEST_LOGIT = 30.0

Verdict = Literal["ok", "warn", "alarm"]


@dataclass(frozen=True)
class Comparison:
    """AUC with its interval, p-value, verdict; density ratio b / a [n] of the rows of a; ESS; (feature, AUC lost)."""

    auc: float
    low: float
    high: float
    p_value: float
    verdict: Verdict
    ratio: Array
    ess: float
    features: list[tuple[str, float]] = field(default_factory=list)


def adversarial_validation(
    a: Array,
    b: Array,
    keys_a: UInt64Array,
    keys_b: UInt64Array,
    *,
    seed: int,
    names: Sequence[str] | None = None,
    settings: Settings | None = None,
) -> Comparison:
    """Whether features a [n, d] and b [m, d] come from one distribution; keys [n] and [m] of their groups.

    Raises:
        InputError: a set has fewer than 10 rows or than folds, widths or lengths differ, or a number is not finite.
    """
    s = settings or Settings()
    everything = together(a, b, keys_a, keys_b, s, seed)
    rows = everything.take(lowest(everything, s.rows, seed))
    models = [_fitted(rows.take(np.flatnonzero(rows.fold != f)), s, seed) for f in range(s.folds)]
    logits = _held_out(models, rows)
    auc = auc_of(logits, rows.y, rows.fold)
    low, high = _interval(logits, rows, s, seed)
    own = everything.take(np.flatnonzero(~everything.y))
    ratio = np.empty(len(a))
    ratio[own.row] = _ratio(_held_out(models, own), logits, rows.y, s.clip)
    shown = names or [f"feature {j}" for j in range(everything.x.shape[1])]
    p_value = permutation_p_value(a, b, keys_a, keys_b, seed=seed, settings=s)
    ess = float(ratio.sum() ** 2 / np.square(ratio).sum())
    features = _important(models, rows, shown, s, seed)
    return Comparison(auc, low, high, p_value, verdict_of(auc, low, s), ratio, ess, features)


def verdict_of(auc: float, low: float, settings: Settings) -> Verdict:
    """What an AUC with the lower end of its interval means."""
    if low <= 0.5 or auc <= settings.warn:
        return "ok"
    return "alarm" if auc > settings.alarm else "warn"


def auc_of(scores: Array, y: Array, fold: Array, weights: Array | None = None) -> float:
    """P(score of a y above that of another), ties half, over weighted pairs in one fold; 0.5 where there are none."""
    return _weighted_auc(_places(scores, fold), y, np.ones(len(scores)) if weights is None else weights)


def _places(scores: Array, fold: Array) -> list[tuple[Array, Array]]:
    """Of each fold the rows, and the place of each row's score among them."""
    own = [np.flatnonzero(fold == f) for f in np.unique(fold)]
    return [(rows, np.unique(scores[rows], return_inverse=True)[1]) for rows in own]


def _weighted_auc(places: list[tuple[Array, Array]], y: Array, weights: Array) -> float:
    above, pairs = 0.0, 0.0
    for rows, place in places:
        yes = np.bincount(place, weights=weights[rows] * y[rows])
        no = np.bincount(place, weights=weights[rows] * ~y[rows])
        above += float(yes @ (np.cumsum(no) - no / 2))
        pairs += float(yes.sum() * no.sum())
    return above / pairs if pairs else 0.5


def _fitted(rows: Rows, s: Settings, seed: int) -> Any:
    """Trees on these rows; None where they are all of one set."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if rows.y.all() or not rows.y.any():
        return None
    return HistGradientBoostingClassifier(
        max_iter=s.trees,
        max_leaf_nodes=s.leaves,
        learning_rate=s.learning_rate,
        min_samples_leaf=max(2, min(20, len(rows.y) // 20)),
        early_stopping=False,
        random_state=seed % 2**32,
    ).fit(rows.x, rows.y)


def _held_out(models: Sequence[Any], rows: Rows) -> Array:
    """Log odds [n] by the model that did not see each row's fold."""
    found = np.zeros(len(rows.y))
    for f, model in enumerate(models):
        own = np.flatnonzero(rows.fold == f)
        if model is not None and len(own):
            found[own] = model.decision_function(rows.x[own])
    return found


def _interval(logits: Array, rows: Rows, s: Settings, seed: int) -> tuple[float, float]:
    counts, places, draws = poisson.cdf(np.arange(20), 1.0), _places(logits, rows.fold), []
    for index in range(s.bootstraps):
        times = np.searchsorted(counts, uniform(rows.keys, seed, "bootstrap", index)).astype(np.float64)
        draws.append(_weighted_auc(places, rows.y, times))
    low, high = np.quantile(draws, [(1 - s.level) / 2, (1 + s.level) / 2])
    return float(low), float(high)


def _ratio(own: Array, logits: Array, y: Array, clip: float) -> Array:
    """Clipped density ratios b / a from log odds, calibrated on the held-out log odds [n] of all rows."""
    from sklearn.linear_model import LogisticRegression

    logits, own = (np.clip(values, -FARTHEST_LOGIT, FARTHEST_LOGIT) for values in (logits, own))
    fit = LogisticRegression(C=1e6).fit(logits[:, None], y)
    # Trees that found nothing can come out slightly reversed; a ratio that falls with the odds would be noise.
    slope = max(float(fit.coef_[0, 0]), 0.0)
    shift = float(fit.intercept_[0]) if slope else math.log(y.sum() / (~y).sum())
    ratio = np.exp(np.clip(slope * own + shift, -700, 700)) * (~y).sum() / y.sum()
    return np.asarray(np.clip(ratio, 1 / clip, clip))


def _important(
    models: Sequence[Any], rows: Rows, names: Sequence[str], s: Settings, seed: int
) -> list[tuple[str, float]]:
    """The features whose shuffling among held-out rows loses the most AUC, and how much; highest first."""
    if s.top == 0:
        return []
    rows = rows.take(lowest(rows, s.importance_rows, seed))
    whole = auc_of(_held_out(models, rows), rows.y, rows.fold)
    lost = np.zeros(rows.x.shape[1])
    for j in np.flatnonzero(np.ptp(rows.x, axis=0) > 0):
        draws = mix(rows.keys, seed, "importance", int(j))
        # By fold, so that a row gets the value of another one of its own fold.
        places, sources = np.argsort(rows.fold, kind="stable"), np.lexsort((draws, rows.fold))
        x = rows.x.copy()
        x[places, j] = rows.x[sources, j]
        shuffled = Rows(x, rows.y, rows.keys, rows.fold, rows.row)
        lost[j] = whole - auc_of(_held_out(models, shuffled), rows.y, rows.fold)
    best = np.argsort(-lost, kind="stable")[: s.top]
    return [(names[j], float(lost[j])) for j in best if lost[j] > 0]
