"""Mean and spread of features as a mergeable state (Chan, Golub and LeVeque 1979), for standardisation.

    merge: n = n_a + n_b,  d = mean_b - mean_a,  mean = mean_a + d n_b / n,  M2 = M2_a + M2_b + d^2 n_a n_b / n

All in float64. Cost: O(width) memory. Caution: a feature without spread gets spread 1, so that it becomes 0, not NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydelt.examples import features_of
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Moments:
    """Number of rows, mean [width], and sum of squared deviations [width]."""

    count: int
    mean: Array
    m2: Array

    @staticmethod
    def of(x: Array) -> Moments:
        if len(x) == 0:
            return Moments(0, np.zeros(x.shape[1]), np.zeros(x.shape[1]))
        x = x.astype(np.float64)
        mean = x.mean(axis=0)
        return Moments(len(x), mean, ((x - mean) ** 2).sum(axis=0))

    def merge(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        return Moments(count, mean, self.m2 + other.m2 + delta**2 * (self.count * other.count / count))

    def standardisation(self, input_shape: Sequence[int]) -> tuple[Array, Array]:
        """Mean [width] and spread [width]: per feature, or pooled per channel for images [C, H, W]."""
        mean, variance = self.mean, self.m2 / max(self.count, 1)
        if len(input_shape) == 3:
            channels = input_shape[0]
            per_channel = mean.reshape(channels, -1).mean(axis=1, keepdims=True)
            pooled = (variance + mean**2).reshape(channels, -1).mean(axis=1, keepdims=True) - per_channel**2
            pixels = mean.size // channels
            mean, variance = np.repeat(per_channel, pixels), np.repeat(np.maximum(pooled, 0.0), pixels)
        spread = np.sqrt(variance)
        return mean, np.where(spread > 1e-7 * np.maximum(np.abs(mean), 1e-30), spread, 1.0)


@dataclass(frozen=True)
class FeatureMoments:
    """Monoid of `Moments` over corpus batches."""

    width: int

    def zero(self) -> Moments:
        return Moments(0, np.zeros(self.width), np.zeros(self.width))

    def add(self, state: Moments, batch: pa.RecordBatch) -> Moments:
        return state.merge(Moments.of(features_of(batch)))

    def merge(self, left: Moments, right: Moments) -> Moments:
        return left.merge(right)

    def finish(self, state: Moments) -> Moments:
        return state
