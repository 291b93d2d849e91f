"""Adversarial validation: can a classifier tell two sets of examples apart, and by which features?

    AUC = P(score of a row of b > score of a row of a), ties half, over pairs within one fold, scores by models that
    never saw the fold        0.5: nothing tells them apart
    p   = (1 + #{permuted AUC >= AUC}) / (1 + B)       labels permuted over groups, folds fixed
    w_i = p_i / (1 - p_i) n_a / n_b, clipped to [1 / c, c]      density of b over that of a;  ESS = (sum w)^2 / sum w^2

Scores are those of gradient-boosted trees, so that a difference in shape alone is found too. Their probabilities are
calibrated by a logistic fit on the held-out scores before the ratio. The interval is a Poisson bootstrap over groups,
apart in a and b. The permutations use ridge regression on random Fourier features instead, whose fit on all permuted
labels at once is one matrix product; p belongs to its AUC. Folds, samples, draws and permutations are hashes of
(seed, key), rows are put in the order of keys, and examples of one group (equal keys) share all of them.

    verdict    ok: the interval's lower end <= 0.5      else alarm: AUC > 0.75      warn: AUC > 0.6      else ok

Cost: F fits of trees on n rows, O(B' n log n) for B' bootstraps, O(m D (D + B)) for m rows of the permutation test and
D = 2 x frequencies. Memory O(m (D + B)). Lopez-Paz and Oquab 2017 (classifier two-sample tests); Rahimi and Recht 2007
(Fourier features); Sugiyama et al. 2012 (density ratio).

Caution: leave out ids and times, which tell any two sets apart. With many rows a harmless difference has a small p;
the AUC says how large it is. Bits depend on the library's version, not on the layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy.special import ndtri
from scipy.stats import poisson, rankdata

from raydelt.errors import InputError, SpecError
from raydelt.examples import UInt64Array, mix, uniform
from raydelt.scorers.protocol import Array

LEAST_ROWS = 10
BANDWIDTH_ROWS = 256
DIGITS = 9
FARTHEST_LOGIT = 30.0

Verdict = Literal["ok", "warn", "alarm"]


@dataclass(frozen=True)
class Settings:
    """Sizes and bounds; `rows` and `permutation_rows` are the most per set, drawn by hash."""

    folds: int = 5
    rows: int = 100_000
    trees: int = 100
    leaves: int = 8
    learning_rate: float = 0.1
    bootstraps: int = 500
    level: float = 0.95
    permutations: int = 199
    permutation_rows: int = 2000
    frequencies: int = 128
    ridge: float = 1e-2
    warn: float = 0.6
    alarm: float = 0.75
    clip: float = 20.0
    top: int = 10
    importance_rows: int = 2000

    def __post_init__(self) -> None:
        least = {"folds": 2, "rows": LEAST_ROWS, "trees": 1, "leaves": 2, "bootstraps": 2, "permutations": 1}
        least |= {"permutation_rows": LEAST_ROWS, "frequencies": 1, "top": 0, "importance_rows": LEAST_ROWS}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise SpecError(f"adversarial.{name} {getattr(self, name)} must be at least {low}")
        inside = 0 < self.level < 1 and self.learning_rate > 0 and self.ridge > 0 and self.clip > 1
        if not (inside and 0.5 <= self.warn <= self.alarm <= 1):
            raise SpecError(
                "adversarial needs 0 < level < 1, learning_rate and ridge above 0, clip above 1, and "
                "0.5 <= warn <= alarm <= 1"
            )


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


@dataclass(frozen=True)
class _Rows:
    """Both sets in one order: x [n, d], whether of b [n], group keys [n], fold [n], original row [n]."""

    x: Array
    y: Array
    keys: UInt64Array
    fold: Array
    row: Array

    def take(self, rows: Array) -> _Rows:
        return _Rows(self.x[rows], self.y[rows], self.keys[rows], self.fold[rows], self.row[rows])


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
    everything = _together(a, b, keys_a, keys_b, s, seed)
    rows = everything.take(_lowest(everything, s.rows, seed))
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


def permutation_p_value(
    a: Array, b: Array, keys_a: UInt64Array, keys_b: UInt64Array, *, seed: int, settings: Settings | None = None
) -> float:
    """The chance that sets of one distribution are told apart as well as a [n, d] and b [m, d], by Fourier ridge."""
    s = settings or Settings()
    rows = _together(a, b, keys_a, keys_b, s, seed)
    rows = rows.take(_lowest(rows, s.permutation_rows, seed))
    groups, first, inverse = np.unique(rows.keys, return_index=True, return_inverse=True)
    label = rows.y[first]
    columns = [rows.y]
    for b_th in range(s.permutations):
        columns.append(label[np.argsort(mix(groups, seed, "permutation", b_th), kind="stable")][inverse])
    found = _ridge_aucs(_fourier(rows, s.frequencies, seed), np.stack(columns, axis=1), rows.fold, s.ridge)
    return float((1 + np.count_nonzero(found[1:] >= found[0])) / (1 + s.permutations))


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


def _together(a: Array, b: Array, keys_a: UInt64Array, keys_b: UInt64Array, s: Settings, seed: int) -> _Rows:
    for name, x, keys in (("first", a, keys_a), ("second", b, keys_b)):
        if np.ndim(x) != 2 or len(x) != len(keys):
            raise InputError(f"the {name} set has shape {list(np.shape(x))} and {len(keys)} keys: give [n, d] and n")
        if len(x) < max(LEAST_ROWS, s.folds):
            raise InputError(f"the {name} set has {len(x)} rows: give at least {max(LEAST_ROWS, s.folds)}")
        if not np.isfinite(x).all():
            raise InputError(f"the {name} set holds values that are not finite: drop or repair those rows")
    if a.shape[1] != b.shape[1]:
        raise InputError(f"the sets have widths {a.shape[1]} and {b.shape[1]}: give both the same features")
    x, keys = np.concatenate([a, b]).astype(np.float64), np.concatenate([keys_a, keys_b])
    y = np.arange(len(x)) >= len(a)
    order = _order(x, y, keys)
    groups, inverse = np.unique(keys, return_inverse=True)
    rank = np.empty(len(groups), np.int64)
    rank[np.lexsort((groups, mix(groups, seed, "adversarial fold")))] = np.arange(len(groups))
    row = np.concatenate([np.arange(len(a)), np.arange(len(b))])
    return _Rows(x[order], y[order], keys[order], (rank % s.folds)[inverse][order], row[order])


def _order(x: Array, y: Array, keys: UInt64Array) -> Array:
    """Indices [n] by (key, set), and by the features where those tie: no order of the input changes the problem."""
    order = np.lexsort((y, keys))
    same = (keys[order][1:] == keys[order][:-1]) & (y[order][1:] == y[order][:-1])
    tied = np.flatnonzero(np.concatenate([same, [False]]) | np.concatenate([[False], same]))
    own = order[tied]
    order[tied] = own[np.lexsort((*x[own].T[::-1], y[own], keys[own]))]
    return order


def _lowest(rows: _Rows, most: int, seed: int) -> Array:
    """Rows, in order, with the lowest hashes: at most so many of either set."""
    draws = mix(rows.keys, seed, "adversarial sample")
    kept = []
    for side in (False, True):
        own = np.flatnonzero(rows.y == side)
        kept.append(own[np.argsort(draws[own], kind="stable")[:most]])
    return np.sort(np.concatenate(kept))


def _fitted(rows: _Rows, s: Settings, seed: int) -> Any:
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


def _held_out(models: Sequence[Any], rows: _Rows) -> Array:
    """Log odds [n] by the model that did not see each row's fold."""
    found = np.zeros(len(rows.y))
    for f, model in enumerate(models):
        own = np.flatnonzero(rows.fold == f)
        if model is not None and len(own):
            found[own] = model.decision_function(rows.x[own])
    return found


