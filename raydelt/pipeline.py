"""The whole flow: corpus -> proxies -> score -> rank -> select -> order -> train -> report.

Every stage has a fingerprint of what determines its output: the content it reads, its section of the spec, and the
version of its code. A stage whose output already stands under that fingerprint is not run again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raydelt import __version__, cluster, rundir
from raydelt.config import HeldOut, RunConfig
from raydelt.corpus.read import read_corpus
from raydelt.corpus.sources import find
from raydelt.corpus.tokens import tokenise_corpus
from raydelt.errors import SpecError
from raydelt.models import folder
from raydelt.order.stage import Arm, order_examples
from raydelt.rank.stage import rank_scores
from raydelt.report.stage import write_report
from raydelt.scorers.embeddings import embed_corpus
from raydelt.scorers.ledger import keep_ledger
from raydelt.scorers.neighbours import find_neighbours
from raydelt.scorers.protocol import Need
from raydelt.scorers.proxies import fit_proxies
from raydelt.scorers.stage import Before, needs_of, score_corpus
from raydelt.scorers.targets import requests, target_gradients
from raydelt.select.stage import select_examples
from raydelt.storage import Manifest, Stage, Store, absolute, fingerprint
from raydelt.train.stage import train_and_compare

log = logging.getLogger(__name__)
BESIDE = ("tokens", "embeddings", "neighbours", "ledger", "proxies")
STAGES = ("corpus", *BESIDE, "targets", "scores", "ranking", "selection", "ordered", "model", "report")


@dataclass
class Run:
    """One execution of a spec in its run directory; `seconds` are those of the stages that really ran."""

    config: RunConfig
    store: Store
    fresh: dict[str, bool] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, inputs: list[Any], work: Callable[[Stage], Manifest]) -> Manifest:
        """The stage's manifest: as it stands, if nothing that determines it changed, else computed now."""
        stage = Stage(self.store, name, fingerprint([__version__, self.config.seed, *inputs]))
        manifest = stage.published()
        self.fresh[name] = manifest is None
        started = time.perf_counter()
        if manifest is None:
            manifest = work(stage)
        seconds = time.perf_counter() - started
        if self.fresh[name]:
            self.seconds[name] = seconds
        self.manifests[name] = manifest
        _log_stage(name, manifest, self.fresh[name], seconds)
        rundir.record(self.store, self.config, self.manifests, self.seconds)
        return manifest


def execute(config: RunConfig, *, until: str = "report") -> Run:
    """Run the flow up to a stage, going on from whatever already stands in the run directory.

    Raises:
        RaydeltError: a wrong spec, input or place, or an exceeded error budget; told in one sentence.
    """
    store = Store(absolute(config.output))
    _check(config, STAGES[: STAGES.index(until) + 1])
    rundir.claim(store, config)
    run = Run(config, store)
    with cluster.connected(config.cluster):
        _require(config)
        for _ in _flow(run):
            if until in run.manifests:
                break
    return run


