"""The flow on a page: every stage in its order, with what determines its output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pyarrow as pa

from raydelt import cluster, metrics, rundir
from raydelt.active import session
from raydelt.config import RunConfig
from raydelt.corpus.read import read_corpus
from raydelt.corpus.sources import find
from raydelt.errors import InputError
from raydelt.estimate.memory import watched
from raydelt.models.identity import own_models, references
from raydelt.order.stage import Arm, order_examples
from raydelt.pipeline.before_scores import stages_before_scores
from raydelt.pipeline.inputs import BESIDE, MODELS, content_of, digests_of, resting_of, standing, what_is_kept
from raydelt.pipeline.refinement import refined
from raydelt.pipeline.run import Run
from raydelt.precheck import check, require
from raydelt.rank import refine
from raydelt.rank.stage import rank_scores
from raydelt.report.stage import write_report
from raydelt.scorers.before import Before, needs_of
from raydelt.scorers.cells import Earlier
from raydelt.scorers.stage import score_corpus
from raydelt.select import resting
from raydelt.select.stage import select_examples
from raydelt.storage import Manifest, Store, absolute
from raydelt.train.stage import train_and_compare

STAGES = (
    *("corpus", *BESIDE, *MODELS, "scores", resting.STAGE, *refine.STAGES),
    *("ranking", "selection", "ordered", "model", "report"),
)


def execute(
    config: RunConfig,
    *,
    until: str = "report",
    then: Callable[[Run], object] | None = None,
    earlier: Earlier | None = None,
) -> Run:
    """Run the flow up to a stage, going on from whatever already stands in the run directory; `then` comes after it.

    Raises:
        RaydeltError: a wrong spec, input or place, or an exceeded error budget; told in one sentence.
    """
    store = Store(absolute(config.output))
    stages = STAGES[: STAGES.index(until) + 1]
    check(config, stages)
    rundir.claim(store, config)
    began = time.perf_counter()
    with watched() as watch, cluster.connected(config.cluster), metrics.run(config.name):
        require(config, training="model" in stages)
        run = Run(config, store, watch, cluster.capacity(), time.perf_counter() - began, earlier=earlier)
        for _ in _flow(run):
            if until in run.manifests:
                break
        if then is not None:
            then(run)
    return run


def _flow(run: Run) -> Iterator[None]:
    """The stages in order; pauses after each."""
    config = run.config
    corpus = _corpus(run)
    yield
    if corpus.rows == 0:
        raise InputError(
            f"none of the {corpus.facts['pool']} examples of corpus.pool has a label yet: `raydelt label next` says "
            "which to label first"
        )
    yield from stages_before_scores(run, corpus, needs_of([spec.build() for spec in config.score]))
    before = standing(run, corpus)
    scores = _scores(run, before)
    yield
    history = before.proxies.facts["history"] if before.proxies else []
    if run.earlier is not None and run.earlier.states is not None:
        _resting(run, corpus, run.earlier.states)
        yield
    if config.rank.refine is not None:
        yield from refined(run, before, scores, history, config.rank.refine)
        scores = run.manifests["refined"]
    ranking = _ranking(run, corpus, scores, history)
    yield
    selection = _selection(run, corpus, ranking)
    yield
    ordered = _ordered(run, corpus, selection)
    yield
    trained = _model(run, corpus, ordered)
    yield
    run.stage(
        "report",
        [trained.fingerprint, corpus.fingerprint, config.report.model_dump(mode="json")],
        lambda stage: write_report(config, dict(run.manifests), dict(run.seconds), stage),
    )
    yield


def _corpus(run: Run) -> Manifest:
    spec, seed = run.config.corpus, run.config.seed
    files, answers = find(spec), session.answers(run.config)
    carried = run.earlier.carried(files) if run.earlier is not None else None
    return run.stage(
        "corpus",
        [
            spec.model_dump(mode="json"),
            [[file.path, file.split, file.size, file.mark] for file in files],
            answers,
            *([carried.corpus.fingerprint, sorted(carried.splits)] if carried else []),
        ],
        lambda stage: read_corpus(spec, files, stage, seed=seed, answers=answers, carried=carried),
    )


def _scores(run: Run, before: Before) -> Manifest:
    config = run.config
    return run.stage(
        "scores",
        [
            content_of(before.corpus),
            config.model_dump(mode="json")["score"],
            [spec.build().version for spec in config.score],
            [[name, manifest.fingerprint] for name, manifest in before.beside.items()],
            [[name, manifest.fingerprint] for name, manifest in before.models.items()],
            None if before.proxies else own_models(config.model),
            references(config.score),
            *_frame_kept(run, before.corpus),
        ],
        lambda stage: score_corpus(config, before, stage, earlier=run.earlier),
    )


def _resting(run: Run, corpus: Manifest, states: pa.Table) -> None:
    config, rules = run.config, run.config.monitor.retire
    run.stage(
        resting.STAGE,
        [content_of(corpus), resting.identity(states, rules)],
        lambda stage: resting.rest(states, rules, corpus, stage, seed=config.seed),
    )


def _ranking(run: Run, corpus: Manifest, scores: Manifest, history: list[float]) -> Manifest:
    config = run.config
    only = what_is_kept(run) if config.rank.extent == "kept" else None
    tokens = run.manifests["tokens"] if config.select.method == "token_budget" else None
    return run.stage(
        "ranking",
        [
            scores.fingerprint,
            config.rank.combine.model_dump(mode="json"),
            history,
            *(only.lasting if only else [None]),
            tokens.fingerprint if tokens else None,
            *resting_of(run),
        ],
        lambda stage: rank_scores(
            config.rank.combine,
            corpus,
            scores,
            history,
            stage,
            seed=config.seed,
            only=only.select if only else None,
            tokens=tokens,
            resting=run.manifests.get(resting.STAGE),
        ),
    )


def _selection(run: Run, corpus: Manifest, ranking: Manifest) -> Manifest:
    order, kept = run.config.order, what_is_kept(run)
    return run.stage(
        "selection",
        [ranking.fingerprint, *kept.lasting, order.model_dump(mode="json"), *resting_of(run)],
        lambda stage: select_examples(
            kept.select,
            order,
            ranking,
            corpus.facts["classes"],
            stage,
            seed=run.config.seed,
            planned=kept.told,
            resting=run.manifests.get(resting.STAGE),
        ),
    )


def _ordered(run: Run, corpus: Manifest, selection: Manifest) -> Manifest:
    arms, tokens = _arms(run.config), run.manifests.get("tokens")
    return run.stage(
        "ordered",
        [selection.fingerprint, [arm.__dict__ for arm in arms]],
        lambda stage: order_examples(corpus, tokens, selection, arms, stage, seed=run.config.seed),
    )


def _model(run: Run, corpus: Manifest, ordered: Manifest) -> Manifest:
    config, tokens = run.config, run.manifests.get("tokens")
    c = config.model_dump(mode="json")
    return run.stage(
        "model",
        [
            ordered.fingerprint,
            own_models(config.model) if tokens else c["model"],
            config.train.lasting(),
            c["order"]["later_epochs"],
            digests_of(tokens or corpus, "test", "validation"),
        ],
        lambda stage: train_and_compare(config, corpus, tokens, ordered, stage),
    )


def _frame_kept(run: Run, corpus: Manifest) -> list[str]:
    """Identifies what was fitted on the corpus of an earlier version and is kept; empty where nothing is."""
    return [run.earlier.frame.digest] if run.earlier is not None and run.earlier.keeps_for(corpus) else []


def _arms(config: RunConfig) -> list[Arm]:
    """The baseline orders that training needs: a random subset for every seed, the full corpus once."""
    arms = []
    if "random" in config.train.baselines:
        arms += [Arm(f"random-{seed}", "random") for seed in config.train.seeds]
    if "full" in config.train.baselines:
        arms.append(Arm("full", "full"))
    return arms
