"""Cross-fitting: R rounds of F folds, so that every example is scored by exactly R models that never saw it.

    fold_r(i) = rank of i's group when groups are sorted by (class, mix(group; seed, r)), mod F

so folds are balanced to one within every class and over all. Examples of one group (equal features, or the user's
group column) share their folds, so a duplicate cannot leak. Every model (r, f) is fresh, seeded by (seed, r, f), and
trained on the examples outside fold f of round r.

Cost: R (F - 1) trainings on the whole corpus in total, R forward passes per example. Source: the popular DELT
article's folding sort; its own loop trains one model on and on and reverses the split, which leaks.

Caution: near-duplicates that are not equal are separate groups unless `corpus.group_column` joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydelt.errors import SpecError
from raydelt.examples import LABEL, UInt64Array, column_of, features_of, mix
from raydelt.scorers.protocol import Array

FOLDS = "folds"


def assign_folds(
    groups: UInt64Array, labels: Array, *, rounds: int, folds: int, seed: int, classes: Sequence[str]
) -> NDArray[np.int16]:
    """Folds [R, n] of examples with group keys [n] and labels [n].

    The class of a group is the label of its first example, so give the examples in an order that no layout changes.

    Raises:
        SpecError: a class has fewer groups than there are folds.
    """
    unique, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    group_class = labels[first]
    held = np.unique(np.stack([inverse, labels]), axis=1)[1]
    counts = np.bincount(held, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if 0 < count < folds:
            raise SpecError(
                f"class {name!r} has {count} distinct examples but rank.folds is {folds}: "
                f"lower rank.folds, add examples, or merge the class with another"
            )
    result = np.empty((rounds, len(groups)), np.int16)
    for r in range(rounds):
        order = np.lexsort((unique, mix(unique, seed, "fold", r), group_class))
        rank = np.empty(len(unique), np.int64)
        rank[order] = np.arange(len(unique))
        result[r] = (rank % folds)[inverse]
    return result


@dataclass
class HeldOutEnsemble:
    """Routes every example to the models that never saw it.

    `models[r][f]` has `predict(x, features=…)`; a batch carries its folds [B, R] in the column `folds`. Results for
    the last batch are kept, since several scorers ask for the same ones.
    """

    models: Sequence[Sequence[Any]]
    _last: tuple[Any, dict[str, Array]] = field(default=(None, {}), repr=False)

    @property
    def rounds(self) -> int:
        return len(self.models)

    def logits(self, batch: pa.RecordBatch) -> Array:
        return self._cached(batch, "logits")

    def features(self, batch: pa.RecordBatch) -> Array:
        return self._cached(batch, "features")

    def logits_of(self, x: Array, batch: pa.RecordBatch) -> Array:
        size, variants, width = x.shape
        folds = np.repeat(folds_for(self.models, batch), variants, axis=1)
        flat = self._route(x.reshape(size * variants, width), folds, features=False)
        return flat.reshape(self.rounds, size, variants, -1)

    def _cached(self, batch: pa.RecordBatch, what: str) -> Array:
        if self._last[0] is not batch:
            self._last = (batch, {})
        results = self._last[1]
        if what not in results:
            results[what] = self._route(features_of(batch), folds_for(self.models, batch), features=what == "features")
        return results[what]

    def input_saliency(self, batch: pa.RecordBatch) -> Array:
        x, labels, folds = features_of(batch), column_of(batch, LABEL), folds_for(self.models, batch)
        result = np.empty(folds.shape, np.float32)
        for r, models in enumerate(self.models):
            for f, model in enumerate(models):
                rows = np.flatnonzero(folds[r] == f)
                if len(rows):
                    result[r, rows] = model.input_saliency(x[rows], labels[rows])
        return result

    def _route(self, x: Array, folds: Array, *, features: bool) -> Array:
        result: Array | None = None
        for r, models in enumerate(self.models):
            for f, model in enumerate(models):
                rows = np.flatnonzero(folds[r] == f)
                if len(rows) == 0:
                    continue
                values = model.predict(x[rows], features=features)
                if result is None:
                    result = np.empty((self.rounds, len(x), values.shape[1]), np.float32)
                result[r, rows] = values
        return np.empty((self.rounds, 0, 0), np.float32) if result is None else result


def folds_for(models: Sequence[Sequence[Any]], batch: pa.RecordBatch) -> Array:
    """Which of models[r] scores each row: folds [R, B] of a batch, all zero where there is one model per round."""
    if all(len(own) == 1 for own in models):
        return np.zeros((len(models), batch.num_rows), np.int16)
    return fold_matrix(batch)


def fold_matrix(table: pa.Table | pa.RecordBatch) -> Array:
    """The folds [R, B] of a table with the column `folds`."""
    column = table.column(FOLDS)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    flat: Array = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, column.type.list_size).T
