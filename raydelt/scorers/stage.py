"""The score stage: a Ray Data pool of actors scores the corpus part by part and writes one score file per part.

What earlier stages know of an example (folds, tokens, embedding, neighbours, ledger) lies in files beside the corpus
parts, row by row alike, and is joined to the batch here. A part that is already written under this stage's fingerprint
is not scored again, so a killed run goes on where it was. Within a part, batches have fixed boundaries, so results do
not depend on actors or retries. Rows whose score is not finite go to quarantine. Memory of an actor: its models, one
part, and one batch's activations.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.corpus.tokens import REASON
from raydelt.errors import ErrorBudgetExceeded
from raydelt.examples import DRAW_KEY, EXAMPLE_ID, FEATURES, LABEL, QUARANTINE_SCHEMA, TIME, column_of
from raydelt.lqs.estimate import tell_estimate
from raydelt.models.moments import FeatureMoments
from raydelt.scorers.concentration import TOP, concentration_of
from raydelt.scorers.protocol import Array, Need, Reducer, Scorer, ScoringContext
from raydelt.storage import Manifest, Part, Stage, Store

log = logging.getLogger(__name__)

BATCH_ROWS = 1024
FLAT = 1e-7
GRADIENT_SIZES = ("grad_norm", "input_saliency")
READ = (EXAMPLE_ID, DRAW_KEY, FEATURES, LABEL)


@dataclass(frozen=True)
class Before:
    """What the score stage reads: the corpus, the stages whose files lie beside its parts, and those of the model.

    `only` names, part by part, the rows to score; all where it is None.
    """

    corpus: Manifest
    beside: Mapping[str, Manifest] = field(default_factory=dict)
    models: Mapping[str, Manifest] = field(default_factory=dict)
    only: Manifest | None = None

    @property
    def rows(self) -> int:
        """How many examples are to be scored."""
        return self.corpus.rows if self.only is None else self.only.rows

    @property
    def proxies(self) -> Manifest | None:
        return self.beside.get("proxies")

    def first(self, rows: int) -> Before:
        """Only the first rows of the corpus, which are a uniform sample of it: it lies in the order of its hashes."""
        parts: list[Part] = []
        for part in self.corpus.parts:
            if rows > 0:
                parts.append(replace(part, rows=min(part.rows, rows)))
                rows -= part.rows
        return replace(self, corpus=replace(self.corpus, parts=parts))


@dataclass(frozen=True)
class PartReader:
    """Reads what scorers may see of one corpus part, with what lies beside it. Never the clean label.

    `rows` are those of each part to read, from its first on, and `only` files of their places in `part_row`; all rows
    where they are empty.
    """

    run: Store
    files: tuple[str, ...]
    beside: tuple[tuple[str, ...], ...] = ()
    extra: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    only: tuple[str, ...] = ()

    def table(self, index: int) -> pa.Table:
        """The rows of a part, in order."""
        return self.columns(index, (*READ, *self.extra))

    def columns(self, index: int, own: Sequence[str]) -> pa.Table:
        """Some of a part's own columns, and all that lies beside it."""
        table = self.run.read_table(self.files[index], own)
        for files in self.beside:
            other = self.run.read_table(files[index])
            for name in other.column_names:
                if name not in table.column_names:
                    table = table.append_column(name, other[name])
        if self.only:
            return table.take(self.run.read_table(self.only[index])["part_row"])
        return table.slice(0, self.rows[index]) if self.rows else table

    def __call__(self, index: int) -> pa.RecordBatch:
        [batch] = self.table(index).combine_chunks().to_batches()
        return batch


def reader_of(run: Store, before: Before, *, extra: tuple[str, ...] = ()) -> PartReader:
    """The corpus parts with all that lies beside them."""
    return PartReader(
        run,
        tuple(part.file for part in before.corpus.parts),
        tuple(tuple(part.file for part in manifest.parts) for manifest in before.beside.values()),
        extra,
        tuple(part.rows for part in before.corpus.parts),
        tuple(part.file for part in before.only.parts) if before.only else (),
    )


