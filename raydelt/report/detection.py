"""How well a component finds the flipped labels, where the spec simulated noise and the truth is known.

AUROC of the component against the flips (scikit-learn; ties count half), precision at k with k the number of flips,
and how many flips the selection still holds. One task reads ids, flags and the component of all parts: O(n) memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from raydelt import cluster
from raydelt.examples import EXAMPLE_ID, LABEL, LABEL_CLEAN, column_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store

SUSPICION = "difficulty"


@dataclass(frozen=True)
class Detection:
    """Flips in the corpus and in the selection, and how a component ranks them."""

    component: str
    flipped: int
    kept_flipped: int
    auroc: float
    precision_at_k: float


def detect(run: Store, corpus: Manifest, scores: Manifest, selection: Manifest) -> Detection | None:
    """The detection figures, or None where no label was flipped or difficulty was not scored."""
    columns = [column for names in scores.facts["columns"].values() for column in names]
    if not corpus.facts["flipped"] or SUSPICION not in columns:
        return None
    files = [[part.file for part in manifest.parts] for manifest in (corpus, scores, selection)]
    [found] = cluster.parallel(_detect, [(run, *files)], label="report: detection")
    return found


def _detect(run: Store, corpus: Sequence[str], scores: Sequence[str], selection: Sequence[str]) -> Detection:
    flipped_ids: set[str] = set()
    for file in corpus:
        table = run.read_table(file, [EXAMPLE_ID, LABEL, LABEL_CLEAN])
        flips = column_of(table, LABEL) != column_of(table, LABEL_CLEAN)
        flipped_ids.update(column_of(table, EXAMPLE_ID)[flips])
    tables = [run.read_table(file, [EXAMPLE_ID, SUSPICION]) for file in scores]
    values = np.concatenate([column_of(table, SUSPICION) for table in tables])
    flags = np.array([key in flipped_ids for table in tables for key in column_of(table, EXAMPLE_ID)])
    kept = [key for file in selection for key in column_of(run.read_table(file, [EXAMPLE_ID]), EXAMPLE_ID)]
    return Detection(
        SUSPICION,
        len(flipped_ids),
        sum(key in flipped_ids for key in kept),
        float(roc_auc_score(flags, values)),
        precision_at(values, flags, int(flags.sum())),
    )


def precision_at(values: Array, flags: Array, k: int) -> float:
    """Share of flagged rows among the k highest values; rows tied at the k-th value count with their mean."""
    bar = np.sort(values)[::-1][k - 1]
    above, tied = values > bar, values == bar
    return float((flags[above].sum() + (k - above.sum()) * flags[tied].mean()) / k)