def _flow(run: Run) -> Any:
    """The stages in order; pauses after each."""
    config, rank = run.config, run.config.rank
    c = config.model_dump(mode="json")
    files = find(config.corpus)
    corpus = run.stage(
        "corpus",
        [c["corpus"], [[file.path, file.split, file.size, file.mark] for file in files]],
        lambda stage: read_corpus(config.corpus, files, stage, seed=config.seed),
    )
    yield
    scorers = [spec.build() for spec in config.score]
    for _ in _before_scores(run, corpus, needs_of(scorers)):
        yield
    before = Before(
        corpus, {name: run.manifests[name] for name in BESIDE if name in run.manifests}, run.manifests.get("targets")
    )
    proxies = before.proxies
    scores = run.stage(
        "scores",
        [
            _content(corpus),
            c["score"],
            [s.version for s in scorers],
            [[name, manifest.fingerprint] for name, manifest in before.beside.items()],
            before.targets.fingerprint if before.targets else None,
            None if proxies else _own_models(config),
        ],
        lambda stage: score_corpus(config, before, stage),
    )
    yield
    history = proxies.facts["history"] if proxies else []
    ranking = run.stage(
        "ranking",
        [scores.fingerprint, c["rank"]["combine"], history],
        lambda stage: rank_scores(rank.combine, corpus, scores, history, stage),
    )
    yield
    selection = run.stage(
        "selection",
        [ranking.fingerprint, c["select"], c["order"]],
        lambda stage: select_examples(
            config.select, config.order, ranking, corpus.facts["classes"], stage, seed=config.seed
        ),
    )
    yield
    arms = _arms(config)
    ordered = run.stage(
        "ordered",
        [selection.fingerprint, [arm.__dict__ for arm in arms]],
        lambda stage: order_examples(corpus, selection, arms, stage, seed=config.seed),
    )
    yield
    trained = run.stage(
        "model",
        [
            ordered.fingerprint,
            c["model"],
            c["train"],
            c["order"]["later_epochs"],
            [part.digest for part in corpus.sides["test"]],
        ],
        lambda stage: train_and_compare(config, corpus, ordered, stage),
    )
    yield
    run.stage(
        "report",
        [trained.fingerprint, corpus.fingerprint, c["report"]],
        lambda stage: write_report(config, dict(run.manifests), dict(run.seconds), stage),
    )
    yield


def _before_scores(run: Run, corpus: Manifest, needs: frozenset[Need]) -> Any:
    """The stages whose output the scorers of this spec need; pauses after each."""
    config = run.config
    c, content = config.model_dump(mode="json"), _content(corpus)
    proxies = tokens = embeddings = None
    if config.model.kind == "causal_lm":
        settings = {k: c["model"][k] for k in ("context", "long_documents", "answer_after")}
        tokens = run.stage(
            "tokens",
            [content, settings, folder.fingerprint(config.model.paths[0])],
            lambda stage: tokenise_corpus(config.model, corpus, stage),
        )
        yield
    if config.encoder is not None and needs & {"vectors", "neighbours"}:
        encoder = config.encoder
        embeddings = run.stage(
            "embeddings",
            [content, c["encoder"], folder.fingerprint(encoder.path)],
            lambda stage: embed_corpus(encoder, config.cluster.actors, corpus, stage),
        )
        yield
    if "neighbours" in needs:
        run.stage(
            "neighbours",
            [content, embeddings.fingerprint if embeddings else None],
            lambda stage: find_neighbours(corpus, embeddings, stage, seed=config.seed),
        )
        yield
    if "ledger" in needs:
        settings = {k: c["rank"][k] for k in ("rounds", "proxy")}
        run.stage(
            "ledger",
            [content, c["model"], settings],
            lambda stage: keep_ledger(config.rank, config.model, corpus, stage, seed=config.seed),
        )
        yield
    models = needs & {"classifier", "gradients"}
    if config.rank.method == "folding_sort" and models:
        settings = {k: c["rank"][k] for k in ("folds", "rounds", "proxy", "max_proxy_examples")}
        proxies = run.stage(
            "proxies",
            [content, c["model"], settings],
            lambda stage: fit_proxies(config.rank, config.model, corpus, stage, seed=config.seed),
        )
        yield
    if "target" in needs:
        inputs = [proxies.fingerprint if proxies else _own_models(config), [asdict(one) for one in requests(config)]]
        run.stage(
            "targets",
            [inputs, [part.digest for part in corpus.sides["validation"]], tokens.fingerprint if tokens else None],
            lambda stage: target_gradients(config, corpus, proxies, tokens, stage),
        )
        yield


def _content(corpus: Manifest) -> list[Any]:
    """What later stages read of the corpus."""
    return [corpus.facts[key] for key in ("content", "classes", "input_shape", "standardize")]