def score_corpus(config: RunConfig, before: Before, stage: Stage) -> Manifest:
    """Score every example of the corpus and publish the components.

    Raises:
        InputError: a checkpoint is missing or does not fit its model.
        ErrorBudgetExceeded: more scores than `corpus.error_budget` allows are not finite.
    """
    corpus = before.corpus
    scorers = [spec.build() for spec in config.score]
    needs = needs_of(scorers)
    extra = (("time", TIME), ("data_scorer", "text"))
    named = tuple(column for need, column in extra if need in needs and (column != "text" or corpus.facts["text"]))
    reader = reader_of(stage.run, before, extra=named)
    vectors = before.beside.get("embeddings")
    only_vectors = (tuple(part.file for part in vectors.parts),) if vectors else ()
    context = _fit(config, before, replace(reader, beside=only_vectors, only=()), scorers)
    if "trajectory" in needs and "data_scorer" not in needs:
        tell_estimate(config, before.models["trajectory"], corpus.rows)
    options = {"stage": stage, "config": config, "before": before, "reader": reader, "context": context}
    items = [{"part": index} for index in range(len(corpus.parts))]
    rows = cluster.actor_map(PartScorer, items, options=options, actors=config.cluster.actors, label="score")
    done = sorted((json.loads(row["done"]) for row in rows), key=lambda entry: int(entry["part"]))
    parts = [Part(**entry["scores"]) for entry in done]
    bad = [Part(**entry["quarantine"]) for entry in done if entry["quarantine"] is not None]
    scored, quarantined = sum(p.rows for p in parts), sum(p.rows for p in bad)
    if scored + quarantined != before.rows:
        raise RuntimeError(f"{before.rows} examples went in, {scored} were scored and {quarantined} quarantined")
    if quarantined > config.corpus.error_budget * before.rows:
        raise ErrorBudgetExceeded(
            f"{quarantined} of {before.rows} scores are not finite, more than corpus.error_budget "
            f"{config.corpus.error_budget:g} allows; the first: {_first_reason(stage.run, bad)}"
        )
    columns = {scorer.name: list(scorer.columns) for scorer in scorers}
    names = [name for own in columns.values() for name in own]
    facts = {"scored": scored, "quarantined": quarantined, "columns": columns}
    # What a chosen few say of a component is not what the corpus says.
    if before.only is None:
        _warn_of_constants(stage.run, parts, names)
        sizes = [name for name in GRADIENT_SIZES if name in names]
        facts["concentration"] = _concentration(stage.run, parts, sizes, before.proxies)
    return stage.publish(parts, facts, {"quarantine": bad})


def _concentration(
    run: Store, parts: Sequence[Part], columns: Sequence[str], proxies: Manifest | None
) -> dict[str, Any]:
    """By component, how unequally the gradients' sizes are shared, with the step that they were taken at."""
    files = [part.file for part in parts]
    found = cluster.parallel(concentration_of, [(run, files, name) for name in columns], label="score: concentration")
    step = f"after {proxies.facts['steps']} steps" if proxies else "at the spec's checkpoint"
    for name, own in zip(columns, found, strict=True):
        log.info(
            "%s: the top %.0f %% of examples make %.0f %% of the sum (Gini %.2f), %s",
            name, 100 * TOP, 100 * own["top_share"], own["gini"], step,
        )  # fmt: skip
    return {name: own | {"step": step} for name, own in zip(columns, found, strict=True)}


def needs_of(scorers: Sequence[Scorer]) -> frozenset[Need]:
    """All that any of these scorers needs."""
    return frozenset().union(*(scorer.needs for scorer in scorers))


