"""How well each component finds the flipped labels, where the spec simulated noise and the truth is known.

With s the component in the direction of suspicion (high where it has none), F the k flipped and C the clean ones:

    AUROC           = P(s_f > s_c) + P(s_f = s_c) / 2          f from F, c from C
    precision at k  = share of F among the k highest s, those tied at the k-th counted with their mean

Both follow exactly from the number of clean examples below, at and above each distinct flipped value. One task per
component reads its column twice, part by part: O(n log k) time, O(k) memory and one part.

Caution: k is the number of flips, which nobody knows outside of a simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raydelt import cluster
from raydelt.examples import LABEL, LABEL_CLEAN, column_of
from raydelt.report.parts import ScoredParts, component_columns, flips
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store

MAIN = "difficulty"
# The end of wrong labels, by what the component means and by what docs/scorers measures on digits; `variability`
# (AUROC of high values 0.01) and `learnability` (0.19) by the latter alone.
LOW_IS_SUSPICIOUS = frozenset(
    {
        *("margin", "consistency", "consistency_posterior", "consistency_lower"),
        *("aum", "confidence", "correctness", "variability", "alignment", "alignment_cosine", "tracin"),
        *("gradient_nearest", "gradient_mean", "lqs", "quality", "learnability", "pds"),
        *("lossval", "knn_shapley", "data_oob", "lava", "self_confidence"),
    }
)
# A column that is named nowhere, as a plugin's is, is taken for one of these.
HIGH_IS_SUSPICIOUS = frozenset(
    ("difficulty", "el2n", "loss", "perplexity", "forgetting", "grad_norm", "input_saliency", "weight_place")
)
# Flips lie all over these (AUROC 0.48 to 0.56), or the sign depends on the spec; read from the high end.
NEITHER_IS_SUSPICIOUS = frozenset(
    {
        *("self_consistency", "consistency_js", "entropy", "least_confidence", "margin_uncertainty"),
        *("sample_weight", "weight_uncertainty", "weight_age", "diversity", "prototype_distance", "typicality"),
        *("novelty", "near_duplicate", "tokens", "excess_loss", "random_values"),
    }
)


@dataclass(frozen=True)
class Finding:
    """How one component ranks the flips; `suspicious` says which end is suspected: high, low or neither."""

    component: str
    suspicious: str
    auroc: float | None
    precision_at_k: float | None


@dataclass(frozen=True)
class Detection:
    """Flips in the corpus and in the selection, how the main component ranks them, and how every component does."""

    component: str
    flipped: int
    kept_flipped: int
    auroc: float | None
    precision_at_k: float | None
    components: list[dict[str, Any]] = field(default_factory=list)


def detect(run: Store, corpus: Manifest, scores: Manifest, selection: Manifest) -> Detection | None:
    """The detection figures, or None where no label was flipped."""
    if not corpus.facts["flipped"]:
        return None
    parts, columns = ScoredParts.of(run, corpus, scores), component_columns(scores)
    found = cluster.parallel(finding, [(parts, column) for column in columns], label="report: detection")
    chosen = [part.file for part in selection.parts]
    [left] = cluster.parallel(kept_flips, [(run, list(parts.corpus), chosen)], label="report: flips kept")
    main = next((entry for entry in found if entry.component == MAIN), found[0])
    flipped = corpus.facts["flipped"]
    return Detection(
        main.component, flipped, left, main.auroc, main.precision_at_k, [asdict(entry) for entry in found]
    )


def finding(parts: ScoredParts, column: str) -> Finding:
    """One component's figures; None where all or none of the scored examples are flipped."""
    low = column in LOW_IS_SUSPICIOUS
    own = [values[flags] for values, flags in (_look(parts, column, i, low) for i in range(len(parts)))]
    separation = Separation.of(np.concatenate(own)) if own else Separation.of(np.empty(0))
    for index in range(len(parts)):
        values, flags = _look(parts, column, index, low)
        separation = separation.add(values[~flags])
    k = separation.flipped
    end = "neither" if column in NEITHER_IS_SUSPICIOUS else "low" if low else "high"
    return Finding(column, end, separation.auroc(), separation.precision_at(k) if k else None)


def _look(parts: ScoredParts, column: str, index: int, low: bool) -> tuple[Array, Array]:
    """Suspicion and flags [n] of one part."""
    values = column_of(parts.scores_of(index, [column]), column).astype(np.float64)
    return (-values if low else values), parts.flipped(index)


@dataclass(frozen=True)
class Separation:
    """Distinct flipped values [u], ascending, how many flips have each, and the clean ones at and between them.

    `between[j]` counts clean values above `values[j - 1]` and below `values[j]`; `at[j]` those equal to `values[j]`.
    """

    values: Array
    counts: Array
    at: Array
    between: Array

    @staticmethod
    def of(flipped: Array) -> Separation:
        """The state before any clean value, from the values [k] of all flips."""
        values, counts = np.unique(flipped, return_counts=True)
        return Separation(values, counts, np.zeros(len(values), np.int64), np.zeros(len(values) + 1, np.int64))

    @property
    def flipped(self) -> int:
        return int(self.counts.sum())

    @property
    def clean(self) -> int:
        return int(self.at.sum() + self.between.sum())

    def add(self, clean: Array) -> Separation:
        """The state with more clean values [n]."""
        left = np.searchsorted(self.values, clean, side="left")
        equal = np.searchsorted(self.values, clean, side="right") > left
        at = self.at + np.bincount(left[equal], minlength=len(self.values))
        between = self.between + np.bincount(left[~equal], minlength=len(self.between))
        return Separation(self.values, self.counts, at, between)

    def auroc(self) -> float | None:
        """The area under the ROC curve; None without flips or without clean values."""
        if not self.flipped or not self.clean:
            return None
        below = np.cumsum(self.between[:-1]) + np.cumsum(self.at) - self.at
        return float((self.counts * (below + self.at / 2.0)).sum() / (self.flipped * self.clean))

    def precision_at(self, k: int) -> float:
        """Share of flips among the k highest values, ties at the k-th counted with their mean; 1 <= k <= n."""
        size = np.zeros(2 * len(self.values) + 1, np.int64)
        hits = np.zeros_like(size)
        size[0::2], size[1::2] = self.between, self.at + self.counts
        hits[1::2] = self.counts
        size, hits = size[::-1], hits[::-1]
        at = int(np.searchsorted(np.cumsum(size), k, side="left"))
        above, hit = int(size[:at].sum()), int(hits[:at].sum())
        return float((hit + (k - above) * hits[at] / size[at]) / k)


def kept_flips(run: Store, corpus: Sequence[str], selection: Sequence[str]) -> int:
    """How many selected examples carry a flipped label; O(flips) memory and one file."""
    keys = [
        _place(np.full(len(rows), index), rows)
        for index, file in enumerate(corpus)
        for rows in [np.flatnonzero(flips(run.read_table(file, [LABEL, LABEL_CLEAN])))]
    ]
    flipped = np.concatenate(keys)
    kept = 0
    for file in selection:
        table = run.read_table(file, ["part", "part_row"])
        kept += int(np.isin(_place(column_of(table, "part"), column_of(table, "part_row")), flipped).sum())
    return kept


def _place(part: Array, row: Array) -> Array:
    """One integer [n] for the place of an example in the corpus."""
    return (part.astype(np.int64) << 32) | row.astype(np.int64)
