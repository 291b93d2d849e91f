"""The whole flow: corpus -> proxies -> score -> rank -> select -> order -> train -> report.

Every stage has a fingerprint of what determines its output: the content it reads, its section of the spec, and the
version of its code. A stage whose output already stands under that fingerprint is not run again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raydelt import __version__, cluster, metrics, rundir
from raydelt.active import session
from raydelt.active.phases import Phase
from raydelt.active.pool import train_committee
from raydelt.config import Refine, RunConfig
from raydelt.corpus.read import read_corpus
from raydelt.corpus.sources import find
from raydelt.corpus.tokens import tokenise_corpus
from raydelt.errors import InputError
from raydelt.estimate.memory import START, Watch, watched
from raydelt.lqs.distil import distil
from raydelt.lqs.stage import walk_trajectories
from raydelt.lqs.starts import model_of, spec_of
from raydelt.models import folder
from raydelt.models.identity import own_models, references
from raydelt.order.stage import Arm, order_examples
from raydelt.plan import stage as planning
from raydelt.plan.buckets import slice_ranking
from raydelt.plan.chosen import Chosen, chosen
from raydelt.plan.probe import measure_losses
from raydelt.precheck import check, require
from raydelt.rank import refine
from raydelt.rank.stage import combined_rows, rank_scores
from raydelt.report.stage import write_report
from raydelt.report.wording import planned
from raydelt.scorers.before import Before, needs_of
from raydelt.scorers.cells import Earlier, origin
from raydelt.scorers.embeddings import embed_corpus
from raydelt.scorers.ledger import keep_ledger
from raydelt.scorers.lqs import Distil
from raydelt.scorers.neighbours import find_neighbours
from raydelt.scorers.protocol import Need
from raydelt.scorers.proxies import fit_proxies, keep_proxies, may_keep
from raydelt.scorers.stage import score_corpus
from raydelt.scorers.targets import requests, target_gradients
from raydelt.select.stage import select_examples
from raydelt.storage import Manifest, Stage, Store, absolute, fingerprint
from raydelt.train.stage import train_and_compare
from raydelt.valuation.measures import measure
from raydelt.valuation.methods import Valuation
from raydelt.valuation.stage import value_corpus

log = logging.getLogger(__name__)
BESIDE = ("tokens", "embeddings", "neighbours", "ledger", "values", "proxies")
MODELS = ("targets", "trajectory", "annotated", "distilled")
STAGES = ("corpus", *BESIDE, *MODELS, "scores", *refine.STAGES, "ranking", "selection", "ordered", "model", "report")


@dataclass
class Run:
    """One execution of a spec in its run directory; `seconds` are those of the stages that really ran.

    `start` are the seconds until Ray was there, `capacity` is what it has, and `watch` sees the memory. What stands
    of an `earlier` version is not computed again.
    """

    config: RunConfig
    store: Store
    watch: Watch = field(default_factory=Watch)
    capacity: dict[str, Any] = field(default_factory=dict)
    start: float = 0.0
    fresh: dict[str, bool] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    chosen: Chosen | None = None
    earlier: Earlier | None = None

    def stage(self, name: str, inputs: list[Any], work: Callable[[Stage], Manifest]) -> Manifest:
        """The stage's manifest: as it stands, if nothing that determines it changed, else computed now."""
        stage = Stage(self.store, name, fingerprint([__version__, self.config.seed, *inputs]))
        manifest = stage.published()
        self.fresh[name] = manifest is None
        started = time.perf_counter()
        if manifest is None:
            self.watch.stage = name
            manifest = metrics.measured(name, lambda: work(stage), _counts)
        seconds = time.perf_counter() - started
        if self.fresh[name]:
            self.seconds[name] = seconds
        self.manifests[name] = manifest
        _log_stage(name, manifest, self.fresh[name], seconds)
        rundir.record(self.store, self.config, self.manifests, self.seconds, self.measured())
        return manifest

    def measured(self) -> dict[str, Any]:
        """What the run's record holds beside the seconds of the stages that ran now."""
        now = {START, *self.seconds} if self.seconds else set()
        peaks = {name: asdict(peak) for name, peak in self.watch.peaks.items() if name in now}
        return {"start": self.start, "cluster": self.capacity, "peaks": peaks}


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
    check(config, STAGES[: STAGES.index(until) + 1])
    rundir.claim(store, config)
    began = time.perf_counter()
    with watched() as watch, cluster.connected(config.cluster), metrics.run(config.name):
        require(config)
        run = Run(config, store, watch, cluster.capacity(), time.perf_counter() - began, earlier=earlier)
        for _ in _flow(run):
            if until in run.manifests:
                break
        if then is not None:
            then(run)
    return run