def _fit(config: RunConfig, before: Before, reader: PartReader, scorers: Sequence[Scorer]) -> ScoringContext:
    """The context that all actors share, with the statistics that scorers take over the whole corpus."""
    facts = before.corpus.facts
    parts = len(reader.files)
    mean, scale = np.zeros(facts["width"]), np.ones(facts["width"])
    if config.corpus.standardize:
        moments = cluster.reduce_parts(FeatureMoments(facts["width"]), reader, parts, label="score: moments")
        mean, scale = moments.standardisation(facts["input_shape"])
    shape = tuple(facts["input_shape"])
    embeddings = before.beside.get("embeddings")
    width = embeddings.facts["width"] if embeddings else None
    bare = ScoringContext(config.seed, len(facts["classes"]), shape, mean, scale, embedding_width=width)

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


def _first_reason(run: Store, bad: Sequence[Part]) -> str:
    first = run.read_table(bad[0].file).slice(0, 1).to_pylist()[0]
    return f"{first['source_file']} row {first['row']}: {first['reason']}"


class PartScorer:
    """One actor: holds the models and scorers, scores parts, writes their files."""

    def __init__(
        self, stage: Stage, config: RunConfig, before: Before, reader: PartReader, context: ScoringContext
    ) -> None:
        self.stage, self.corpus, self.reader = stage, before.corpus, reader
        fitted = before.proxies or before.models.get("trajectory")
        self.version = fitted.fingerprint if fitted else ",".join(config.model.checkpoints or config.model.paths)
        self.scorers = [spec.build() for spec in config.score]
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
        if not run.exists(name):
            scores, bad = self._score_rows(index)
            # The scores go last: where they stand, the part is done.
            if bad.num_rows:
                run.write_table(aside, bad)
            run.write_table(name, scores)
        quarantine = asdict(run.described(aside)) if run.exists(aside) else None
        return {"part": index, "scores": asdict(run.described(name)), "quarantine": quarantine}

    def _score_rows(self, index: int) -> tuple[pa.Table, pa.Table]:
        """The scores of one part, and the quarantine entries of rows that cannot be scored or have no finite score."""
        table = self.reader.table(index)
        if table.num_rows == 0:
            return table.select([EXAMPLE_ID]), pa.Table.from_pylist([], schema=QUARANTINE_SCHEMA)
        told = table[REASON].to_pylist() if REASON in table.column_names else [None] * table.num_rows
        usable = np.asarray([reason is None for reason in told])
        columns = self._columns(table.filter(pa.array(usable)))
        finite = usable.copy()
        finite[usable] = np.logical_and.reduce([np.isfinite(values) for values in columns.values()])
        scores = pa.table({EXAMPLE_ID: table[EXAMPLE_ID].filter(pa.array(usable)), **columns})
        scores = scores.append_column("model_version", pa.array([self.version] * len(scores)).dictionary_encode())
        places = np.cumsum(usable) - 1
        reasons = [told[row] or _not_finite(columns, places[row]) for row in np.flatnonzero(~finite)]
        return scores.filter(pa.array(finite[usable])), self._quarantined(index, np.flatnonzero(~finite), reasons)

    def _columns(self, table: pa.Table) -> dict[str, Array]:
        """All components [n] float32, in batches of fixed boundaries; all scorers see one batch before the next."""
        parts: dict[str, list[Array]] = {}
        for start in range(0, max(table.num_rows, 1), BATCH_ROWS):
            for batch in table.slice(start, BATCH_ROWS).combine_chunks().to_batches() or [_empty(table)]:
                for scorer in self.scorers:
                    for name, values in scorer.score(batch).items():
                        parts.setdefault(name, []).append(values.astype(np.float32))
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _quarantined(self, index: int, rows: Array, reasons: Sequence[str]) -> pa.Table:
        provenance = self.reader.columns(index, ["source_file", "row", EXAMPLE_ID]).take(pa.array(rows))
        return pa.table(
            [provenance["source_file"], provenance["row"], pa.array(reasons, pa.string()), provenance[EXAMPLE_ID]],
            schema=QUARANTINE_SCHEMA,
        )


def _not_finite(columns: Mapping[str, Array], row: int) -> str:
    bad = ", ".join(f"{name} = {values[row]}" for name, values in columns.items() if not np.isfinite(values[row]))
    return f"score not finite: {bad}"


def _empty(table: pa.Table) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=table.schema)
