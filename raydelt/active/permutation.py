"""Are two sets told apart better than by chance? A permutation test whose classifier fits all labels at once.

    p = (1 + #{permuted AUC >= AUC}) / (1 + B)       labels permuted over groups, folds fixed

The classifier is ridge regression on D random Fourier features of a Gaussian kernel, whose fit on all permuted labels
is one matrix product per fold. Cost: O(m D (D + B)) for m rows. Memory O(m (D + B)). Lopez-Paz and Oquab 2017
(classifier two-sample tests); Rahimi and Recht 2007 (Fourier features).

Caution: with many rows a harmless difference has a small p; an AUC says how large it is.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from raydelt.active.two_sets import Rows, Settings, lowest, together
from raydelt.examples import UInt64Array, mix, uniform
from raydelt.scorers.protocol import Array

BANDWIDTH_ROWS = 256
DIGITS = 9


def permutation_p_value(
    a: Array, b: Array, keys_a: UInt64Array, keys_b: UInt64Array, *, seed: int, settings: Settings | None = None
) -> float:
    """The chance that sets of one distribution are told apart as well as a [n, d] and b [m, d], by Fourier ridge."""
    s = settings or Settings()
    rows = together(a, b, keys_a, keys_b, s, seed)
    rows = rows.take(lowest(rows, s.permutation_rows, seed))
    groups, first, inverse = np.unique(rows.keys, return_index=True, return_inverse=True)
    label = rows.y[first]
    columns = [rows.y]
    for b_th in range(s.permutations):
        columns.append(label[np.argsort(mix(groups, seed, "permutation", b_th), kind="stable")][inverse])
    found = _ridge_aucs(_fourier(rows, s.frequencies, seed), np.stack(columns, axis=1), rows.fold, s.ridge)
    return float((1 + np.count_nonzero(found[1:] >= found[0])) / (1 + s.permutations))


def _fourier(rows: Rows, frequencies: int, seed: int) -> Array:
    """Random Fourier features [n, 2 D] of a Gaussian kernel, as wide as the median distance of standardised rows."""
    spread = rows.x.std(axis=0)
    x = (rows.x - rows.x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    sample = x[lowest(rows, BANDWIDTH_ROWS // 2, seed)]
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
