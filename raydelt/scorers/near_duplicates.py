"""Near-duplicates: how far an example is from every example that comes before it.

    novelty = 1 - earlier_cosine  in [0, 2]        near_duplicate = 1 if earlier_cosine > 1 - epsilon else 0

with earlier_cosine the greatest cosine to an example of the same cluster that stands before it in the keep order, the
order of the corpus, which is that of a hash; it comes from the neighbours stage. The first of a group of copies has
none before it, so it counts as new and is kept: novelty 2 where nothing at all precedes it in its cluster. An example
without a direction has novelty 1. Cost: O(1) per example. SemDeDup, Abbas et al. 2023.

Caution: near-duplicates of a near-duplicate are marked too, even where they are no longer close to the one that is
kept; and copies on either side of a cluster's border are not found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raydelt.examples import column_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig

EARLIER_COSINE = "earlier_cosine"


class NearDuplicatesConfig(ScorerConfig):
    """`{kind: near_duplicates, epsilon: 0.05}`: the cosine distance within which an example is a duplicate."""

    kind: Literal["near_duplicates"] = "near_duplicates"
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def build(self) -> NearDuplicates:
        return NearDuplicates(self)


@dataclass
class NearDuplicates:
    """Cosine distance to the nearest earlier example, and whether that makes it a near-duplicate."""

    config: NearDuplicatesConfig
    name: str = "near_duplicates"
    version: str = "1"
    columns: tuple[str, ...] = ("novelty", "near_duplicate")
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset({"neighbours"})

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        return None

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        cosine = column_of(batch, EARLIER_COSINE).astype(np.float64)
        # A NaN is no comparison's business: it stays, and the score stage tells of it.
        marked = np.where(np.isnan(cosine), np.nan, cosine > 1.0 - self.config.epsilon)
        return {"novelty": 1.0 - cosine, "near_duplicate": marked.astype(np.float64)}