def _interval(logits: Array, rows: _Rows, s: Settings, seed: int) -> tuple[float, float]:
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
    models: Sequence[Any], rows: _Rows, names: Sequence[str], s: Settings, seed: int
) -> list[tuple[str, float]]:
    """The features whose shuffling among held-out rows loses the most AUC, and how much; highest first."""
    if s.top == 0:
        return []
    rows = rows.take(_lowest(rows, s.importance_rows, seed))
    whole = auc_of(_held_out(models, rows), rows.y, rows.fold)
    lost = np.zeros(rows.x.shape[1])
    for j in np.flatnonzero(np.ptp(rows.x, axis=0) > 0):
        draws = mix(rows.keys, seed, "importance", int(j))
        # By fold, so that a row gets the value of another one of its own fold.
        places, sources = np.argsort(rows.fold, kind="stable"), np.lexsort((draws, rows.fold))
        x = rows.x.copy()
        x[places, j] = rows.x[sources, j]
        shuffled = _Rows(x, rows.y, rows.keys, rows.fold, rows.row)
        lost[j] = whole - auc_of(_held_out(models, shuffled), rows.y, rows.fold)
    best = np.argsort(-lost, kind="stable")[: s.top]
    return [(names[j], float(lost[j])) for j in best if lost[j] > 0]


def _fourier(rows: _Rows, frequencies: int, seed: int) -> Array:
    """Random Fourier features [n, 2 D] of a Gaussian kernel, as wide as the median distance of standardised rows."""
    spread = rows.x.std(axis=0)
    x = (rows.x - rows.x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    sample = x[_lowest(rows, BANDWIDTH_ROWS // 2, seed)]
    squared = np.square(sample[:, None] - sample[None]).sum(axis=-1)
    width = math.sqrt(float(np.median(squared[np.triu_indices(len(sample), 1)]))) or 1.0
    cells = np.arange(x.shape[1] * frequencies, dtype=np.uint64)
    waves = ndtri(uniform(cells, seed, "Fourier")).reshape(x.shape[1], frequencies) / width
    angles = x @ waves
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / math.sqrt(frequencies)


def _ridge_aucs(z: Array, y: Array, fold: Array, ridge: float) -> Array:
    """AUC [B] by fold of ridge regression on features z [n, D] of labels y [n, B], all columns at once."""
    above, pairs = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for f in np.unique(fold):
        train, test = fold != f, fold == f
        mean = z[train].mean(axis=0)
        centred, target = z[train] - mean, y[train] - y[train].mean(axis=0)
        gram = centred.T @ centred + ridge * len(centred) / z.shape[1] * np.eye(z.shape[1])
        scores = (z[test] - mean) @ np.linalg.solve(gram, centred.T @ target)
        # Rounded, since equal rows may come out of a matrix product with different last bits.
        ranks = rankdata(np.round(scores, DIGITS), axis=0)
        yes = y[test].sum(axis=0)
        above += (ranks * y[test]).sum(axis=0) - yes * (yes + 1) / 2
        pairs += yes * (test.sum() - yes)
    return np.asarray(np.divide(above, pairs, out=np.full(len(above), 0.5), where=pairs > 0))
