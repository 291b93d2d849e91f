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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import ErrorBudgetExceeded
from raydelt.examples import TIME, column_of
from raydelt.lqs.estimate import tell_estimate
from raydelt.models.moments import FeatureMoments
from raydelt.scorers import frame
from raydelt.scorers.actor import PartScorer
from raydelt.scorers.before import Before, PartReader, needs_of, reader_of
from raydelt.scorers.cells import Cells, Earlier, cell_keys, settings_of
from raydelt.scorers.concentration import TOP, concentration_of
from raydelt.scorers.protocol import Scorer, ScoringContext
from raydelt.storage import Manifest, Part, Stage, Store

log = logging.getLogger(__name__)

FLAT = 1e-7
GRADIENT_SIZES = ("grad_norm", "input_saliency")


def score_corpus(config: RunConfig, before: Before, stage: Stage, *, earlier: Earlier | None = None) -> Manifest:
    """Score every example of the corpus and publish the components; cells of an earlier version that stand, stay.

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
    kept = earlier if earlier is not None and earlier.keeps_for(corpus) else None
    context = _fit(config, before, replace(reader, beside=only_vectors, only=()), scorers, kept)
    keys = cell_keys(config, corpus, {**before.beside, **before.models}, context)
    cells = Cells.of(earlier, keys) if earlier is not None else None
    if "trajectory" in needs and "data_scorer" not in needs:
        tell_estimate(config, before.models["trajectory"], corpus.rows)
    options = {
        "stage": stage,
        "config": config,
        "before": before,
        "reader": reader,
        "context": context,
        "cells": cells,
    }
    items = [{"part": index, "rows": part.rows} for index, part in enumerate((before.only or corpus).parts)]
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
    computed = {scorer.name: sum(entry["computed"][scorer.name] for entry in done) for scorer in scorers}
    facts = {"scored": scored, "quarantined": quarantined, "columns": columns, "took": _took(done, parts)}
    facts |= {"cells": keys, "computed": computed}
    sides = {"quarantine": bad}
    # What a chosen few say of a component is not what the corpus says.
    if before.only is None:
        _warn_of_constants(stage.run, parts, names)
        sizes = [name for name in GRADIENT_SIZES if name in names]
        facts["concentration"] = _concentration(stage.run, parts, sizes, before.proxies)
        facts["settings"] = settings_of(config.score)
        sides["frame"] = _frame(context, stage)
    return stage.publish(parts, facts, sides)


def _frame(context: ScoringContext, stage: Stage) -> list[Part]:
    """The file of what was fitted on the corpus as a whole; none where a statistic cannot be written down."""
    try:
        data = frame.dump(frame.Frame(context.mean, context.scale, context.statistics))
    except TypeError as error:
        log.info("what was fitted on the corpus cannot be kept for later examples: %s", error)
        return []
    return [stage.run.put(stage.file("frame", 0, "npz"), data)]


def _took(done: Sequence[Mapping[str, Any]], parts: Sequence[Part]) -> dict[str, Any]:
    """Seconds of work of each scorer, all actors together, and the rows of the parts that were scored now."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for entry in done:
        for name, own in entry["seconds"].items():
            seconds[name] += own
    return {
        "rows": sum(p.rows for p, own in zip(parts, done, strict=True) if own["seconds"]),
        "seconds": dict(seconds),
    }


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


def _fit(
    config: RunConfig, before: Before, reader: PartReader, scorers: Sequence[Scorer], kept: Earlier | None
) -> ScoringContext:
    """The context that all actors share, with what is taken over the whole corpus: kept, or fitted now."""
    facts = before.corpus.facts
    parts = len(reader.files)
    held = frame.load(kept.run.read_bytes(kept.frame.file)) if kept else None
    mean, scale = np.zeros(facts["width"]), np.ones(facts["width"])
    shape = tuple(facts["input_shape"])
    embeddings = before.beside.get("embeddings")
    width = embeddings.facts["width"] if embeddings else None
    known = {}
    if kept and held:
        now, then = settings_of(config.score), kept.scores.facts["settings"]
        known = {name: held.statistics[name] for name in now if now[name] == then.get(name)}
    with cluster.passes(reader, parts, label="score: statistics") as reduce:
        if held is not None:
            mean, scale = held.mean, held.scale
        elif config.corpus.standardize:
            mean, scale = reduce(FeatureMoments(facts["width"])).standardisation(facts["input_shape"])
        bare = ScoringContext(config.seed, len(facts["classes"]), shape, mean, scale, embedding_width=width)
        own = {scorer.name: scorer.fit(reduce, bare) for scorer in scorers if scorer.name not in known}
    return replace(bare, statistics={**known, **own})


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
