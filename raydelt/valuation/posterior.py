"""From evidence to the probability that an example is clean, by mixtures whose parameters come from histograms.

    wrong label:      (1 - r) q_y + r (1 - q_y) / (C - 1),   q = softmax(b ln p), p the held-out probabilities
    wrong target:     (1 - r) N(y; f, s^2) + r N(y; mean, spread^2),   f the held-out prediction
    strange features: (1 - r) N(t; m_y, s_y^2) + r N(t; m', s'^2),  m' > m, t the log of a neighbourhood cost

The rate r, the sharpness b, the spreads s and the means are those of highest likelihood, with a Beta prior on r worth
ten examples at 10 %; then P(clean | evidence) follows from Bayes. A fit sees counts in bins alone: these are integers,
so parts of any layout add up to the same bits, and one small message holds a part of any size. Cost: O(n) to count, a
fit a few milliseconds. Source: the usual EM; Arazo et al. 2019 fit a mixture to losses.

Caution: a label is wrong here in any of the other ways alike. Where two classes are confused one way only, the rate
and the probabilities are off, though the order mostly stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydelt.scorers.protocol import Array

SHARPNESS = (0.25, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
PRIOR_WRONG, PRIOR_RIGHT = 1.0, 9.0
ROUNDS = 50
ODDS_EDGE, ODDS_BINS = 30.0, 600
ERROR_LOW, ERROR_HIGH, ERROR_BINS = -16.0, 6.0, 220
AWAY_HIGH, AWAY_BINS = 6.0, 60
COST_EDGE, COST_BINS = 8.0, 1600
# Two normal parts that are closer than this many spreads are taken for one skewed part.
APART = 2.0
SURE = 50.0
LEAST_SPREAD = 0.02
MOST_STRANGE = 0.5
POOLED = 30.0


@dataclass(frozen=True)
class WrongLabels:
    """Evidence is the log odds [T, n] of the own label at every sharpness."""

    classes: int

    def evidence(self, mean: Tensor, labels: Tensor) -> Tensor:
        """From mean probabilities [n, C] and labels [n]."""
        own = labels.unsqueeze(-1)
        log_p = mean.double().clamp_min(1e-9).log()
        scaled = torch.tensor(SHARPNESS, dtype=log_p.dtype)[:, None, None] * log_p
        index = own.expand(len(SHARPNESS), -1, -1)
        others = scaled.scatter(-1, index, -torch.inf).logsumexp(-1)
        return scaled.gather(-1, index).squeeze(-1) - others

    def counts(self, odds: Tensor) -> Tensor:
        """Counts [T, bins]."""
        at = binned(odds, -ODDS_EDGE, ODDS_EDGE, ODDS_BINS)
        return torch.stack([torch.bincount(row, minlength=ODDS_BINS) for row in at])

    def fit(self, counts: Tensor) -> tuple[float, ...]:
        """The rate, and the place of the sharpness among its choices."""
        odds = centres(-ODDS_EDGE, ODDS_EDGE, ODDS_BINS)
        right, wrong = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds)) / (self.classes - 1)
        number = counts.numpy().astype(np.float64)
        rate = np.full((len(number), 1), 0.1)
        for _ in range(ROUNDS):
            bad = (number * (rate * wrong / (rate * wrong + (1 - rate) * right))).sum(axis=1, keepdims=True)
            rate = with_prior(bad, number.sum(axis=1, keepdims=True))
        likelihood = (number * np.log(rate * wrong + (1 - rate) * right)).sum(axis=1)
        likelihood += (PRIOR_WRONG * np.log(rate) + PRIOR_RIGHT * np.log1p(-rate))[:, 0]
        best = int(np.argmax(likelihood))
        return float(rate[best, 0]), best

    def clean(self, odds: Tensor, fitted: tuple[float, ...]) -> Tensor:
        rate, best = fitted
        return torch.sigmoid(odds[int(best)] + math.log(self.classes - 1) + math.log((1 - rate) / rate))


@dataclass(frozen=True)
class WrongTargets:
    """Evidence [2, n] is the squared error and the squared distance from the mean target, in units of the spread."""

    width: int

    def evidence(self, mean: Tensor, targets: Tensor) -> Tensor:
        """From mean predictions and targets [n, k], both standardised."""
        away = targets.double()
        return torch.stack([(mean.double() - away).square().sum(-1).clamp_min(1e-12), away.square().sum(-1)])

    def counts(self, evidence: Tensor) -> Tensor:
        """Counts [bins of the log error, bins of the distance]."""
        error, away = evidence
        at = binned(error.log(), ERROR_LOW, ERROR_HIGH, ERROR_BINS) * AWAY_BINS
        at = at + binned(away.sqrt(), 0.0, AWAY_HIGH, AWAY_BINS)
        return torch.bincount(at, minlength=ERROR_BINS * AWAY_BINS).view(ERROR_BINS, AWAY_BINS)

    def fit(self, counts: Tensor) -> tuple[float, ...]:
        """The rate and the variance of the right ones."""
        number = counts.numpy().astype(np.float64)
        error = np.exp(centres(ERROR_LOW, ERROR_HIGH, ERROR_BINS))[:, None]
        away = centres(0.0, AWAY_HIGH, AWAY_BINS) ** 2
        rate, variance = 0.1, float(error[np.searchsorted(np.cumsum(number.sum(axis=1)), 0.5 * number.sum()), 0])
        for _ in range(ROUNDS):
            bad = number / (1 + np.exp(np.clip(self._odds(error, away, rate, variance), -SURE, SURE)))
            variance = float(((number - bad) * error).sum() / (self.width * (number - bad).sum() + 1e-9)) + 1e-6
            rate = float(with_prior(bad.sum(), number.sum()))
        return rate, variance

    def clean(self, evidence: Tensor, fitted: tuple[float, ...]) -> Tensor:
        odds = self._odds(*evidence.numpy(), *fitted)
        return torch.sigmoid(torch.from_numpy(np.asarray(odds)))

    def _odds(self, error: Array, away: Array, rate: float, variance: float) -> Array:
        odds: Array = (away - error / variance - self.width * math.log(variance)) / 2 + math.log((1 - rate) / rate)
        return odds


@dataclass(frozen=True)
class Strange:
    """The rate of strange features, where they lie, and where the others of each class do: means and spreads [C]."""

    rate: float
    high: float
    wide: float
    low: Array
    narrow: Array

    def odds(self, cost: Array, low: Array, narrow: Array) -> Array:
        """Log odds that features are in place, by their cost where those in place have these means and spreads."""
        # Densities of unlike spreads cross again further out, which says nothing: the odds stay as at the upper mean.
        # Without that a long tail passes for a second part of its own; with it the second part dwindles to nothing.
        seen = np.minimum(cost, np.maximum(self.high, low))
        density = ((seen - self.high) / self.wide) ** 2 / 2 - ((seen - low) / narrow) ** 2 / 2
        return np.where(cost < low, SURE, density + np.log(self.wide / narrow) + math.log((1 - self.rate) / self.rate))


@dataclass(frozen=True)
class StrangeFeatures:
    """Evidence [n] is a log cost, larger where features are strange.

    Classes scatter unlike: the rows of each have a mean and a spread of their own, as if `POOLED` more rows lay like
    those of all classes. What is strange is alike in all of them.
    """

    classes: int

    def counts(self, cost: Tensor, labels: Tensor) -> Tensor:
        """Counts [C, bins]."""
        at = labels * COST_BINS + binned(cost, -COST_EDGE, COST_EDGE, COST_BINS)
        return torch.bincount(at, minlength=self.classes * COST_BINS).view(self.classes, COST_BINS)

    def fit(self, counts: Tensor) -> Strange | None:
        """None where the strange part and the others are not apart."""
        held = (counts.sum(0) > 0).numpy()
        number, cost = counts.numpy()[:, held].astype(np.float64), centres(-COST_EDGE, COST_EDGE, COST_BINS)[held]
        rows = number.sum()
        part = (np.cumsum(number, axis=1) > 0.9 * number.sum(axis=1, keepdims=True)).astype(np.float64)
        for _ in range(6 * ROUNDS):
            bad, good = number * part, number * (1 - part)
            if min(bad.sum(), good.sum()) < 1:
                return None
            (high, wide), others = _moments(cost, bad.sum(axis=0)), _moments(cost, good.sum(axis=0))
            low, narrow = _moments(cost, good, like=others)
            found = Strange(float(bad.sum() / rows), float(high), float(wide), low, narrow)
            part = 1 / (1 + np.exp(np.clip(found.odds(cost, low[:, None], narrow[:, None]), -SURE, SURE)))
        within = math.sqrt(float((number.sum(axis=1) * found.narrow**2).sum() / rows))
        apart = found.high - float(others[0]) > APART * math.hypot(within, found.wide) / math.sqrt(2)
        # What most rows have in common is not strange.
        return found if apart and found.rate < MOST_STRANGE else None

    def clean(self, cost: Tensor, labels: Tensor, fitted: Strange | None) -> Tensor:
        if fitted is None:
            return torch.ones_like(cost)
        low, narrow = fitted.low[labels.numpy()], fitted.narrow[labels.numpy()]
        return torch.sigmoid(torch.from_numpy(fitted.odds(cost.numpy(), low, narrow)))


def _moments(values: Array, share: Array, like: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """Mean and spread [...] of values [n] by shares [..., n], and of `POOLED` more that lie like another mean and
    spread."""
    mean, spread, more = (*like, POOLED) if like else (np.float64(0), np.float64(0), 0.0)
    total = share.sum(axis=-1) + more
    own = ((share * values).sum(axis=-1) + more * mean) / total
    about = (share * (values - own[..., None]) ** 2).sum(axis=-1) + more * (spread**2 + (mean - own) ** 2)
    return own, np.sqrt(about / total + LEAST_SPREAD**2)


def with_prior(bad: Array | float, number: Array | float) -> Array:
    """The posterior mean of a rate."""
    return np.asarray((bad + PRIOR_WRONG) / (number + PRIOR_WRONG + PRIOR_RIGHT))


def binned(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """The bin of every value; what lies outside falls into the first or the last."""
    return ((values - low) * (bins / (high - low))).floor().clamp(0, bins - 1).long()


def centres(low: float, high: float, bins: int) -> Array:
    """The middle of every bin."""
    return low + (np.arange(bins) + 0.5) * ((high - low) / bins)
