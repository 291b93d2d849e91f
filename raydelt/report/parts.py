"""Reading what the report looks at: scored examples with their provenance, one part at a time.

Score part i holds the examples of corpus part i in the same order, less those whose score went to quarantine, so the
two are joined within the part and nothing is shuffled. Cost of a look: the named columns of one part.

Caution: the clean labels are read here and nowhere before the report; they say which simulated flips were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.examples import EXAMPLE_ID, LABEL, LABEL_CLEAN
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store


@dataclass(frozen=True)
class ScoredParts:
    """The published parts of a corpus and of its scores, by index. Picklable."""

    run: Store
    corpus: tuple[str, ...]
    scores: tuple[str, ...]

    @staticmethod
    def of(run: Store, corpus: Manifest, scores: Manifest) -> ScoredParts:
        return ScoredParts(run, tuple(p.file for p in corpus.parts), tuple(p.file for p in scores.parts))

    def __len__(self) -> int:
        return len(self.scores)

    def scores_of(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Columns of the scores of one part."""
        return self.run.read_table(self.scores[index], columns)

    def examples_of(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Columns of the corpus rows that were scored in one part, in the order of the scores."""
        table = self.run.read_table(self.corpus[index], [EXAMPLE_ID, *columns])
        ids = self.scores_of(index, [EXAMPLE_ID])[EXAMPLE_ID]
        if table.num_rows != len(ids):
            table = table.filter(pc.is_in(table[EXAMPLE_ID], value_set=ids.combine_chunks()))
        return table.select(list(columns))

    def flipped(self, index: int) -> Array:
        """Which scored examples [n] of one part carry a label that the spec's noise flipped."""
        return flips(self.examples_of(index, [LABEL, LABEL_CLEAN]))


def flips(table: pa.Table) -> Array:
    """Which rows [n] of a corpus table carry a flipped label; a row without a label carries none."""
    differ = pc.not_equal(table[LABEL], table[LABEL_CLEAN])
    return np.asarray(pc.fill_null(differ, False).to_numpy(), np.bool_)


def component_columns(scores: Manifest) -> list[str]:
    """The stored components, in the order of the spec's scorers."""
    return [column for names in scores.facts["columns"].values() for column in names]


def error_of(column: str) -> str:
    """The name under which a component's standard error is stored, where it is known."""
    return f"{column}_se"
