"""The whole flow: corpus -> proxies -> score -> rank -> select -> order -> train -> report.

Every stage has a fingerprint of what determines its output: the content it reads, its section of the spec, and the
version of its code. A stage whose output already stands under that fingerprint is not run again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydelt import __version__, cluster, rundir
from raydelt.config import RunConfig
from raydelt.corpus.read import read_corpus
from raydelt.corpus.sources import find
from raydelt.errors import SpecError
from raydelt.order.stage import Arm, order_examples
from raydelt.rank.stage import rank_scores
from raydelt.report.stage import write_report
from raydelt.scorers.proxies import fit_proxies
from raydelt.scorers.stage import score_corpus
from raydelt.select.stage import select_examples
from raydelt.storage import Manifest, Stage, Store, absolute, fingerprint
from raydelt.train.stage import train_and_compare

log = logging.getLogger(__name__)
STAGES = ("corpus", "proxies", "scores", "ranking", "selection", "ordered", "model", "report")


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
    content = [corpus.facts[key] for key in ("content", "classes", "input_shape", "standardize")]
    proxies: Manifest | None = None
    scorers = [spec.build() for spec in config.score]
    if rank.method == "folding_sort" and any(scorer.needs_model for scorer in scorers):
        settings = {k: c["rank"][k] for k in ("folds", "rounds", "proxy", "max_proxy_examples")}
        proxies = run.stage(
            "proxies",
            [content, c["model"], settings],
            lambda stage: fit_proxies(rank, config.model, corpus, stage, seed=config.seed),
        )
        yield
    models = proxies.fingerprint if proxies else c["model"]
    scores = run.stage(
        "scores",
        [content, c["score"], [s.version for s in scorers], models],
        lambda stage: score_corpus(config, corpus, proxies, stage),
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
    scorers = [spec.build() for spec in config.score]
    for index, scorer in enumerate(scorers):
        if scorer.needs_label and not config.corpus.labelled:
            raise SpecError(f"score.{index}: {scorer.name} needs labels: set corpus.label_column")
        if scorer.needs_model and config.rank.method == "score" and config.model.checkpoint is None:
            raise SpecError(
                f"score.{index}: {scorer.name} needs a model: set model.checkpoint, or rank.method to folding_sort"
            )


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
