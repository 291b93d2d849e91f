"""`rank.refine`: more rounds for the examples that the cut is not sure of, before the ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from raydelt.config import Refine
from raydelt.pipeline.inputs import resting_of, what_is_kept
from raydelt.pipeline.run import Run
from raydelt.rank import refine
from raydelt.rank.stage import combined_rows
from raydelt.scorers.before import Before
from raydelt.scorers.proxies import fit_proxies
from raydelt.scorers.stage import score_corpus
from raydelt.select.resting import STAGE
from raydelt.storage import Manifest, Stage


def refined(run: Run, before: Before, scores: Manifest, history: list[float], spec: Refine) -> Iterator[None]:
    """More rounds for the examples that the cut is not sure of, pooled with the first; pauses after each stage."""
    config, corpus, rank = run.config, before.corpus, run.config.rank
    seed = refine.rounds_seed(config.seed)

    def uncertain(stage: Stage) -> Manifest:
        resting = run.manifests.get(STAGE)
        pieces, _ = combined_rows(rank.combine, corpus, scores, history, stage.run, resting=resting)
        return refine.find_uncertain(spec, what_is_kept(run).select, corpus, pieces, stage, seed=config.seed)

    c = config.model_dump(mode="json")
    settings = [c["rank"]["combine"], c["rank"]["refine"], *what_is_kept(run).lasting, *resting_of(run)]
    found = run.stage("uncertain", [scores.fingerprint, history, settings], uncertain)
    yield
    more = rank.model_copy(update={"rounds": spec.rounds})
    proxies = run.stage(
        "more_proxies",
        [before.beside["proxies"].fingerprint, spec.rounds],
        lambda stage: fit_proxies(more, config.model, corpus, stage, seed=seed),
    )
    yield
    again = replace(before, beside={**before.beside, "proxies": proxies}, only=found)
    own = config.model_copy(update={"score": refine.repeatable(config.score)})
    rescored = run.stage(
        "rescored",
        [scores.fingerprint, found.fingerprint, proxies.fingerprint],
        lambda stage: score_corpus(own, again, stage),
    )
    yield
    run.stage(
        "refined",
        [scores.fingerprint, rescored.fingerprint],
        lambda stage: refine.pool_scores(scores, rescored, (rank.rounds, spec.rounds), stage),
    )
    yield