def measure_values(run: Run) -> Manifest:
    """The stage that holds the components of a run to the protocol of OpenDataVal."""
    corpus, scores = run.manifests["corpus"], run.manifests["scores"]
    inputs = [scores.fingerprint, _sides(corpus, ["test"])]
    return run.stage("protocol", inputs, lambda stage: measure(corpus, scores, stage))


def ask(run: Run, *, phase: Phase | None = None) -> session.Batch:
    """A round of labelling: the examples of the pool that people are asked about next."""
    config, corpus = run.config, run.manifests["corpus"]

    def committee() -> Manifest:
        label = config.label
        inputs = [_content(corpus), config.model.model_dump(mode="json"), label.recipe.model_dump(mode="json")]
        return run.stage(
            "committee",
            [*inputs, label.committee, _sides(corpus, ["validation"])],
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
            {name: c["plan"]["probes"][name] for name in ("budgets", "seeds")},
            {name: c["train"][name] for name in ("recipe", "precision", "micro_batch", "lora")},
            own_models(config.model) if tokens else c["model"],
            _sides(tokens or corpus, ["validation"]),
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


def _flow(run: Run) -> Any:
    """The stages in order; pauses after each."""
    config, rank = run.config, run.config.rank
    c = config.model_dump(mode="json")
    files, answers = find(config.corpus), session.answers(config)
    corpus = run.stage(
        "corpus",
        [c["corpus"], [[file.path, file.split, file.size, file.mark] for file in files], answers],
        lambda stage: read_corpus(config.corpus, files, stage, seed=config.seed, answers=answers),
    )
    yield
    if corpus.rows == 0:
        raise InputError(
            f"none of the {corpus.facts['pool']} examples of corpus.pool has a label yet: `raydelt label next` says "
            "which to label first"
        )
    scorers = [spec.build() for spec in config.score]
    for _ in _before_scores(run, corpus, needs_of(scorers)):
        yield
    before = _before(run, corpus)
    proxies = before.proxies
    scores = run.stage(
        "scores",
        [
            _content(corpus),
            c["score"],
            [s.version for s in scorers],
            [[name, manifest.fingerprint] for name, manifest in before.beside.items()],
            [[name, manifest.fingerprint] for name, manifest in before.models.items()],
            None if proxies else own_models(config.model),
            references(config.score),
            *_frame_kept(run, corpus),
        ],
        lambda stage: score_corpus(config, before, stage, earlier=run.earlier),
    )
    yield
    history = proxies.facts["history"] if proxies else []
    only = _chosen(run) if rank.extent == "kept" else None
    tokens = run.manifests["tokens"] if config.select.method == "token_budget" else None
    if rank.refine is not None:
        yield from _refined(run, before, scores, history, rank.refine)
        scores = run.manifests["refined"]
    ranking = run.stage(
        "ranking",
        [
            scores.fingerprint,
            c["rank"]["combine"],
            history,
            *(only.lasting if only else [None]),
            tokens.fingerprint if tokens else None,
        ],
        lambda stage: rank_scores(
            rank.combine,
            corpus,
            scores,
            history,
            stage,
            seed=config.seed,
            only=only.select if only else None,
            tokens=tokens,
        ),
    )
    yield
    selection = run.stage(
        "selection",
        [ranking.fingerprint, *_chosen(run).lasting, c["order"]],
        lambda stage: select_examples(
            _chosen(run).select,
            config.order,
            ranking,
            corpus.facts["classes"],
            stage,
            seed=config.seed,
            planned=_chosen(run).told,
        ),
    )
    yield
    arms, tokens = _arms(config), run.manifests.get("tokens")
    ordered = run.stage(
        "ordered",
        [selection.fingerprint, [arm.__dict__ for arm in arms]],
        lambda stage: order_examples(corpus, tokens, selection, arms, stage, seed=config.seed),
    )
    yield
    trained = run.stage(
        "model",
        [
            ordered.fingerprint,
            own_models(config.model) if tokens else c["model"],
            config.train.lasting(),
            c["order"]["later_epochs"],
            [part.digest for kind in ("test", "validation") for part in (tokens or corpus).sides.get(kind, [])],
        ],
        lambda stage: train_and_compare(config, corpus, tokens, ordered, stage),
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
    if config.encoder is not None and needs & {"vectors", "neighbours", "values"}:
        encoder, sides = config.encoder, ["validation"] if "values" in needs else []
        embeddings = run.stage(
            "embeddings",
            [content, c["encoder"], folder.fingerprint(encoder.path), _sides(corpus, sides)],
            lambda stage: embed_corpus(encoder, config.cluster.actors, corpus, stage, sides=sides),
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
    if "values" in needs:
        methods = [spec for spec in config.score if isinstance(spec, Valuation)]
        run.stage(
            "values",
            [
                content,
                [method.lasting() for method in methods],
                _sides(corpus, ["validation"]),
                embeddings.fingerprint if embeddings else None,
            ],
            lambda stage: value_corpus(config, methods, corpus, embeddings, stage),
        )
        yield
    models = needs & {"classifier", "gradients"}
    if config.rank.method == "folding_sort" and models:
        proxies = _proxies(run, corpus)
        yield
    if "target" in needs:
        inputs = [
            origin(proxies) if proxies else own_models(config.model),
            [asdict(one) for one in requests(config)],
        ]
        run.stage(
            "targets",
            [inputs, [part.digest for part in corpus.sides["validation"]], tokens.fingerprint if tokens else None],
            lambda stage: target_gradients(config, corpus, proxies, tokens, stage),
        )
        yield
    if "trajectory" in needs:
        yield from _along_trajectories(run, corpus, tokens)


def _proxies(run: Run, corpus: Manifest) -> Manifest:
    """The proxies of an earlier version where they may be kept, else fitted ones."""
    config, c, earlier = run.config, run.config.model_dump(mode="json"), run.earlier
    settings = {k: c["rank"][k] for k in ("folds", "rounds", "proxy", "max_proxy_examples")}
    inputs = [_content(corpus), c["model"], settings]
    if earlier is not None and may_keep(earlier, corpus, config.rank, config.model):
        kept = [origin(earlier.manifests["proxies"]), earlier.manifests["proxies"].fingerprint]
        return run.stage(
            "proxies",
            [*inputs, kept],
            lambda stage: keep_proxies(earlier, corpus, stage, seed=config.seed),
        )
    return run.stage(
        "proxies", inputs, lambda stage: fit_proxies(config.rank, config.model, corpus, stage, seed=config.seed)
    )


def _frame_kept(run: Run, corpus: Manifest) -> list[str]:
    """Identifies what was fitted on the corpus of an earlier version and is kept; empty where nothing is."""
    return [run.earlier.frame.digest] if run.earlier is not None and run.earlier.keeps_for(corpus) else []


def _along_trajectories(run: Run, corpus: Manifest, tokens: Manifest | None) -> Any:
    """The trajectories, and where the corpus is too large to annotate, a data scorer in their place."""
    config, spec = run.config, spec_of(run.config)
    settings = spec.model_dump(mode="json", exclude={"kind", "target", "annotate", "workers"})
    walked = run.stage(
        "trajectory",
        [
            [_content(corpus), settings, own_models(model_of(config)), tokens.fingerprint if tokens else None],
            [part.digest for part in corpus.sides["validation"]],
        ],
        lambda stage: walk_trajectories(config, corpus, tokens, stage),
    )
    yield
    if spec.annotate == "direct":
        return
    sample = _before(run, corpus).first(spec.annotate.proxy)
    exact = config.model_copy(update={"score": [spec.model_copy(update={"annotate": "direct"})]})
    annotated = run.stage(
        "annotated",
        [walked.fingerprint, sample.corpus.rows],
        lambda stage: score_corpus(exact, sample, stage),
    )
    yield
    run.stage(
        "distilled",
        [annotated.fingerprint, spec.annotate.model_dump(mode="json"), _encoder(config, spec.annotate)],
        lambda stage: distil(config, spec, corpus, annotated, stage),
    )
    yield


def _refined(run: Run, before: Before, scores: Manifest, history: list[float], spec: Refine) -> Any:
    """More rounds for the examples that the cut is not sure of, pooled with the first; pauses after each stage."""
    config, corpus, rank = run.config, before.corpus, run.config.rank
    seed = refine.rounds_seed(config.seed)

    def uncertain(stage: Stage) -> Manifest:
        pieces, _ = combined_rows(rank.combine, corpus, scores, history, stage.run)
        return refine.find_uncertain(spec, _chosen(run).select, corpus, pieces, stage, seed=config.seed)

    c = config.model_dump(mode="json")
    settings = [c["rank"]["combine"], c["rank"]["refine"], *_chosen(run).lasting]
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


def _before(run: Run, corpus: Manifest) -> Before:
    """What stands of the stages before the scores."""
    known = run.manifests
    return Before(
        corpus, {name: known[name] for name in BESIDE if name in known}, {n: known[n] for n in MODELS if n in known}
    )


def _chosen(run: Run) -> Chosen:
    """What is kept: what the spec says, or the plan that it names."""
    if run.chosen is None:
        run.chosen = chosen(run.config.select, planning.definition(run.config, run.manifests["corpus"]))
        if run.chosen.told is not None:
            log.info("%-10s %s", "ratio", planned(run.chosen.told))
    return run.chosen


def _encoder(config: RunConfig, distil: Distil) -> str | None:
    """Identifies the data scorer's encoder by its files; None where it is the spec's own network."""
    if config.model.kind != "causal_lm":
        return None
    return folder.fingerprint(distil.encoder or config.model.paths[0])


def _content(corpus: Manifest) -> list[Any]:
    """What later stages read of the corpus."""
    return [corpus.facts[key] for key in ("content", "classes", "input_shape", "standardize")]


def _sides(corpus: Manifest, kinds: list[str]) -> list[str]:
    """What identifies held-out splits of the corpus."""
    return [part.digest for kind in kinds for part in corpus.sides.get(kind, [])]


def _arms(config: RunConfig) -> list[Arm]:
    """The baseline orders that training needs: a random subset for every seed, the full corpus once."""
    arms = []
    if "random" in config.train.baselines:
        arms += [Arm(f"random-{seed}", "random") for seed in config.train.seeds]
    if "full" in config.train.baselines:
        arms.append(Arm("full", "full"))
    return arms


def _counts(manifest: Manifest) -> tuple[int, int]:
    """Rows that a stage processed, and those that it put into quarantine."""
    bad = sum(part.rows for part in manifest.sides.get("quarantine", []))
    return manifest.facts.get("rows_processed", manifest.rows), bad


def _log_stage(name: str, manifest: Manifest, fresh: bool, seconds: float) -> None:
    rows, _ = _counts(manifest)
    if not fresh:
        log.info("%-10s up to date, %d rows", name, rows)
        return
    log.info("%-10s %d rows, %.0f rows/s, %.1f s", name, rows, rows / max(seconds, 1e-9), seconds)
