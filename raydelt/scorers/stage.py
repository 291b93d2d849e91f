"""The score stage: a Ray Data pool of actors scores the corpus part by part and writes one score file per part.

A part that is already written under this stage's fingerprint is not scored again, so a killed run goes on where it
was. Within a part, batches have fixed boundaries, so results do not depend on actors or retries. Rows whose score is
not finite go to quarantine. Memory of an actor: the R F models, one part, and one batch's activations.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import ModelSpec, RunConfig
from raydelt.errors import ErrorBudgetExceeded
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, QUARANTINE_SCHEMA, column_of
from raydelt.models.moments import FeatureMoments
from raydelt.scorers.crossfit import FOLDS, HeldOutEnsemble
from raydelt.scorers.protocol import Array, Reducer, Scorer, ScoringContext
from raydelt.scorers.proxies import load_models
from raydelt.storage import Manifest, Part, Stage, Store

log = logging.getLogger(__name__)

BATCH_ROWS = 1024
FLAT = 1e-7
READ = (EXAMPLE_ID, DRAW_KEY, FEATURES, LABEL)


@dataclass(frozen=True)
class PartReader:
    """Reads what scorers may see of one corpus part: id, draw key, features, label. Never the clean label."""

    run: Store
    files: tuple[str, ...]

    def __call__(self, index: int) -> pa.RecordBatch:
        [batch] = self.run.read_table(self.files[index], READ).combine_chunks().to_batches()
        return batch


def score_corpus(config: RunConfig, corpus: Manifest, proxies: Manifest | None, stage: Stage) -> Manifest:
    """Score every example of the corpus and publish the components.

    Raises:
        InputError: the spec's checkpoint is missing or does not fit its model.
        ErrorBudgetExceeded: more scores than `corpus.error_budget` allows are not finite.
    """
    reader = PartReader(stage.run, tuple(part.file for part in corpus.parts))
    scorers = [spec.build() for spec in config.score]
    if proxies is None and any(scorer.needs_model for scorer in scorers):
        # An actor that cannot start is started again and again; a task says at once what is wrong.
        cluster.parallel(_try_checkpoint, [(stage.run, config.model, corpus.facts)], label="score: checkpoint")
    context = _fit(config, corpus, reader, scorers)
    items = [{"part": index} for index in range(len(corpus.parts))]
    options = {
        "stage": stage,
        "config": config,
        "corpus": corpus,
        "proxies": proxies,
        "context": context,
        "version": proxies.fingerprint if proxies else str(config.model.checkpoint),
    }
    rows = cluster.actor_map(PartScorer, items, options=options, actors=config.cluster.actors, label="score")
    done = sorted((json.loads(row["done"]) for row in rows), key=lambda entry: int(entry["part"]))
    parts = [Part(**entry["scores"]) for entry in done]
    bad = [Part(**entry["quarantine"]) for entry in done if entry["quarantine"] is not None]
    scored, quarantined = sum(p.rows for p in parts), sum(p.rows for p in bad)
    if scored + quarantined != corpus.rows:
        raise RuntimeError(f"{corpus.rows} examples went in, {scored} were scored and {quarantined} quarantined")
    if quarantined > config.corpus.error_budget * corpus.rows:
        raise ErrorBudgetExceeded(
            f"{quarantined} of {corpus.rows} scores are not finite, more than corpus.error_budget "
            f"{config.corpus.error_budget:g} allows; the first: {_first_reason(stage.run, bad)}"
        )
    columns = {scorer.name: list(scorer.columns) for scorer in scorers}
    _warn_of_constants(stage.run, parts, [name for names in columns.values() for name in names])
    return stage.publish(
        parts, {"scored": scored, "quarantined": quarantined, "columns": columns}, {"quarantine": bad}
    )


def _fit(config: RunConfig, corpus: Manifest, reader: PartReader, scorers: Sequence[Scorer]) -> ScoringContext:
    """The context that all actors share, with the statistics that scorers take over the whole corpus."""
    facts = corpus.facts
    parts = len(reader.files)
    mean, scale = np.zeros(facts["width"]), np.ones(facts["width"])
    if config.corpus.standardize:
        moments = cluster.reduce_parts(FeatureMoments(facts["width"]), reader, parts, label="score: moments")
        mean, scale = moments.standardisation(facts["input_shape"])
    bare = ScoringContext(config.seed, len(facts["classes"]), tuple(facts["input_shape"]), mean, scale)

    def reduce(reducer: Reducer[Any, Any]) -> Any:
        return cluster.reduce_parts(reducer, reader, parts, label="score: statistics")

    return replace(bare, statistics={scorer.name: scorer.fit(reduce, bare) for scorer in scorers})


def _warn_of_constants(run: Store, parts: Sequence[Part], columns: Sequence[str]) -> None:
    """Tell of components that are the same for every example, one task per part."""
    ranges = cluster.parallel(_ranges, [(run, part.file, columns) for part in parts], label="score: ranges")
    for place, name in enumerate(columns):
        low, high = min(r[place][0] for r in ranges), max(r[place][1] for r in ranges)
        if high - low <= FLAT * max(1.0, abs(high)) and sum(part.rows for part in parts) > 1:
            log.warning("component %s is %.3g for every example and ranks nothing%s", name, low, _HINTS.get(name, ""))


_HINTS = {
    "consistency_js": ": the augmentation changes no prediction (raise score.consistency.strength)",
    "consistency": ": the augmentation is too weak or too strong (change score.consistency.strength)",
}


def _ranges(run: Store, file: str, columns: Sequence[str]) -> list[tuple[float, float]]:
    """Least and greatest value of each column in one file; empty files have none."""
    table = run.read_table(file, columns)
    if table.num_rows == 0:
        return [(np.inf, -np.inf)] * len(columns)
    return [(float(column_of(table, name).min()), float(column_of(table, name).max())) for name in columns]


def _try_checkpoint(run: Store, model: ModelSpec, facts: dict[str, Any]) -> None:
    load_models(run, model, facts, None)


def _first_reason(run: Store, bad: Sequence[Part]) -> str:
    first = run.read_table(bad[0].file).slice(0, 1).to_pylist()[0]
    return f"{first['source_file']} row {first['row']}: {first['reason']}"


class PartScorer:
    """One actor: holds the models and scorers, scores parts, writes their files."""

    def __init__(
        self,
        stage: Stage,
        config: RunConfig,
        corpus: Manifest,
        proxies: Manifest | None,
        context: ScoringContext,
        version: str,
    ) -> None:
        self.stage, self.corpus, self.proxies, self.version = stage, corpus, proxies, version
        self.scorers = [spec.build() for spec in config.score]
        predictions = None
        if any(scorer.needs_model for scorer in self.scorers):
            from raydelt.models import classifier

            classifier.one_thread()
            device = "cuda" if config.cluster.actors.num_gpus else "cpu"
            models = load_models(stage.run, config.model, corpus.facts, proxies, device=device)
            predictions = HeldOutEnsemble(models)
        for scorer in self.scorers:
            scorer.setup(replace(context, predictions=predictions))

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        return {"done": [json.dumps(self._score_part(index)) for index in batch.column("part").to_pylist()]}

    def _score_part(self, index: int) -> dict[str, Any]:
        run = self.stage.run
        name, aside = self.stage.file("part", index), self.stage.file("part-score", index, folder="quarantine")
        if not run.exists(name):
            scores, bad = self._score_rows(index)
            # The scores go last: where they stand, the part is done.
            if bad.num_rows:
                run.write_table(aside, bad)
            run.write_table(name, scores)
        quarantine = asdict(run.described(aside)) if run.exists(aside) else None
        return {"part": index, "scores": asdict(run.described(name)), "quarantine": quarantine}

    def _score_rows(self, index: int) -> tuple[pa.Table, pa.Table]:
        """The scores of one part, and the quarantine entries of rows without a finite score."""
        file = self.corpus.parts[index].file
        table = self.stage.run.read_table(file, READ)
        if self.proxies is not None:
            folds = self.stage.run.read_table(self.proxies.parts[index].file, [FOLDS])
            table = table.append_column(FOLDS, folds[FOLDS])
        batches = [
            batch
            for start in range(0, table.num_rows, BATCH_ROWS)
            for batch in table.slice(start, BATCH_ROWS).combine_chunks().to_batches()
        ]
        columns: dict[str, Array] = {}
        for scorer in self.scorers:
            scored = [scorer.score(batch) for batch in batches]
            for name in scored[0]:
                columns[name] = np.concatenate([part[name] for part in scored]).astype(np.float32)
        finite = np.logical_and.reduce([np.isfinite(values) for values in columns.values()])
        scores = pa.table({EXAMPLE_ID: table[EXAMPLE_ID], **columns})
        scores = scores.append_column("model_version", pa.array([self.version] * len(finite)).dictionary_encode())
        return scores.filter(pa.array(finite)), self._quarantined(file, columns, finite)

    def _quarantined(self, file: str, columns: dict[str, Array], finite: Array) -> pa.Table:
        rows = np.flatnonzero(~finite)
        provenance = self.stage.run.read_table(file, ["source_file", "row", EXAMPLE_ID]).take(pa.array(rows))
        reasons = [
            "score not finite: "
            + ", ".join(f"{name} = {values[row]}" for name, values in columns.items() if not np.isfinite(values[row]))
            for row in rows
        ]
        return pa.table(
            [provenance["source_file"], provenance["row"], pa.array(reasons, pa.string()), provenance[EXAMPLE_ID]],
            schema=QUARANTINE_SCHEMA,
        )
