"""Stages beside the flow: rounds of labelling, the protocol of valuations, probes and plans."""

from __future__ import annotations

from raydelt import rundir
from raydelt.active import session
from raydelt.active.phases import Phase
from raydelt.active.pool import train_committee
from raydelt.models.identity import own_models
from raydelt.pipeline.inputs import content_of, digests_of
from raydelt.pipeline.run import Run
from raydelt.plan import stage as planning
from raydelt.plan.buckets import slice_ranking
from raydelt.plan.probe import measure_losses
from raydelt.storage import Manifest
from raydelt.valuation.measures import measure


def measure_values(run: Run) -> Manifest:
    """The stage that holds the components of a run to the protocol of OpenDataVal."""
    corpus, scores = run.manifests["corpus"], run.manifests["scores"]
    inputs = [scores.fingerprint, digests_of(corpus, "test")]
    return run.stage("protocol", inputs, lambda stage: measure(corpus, scores, stage))


def ask(run: Run, *, phase: Phase | None = None) -> session.Batch:
    """A round of labelling: the examples of the pool that people are asked about next."""
    config, corpus = run.config, run.manifests["corpus"]

    def committee() -> Manifest:
        label = config.label
        inputs = [content_of(corpus), config.model.model_dump(mode="json"), label.recipe.model_dump(mode="json")]
        return run.stage(
            "committee",
            [*inputs, label.committee, digests_of(corpus, "validation")],
            lambda stage: train_committee(
                config.model, label.recipe, label.committee, corpus, stage, seed=config.seed
            ),
        )

    return session.next_batch(session.Stages(config, run.store, corpus, committee), phase=phase)


def probe(run: Run) -> Manifest:
    """The stage of short trainings on the buckets of the ranking."""
    config, known = run.config, run.manifests
    c, corpus, ranking, tokens = config.resolved(), known["corpus"], known["ranking"], known.get("tokens")
    buckets = run.stage(
        "buckets",
        [
            ranking.fingerprint,
            config.plan.slicing(),
            config.select.quotas is not None,
            tokens.fingerprint if tokens else None,
        ],
        lambda stage: slice_ranking(config, corpus, tokens, ranking, stage),
    )
    return run.stage(
        "probes",
        [
            buckets.fingerprint,
            {name: c["plan"]["probes"][name] for name in ("budgets", "seeds", "most_seeds")},
            {name: c["train"][name] for name in ("recipe", "precision", "micro_batch", "lora")},
            own_models(config.model) if tokens else c["model"],
            digests_of(tokens or corpus, "validation"),
        ],
        lambda stage: measure_losses(config, corpus, tokens, buckets, stage),
    )


def plan(run: Run) -> Manifest:
    """The stage that says what to keep of the ranking at each budget."""
    config, corpus = run.config, run.manifests["corpus"]
    if config.plan.points is None:
        probe(run)
    seconds = run.store.read_json(rundir.RECORD)["seconds"]
    made_of = planning.definition(config, corpus)
    before = planning.before(config, run.manifests, seconds, run.store)
    settings = config.plan.model_dump(mode="json", exclude={"probes", "points"})
    return run.stage(
        "plan",
        [before.fingerprint, settings, made_of],
        lambda stage: planning.publish_plan(config, before, made_of, stage),
    )
