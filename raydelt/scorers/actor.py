"""One actor of the score stage: holds models and scorers, scores part after part, writes their files.

A part that is already written under the stage's fingerprint is not scored again, so a killed run goes on where it was.
Within a part, batches have fixed boundaries, so results do not depend on actors or retries. Cells of an earlier
version that stand are taken over. Rows whose score is not finite go to quarantine. Memory: the models, one part, and
one batch's activations.

Caution: where only some rows of a part are scored, batches hold other rows than before, and products of matrices of
another size can differ in their last bits.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt.config import RunConfig
from raydelt.corpus.tokens import REASON
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, GROUP_KEY, LABEL, QUARANTINE_SCHEMA, TIME
from raydelt.scorers.before import Before, PartReader, needs_of
from raydelt.scorers.cells import Cells, Found
from raydelt.scorers.protocol import Array, Scorer, ScoringContext
from raydelt.storage import Stage

BATCH_ROWS = 1024
VERSION = "model_version"
COMPUTED = b"raydelt.computed"


class PartScorer:
    """One actor: holds the models and scorers, scores parts, writes their files."""

    def __init__(
        self,
        stage: Stage,
        config: RunConfig,
        before: Before,
        reader: PartReader,
        context: ScoringContext,
        cells: Cells | None = None,
    ) -> None:
        self.stage, self.corpus, self.reader, self.cells = stage, before.corpus, reader, cells
        fitted = before.proxies or before.models.get("trajectory")
        self.version = fitted.fingerprint if fitted else ",".join(config.model.checkpoints or config.model.paths)
        self.scorers = [spec.build() for spec in config.score]
        self.seconds: defaultdict[str, float] = defaultdict(float)
        needs = needs_of(self.scorers)
        if "ledger" in needs:
            context = replace(context, ledger_models=before.beside["ledger"].facts["models"])
        if needs & {"classifier", "gradients", "language", "trajectory", "data_scorer"}:
            # torch is imported in actors that need it, and only there
            from raydelt.scorers.models import with_models

            context = with_models(context, config, before, stage.run, needs)
        for scorer in self.scorers:
            scorer.setup(context)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        return {"done": [json.dumps(self._score_part(index)) for index in batch.column("part").to_pylist()]}

    def _score_part(self, index: int) -> dict[str, Any]:
        run = self.stage.run
        name, aside = self.stage.file("part", index), self.stage.file("part-score", index, folder="quarantine")
        self.seconds.clear()
        part, other = run.standing_part(name), run.standing_part(aside)
        if part is not None and (other is not None or not run.exists(aside)):
            scores = run.read_table(name, [EXAMPLE_ID])
        else:
            scores, bad = self._score_rows(index)
            # The scores go last: where they stand, the part is done.
            other = run.write_table(aside, bad) if bad.num_rows else None
            part = run.write_table(name, scores)
        computed = json.loads(scores.schema.metadata[COMPUTED])
        return {
            "part": index,
            "scores": asdict(part),
            "quarantine": asdict(other) if other else None,
            "seconds": dict(self.seconds),
            "computed": computed,
        }

    def _score_rows(self, index: int) -> tuple[pa.Table, pa.Table]:
        """The scores of one part, and the quarantine entries of rows that cannot be scored or have no finite score."""
        table = self.reader.table(index)
        if table.num_rows == 0:
            none = table.select([EXAMPLE_ID]).replace_schema_metadata({COMPUTED: _counts(self.scorers, {})})
            return none, pa.Table.from_pylist([], schema=QUARANTINE_SCHEMA)
        told = table[REASON].to_pylist() if REASON in table.column_names else [None] * table.num_rows
        usable = np.asarray([reason is None for reason in told])
        found = self._found(index, usable)
        columns, version, counts = self._columns(table.filter(pa.array(usable)), found)
        finite = usable.copy()
        finite[usable] = np.logical_and.reduce([np.isfinite(values) for values in columns.values()])
        scores = pa.table({EXAMPLE_ID: table[EXAMPLE_ID].filter(pa.array(usable)), **columns})
        scores = scores.append_column(VERSION, pa.array(version.tolist(), pa.string()).dictionary_encode())
        scores = scores.replace_schema_metadata({COMPUTED: _counts(self.scorers, counts)})
        places = np.cumsum(usable) - 1
        reasons = [told[row] or _not_finite(columns, places[row]) for row in np.flatnonzero(~finite)]
        return scores.filter(pa.array(finite[usable])), self._quarantined(index, np.flatnonzero(~finite), reasons)

    def _found(self, index: int, usable: Array) -> Found | None:
        """Where the usable rows of a part stand in the earlier version."""
        if self.cells is None:
            return None
        time_too = [TIME] if TIME in self.reader.extra else []
        names = [EXAMPLE_ID, DRAW_KEY, GROUP_KEY, LABEL, *time_too]
        return self.cells.find(self.reader.run.read_table(self.reader.files[index], names).filter(pa.array(usable)))

    def _columns(self, table: pa.Table, found: Found | None) -> tuple[dict[str, Array], Array, dict[str, int]]:
        """All components [n] float32, the version of the models [n], and how many rows each scorer was asked for."""
        n = table.num_rows
        version = np.full(n, self.version, object)
        if found is None or self.cells is None:
            return self._scored(table, self.scorers), version, {scorer.name: n for scorer in self.scorers}
        kept, fresh = np.flatnonzero(found.place >= 0), self.cells.fresh
        columns: dict[str, Array] = {}
        counts: dict[str, int] = {}
        for stands in (False, True):
            own = [scorer for scorer in self.scorers if (scorer.name in fresh) == stands]
            rows = np.flatnonzero(found.place < 0) if stands else np.arange(n)
            # A scorer need not know what to say of no rows at all.
            if own and (len(rows) or not len(kept)):
                for name, values in self._scored(table.take(pa.array(rows)), own).items():
                    columns.setdefault(name, np.full(n, np.nan, np.float32))[rows] = values
            for scorer in own:
                counts[scorer.name] = len(rows)
                for name, values in found.columns(scorer.columns, kept).items() if stands and len(kept) else ():
                    columns.setdefault(name, np.full(n, np.nan, np.float32))[kept] = values
        if len(fresh) == len(self.scorers) and len(kept):
            version[kept] = found.versions(kept)
        return columns, version, counts

    def _scored(self, table: pa.Table, scorers: Sequence[Scorer]) -> dict[str, Array]:
        """Components [n] float32, in batches of fixed boundaries; all scorers see one batch before the next."""
        parts: dict[str, list[Array]] = {}
        for start in range(0, max(table.num_rows, 1), BATCH_ROWS):
            for batch in table.slice(start, BATCH_ROWS).combine_chunks().to_batches() or [_empty(table)]:
                for scorer in scorers:
                    started = time.perf_counter()
                    for name, values in scorer.score(batch).items():
                        parts.setdefault(name, []).append(values.astype(np.float32))
                    self.seconds[scorer.name] += time.perf_counter() - started
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _quarantined(self, index: int, rows: Array, reasons: Sequence[str]) -> pa.Table:
        provenance = self.reader.columns(index, ["source_file", "row", EXAMPLE_ID]).take(pa.array(rows))
        return pa.table(
            [provenance["source_file"], provenance["row"], pa.array(reasons, pa.string()), provenance[EXAMPLE_ID]],
            schema=QUARANTINE_SCHEMA,
        )


def _counts(scorers: Sequence[Scorer], counts: Mapping[str, int]) -> bytes:
    """How many rows each scorer was asked for, as JSON."""
    return json.dumps({scorer.name: counts.get(scorer.name, 0) for scorer in scorers}).encode()


def _not_finite(columns: Mapping[str, Array], row: int) -> str:
    bad = ", ".join(f"{name} = {values[row]}" for name, values in columns.items() if not np.isfinite(values[row]))
    return f"score not finite: {bad}"


def _empty(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=table.schema)
