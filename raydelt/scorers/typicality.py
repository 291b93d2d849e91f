"""Typicality: how densely the neighbourhood of an example is filled.

    typicality = 1 / max(1 - knn_cosine, 1e-3)        in [0.5, 1000]

with knn_cosine the mean cosine to the k nearest others of the same cluster, from the neighbours stage. The floor
keeps exact copies, whose distance is 0 up to rounding, finite and equal. An example without a direction or without
company has knn_cosine 0, so typicality 1. Cost: O(1) per example. TypiClust, Hacohen et al. 2022, with the cosine
distance.

Caution: duplicates are the most typical of all. Typical examples teach most when few are kept, and least when many
are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydelt.examples import column_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig

KNN_COSINE = "knn_cosine"
FLOOR = 1e-3


class TypicalityConfig(ScorerConfig):
    """`{kind: typicality}`: no settings."""

    kind: Literal["typicality"] = "typicality"

    def build(self) -> Typicality:
        return Typicality()


@dataclass
class Typicality:
    """Inverse mean cosine distance to the nearest neighbours."""

    name: str = "typicality"
    version: str = "1"
    columns: tuple[str, ...] = ("typicality",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"neighbours"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        return None

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        distance = 1.0 - column_of(batch, KNN_COSINE).astype(np.float64)
        return {"typicality": 1.0 / np.maximum(distance, FLOOR)}