def _own_models(config: RunConfig) -> list[Any]:
    """What identifies the spec's own checkpoints: the model section, and the bytes of every file that it names."""
    model = config.model
    named = [*model.checkpoints, *model.paths, *([model.adapter] if model.adapter else [])]
    named += [spec.reference for spec in config.score if hasattr(spec, "reference")]
    return [model.model_dump(mode="json"), [folder.fingerprint(path) for path in named]]


def _arms(config: RunConfig) -> list[Arm]:
    """The baseline orders that training needs: a random subset for every seed, the full corpus once."""
    arms = []
    if "random" in config.train.baselines:
        arms += [Arm(f"random-{seed}", "random") for seed in config.train.seeds]
    if "full" in config.train.baselines:
        arms.append(Arm("full", "full"))
    return arms


def _check(config: RunConfig, stages: Sequence[str]) -> None:
    """Refuse before anything is read what these stages could not do."""
    language = config.model.kind == "causal_lm"
    if language and "model" in stages:
        raise SpecError("training a causal_lm is not there yet: stop before it with `raydelt order`")
    if language and config.rank.method == "folding_sort":
        raise SpecError("rank.method folding_sort trains classifiers: set rank.method to score for a causal_lm")
    if "selection" in stages and config.select.quotas is not None and not config.corpus.labelled:
        raise SpecError("select.quotas needs classes: set corpus.label_column, or drop the quotas")
    if "model" in stages and not config.corpus.labelled:
        raise SpecError(
            "training a classifier needs labels: set corpus.label_column or label_from_folder, "
            "or stop before training with `raydelt order`"
        )
    if "model" in stages and config.corpus.test.source is None and config.corpus.test.fraction == 0:
        raise SpecError("corpus.test leaves no test split: give corpus.test.fraction or corpus.test.source")
    if config.model.factory is not None:
        from raydelt.models.classifier import load_factory

        load_factory(config.model.factory)
    for index, spec in enumerate(config.score):
        _check_scorer(config, f"score.{index}: {spec.kind}", spec.build().needs)


def _check_scorer(config: RunConfig, name: str, needs: frozenset[Need]) -> None:
    """Refuse a scorer that needs what this spec does not give."""
    language = config.model.kind == "causal_lm"
    if "classifier" in needs | ({"classifier"} if "ledger" in needs else set()) and language:
        raise SpecError(
            f"{name} needs a classifier, and model.kind is causal_lm: take lm_loss, excess_loss or grad_norm"
        )
    if "language" in needs and not language:
        raise SpecError(f"{name} needs a language model: set model.kind to causal_lm and model.path")
    if "label" in needs and not language and not config.corpus.labelled:
        raise SpecError(f"{name} needs labels: set corpus.label_column")
    if "time" in needs and config.corpus.time_column is None:
        raise SpecError(f"{name} needs the age of examples: set corpus.time_column")
    if "target" in needs and config.corpus.validation == HeldOut():
        raise SpecError(f"{name} needs a target set: set corpus.validation.fraction or corpus.validation.source")
    own = needs & {"classifier", "gradients"} and not language
    if own and config.rank.method == "score" and not config.model.checkpoints:
        raise SpecError(f"{name} needs a model: set model.checkpoint, or rank.method to folding_sort")


def _require(config: RunConfig) -> None:
    """Refuse at once what Ray would wait for without end."""
    actors = config.cluster.actors
    cluster.require("GPU", actors.num_gpus * actors.min, "cluster.actors (num_gpus x min)")
    cluster.require("CPU", actors.num_cpus * actors.min, "cluster.actors (num_cpus x min)")
    cluster.require("CPU", config.train.workers, "train.workers")


def _log_stage(name: str, manifest: Manifest, fresh: bool, seconds: float) -> None:
    rows = manifest.facts.get("rows_processed", manifest.rows)
    if not fresh:
        log.info("%-10s up to date, %d rows", name, rows)
        return
    log.info("%-10s %d rows, %.0f rows/s, %.1f s", name, rows, rows / max(seconds, 1e-9), seconds)
