"""What the time of every stage follows: an amount of work w, and how many hands it can be shared out to.

    seconds = a + b w / hands         a: starting up, opening files, serial ends; b: seconds of work per unit and hand

Counts that follow from the spec and from numbers of examples, so the same functions give the work of a trial and of
the run. Sorting is n log n and counts as n. Assumed besides: machines of one kind, a network that keeps up, memory
that suffices. Known exceptions: a corpus that exceeds the object store is spilt to disk (100M rows of ranking: 1.4
times the time per row), and near neighbours beyond `ROWS_PER_CLUSTER` rows are compared within clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raydelt.config import Recipe, RunConfig
from raydelt.lqs.terms import visited
from raydelt.scorers.lqs import LqsConfig
from raydelt.scorers.neighbours import ROWS_PER_CLUSTER

# Forward passes that a row costs: a training step goes forward once and back for twice that.
TRAINED = 3.0
# Plain passes per row of a step's batch and per target example: two walks forwards and an adjoint step (measured).
BATCH_PASSES, TARGET_PASSES = 4.35, 2.35


@dataclass(frozen=True)
class Sizes:
    """Numbers of examples: `read` rows of the sources, those of the corpus and the held-out splits, parts, selected.

    `busy` are the seconds of work of all scorers on the whole corpus.
    """

    read: float
    rows: float
    validation: float
    test: float
    selected: float
    parts: int
    busy: float = 0.0


@dataclass(frozen=True)
class Hands:
    """What works at the same time: CPUs, GPUs, and scoring actors."""

    cpus: int
    gpus: float
    actors: int


@dataclass(frozen=True)
class Law:
    """How one stage scales: its work, the hands that share it, and both in words."""

    work: Callable[[RunConfig, Sizes], float]
    hands: Callable[[RunConfig, Sizes, Hands], float]
    follows: str
    limit: str


def _rows(_: RunConfig, n: Sizes) -> float:
    return n.rows


def _by_part(_: RunConfig, n: Sizes, hands: Hands) -> float:
    return _kept_busy(n.parts, hands.cpus)


def _kept_busy(parts: int, hands: float) -> float:
    """How many hands parts keep busy on average: some are idle in the last round."""
    return parts / math.ceil(parts / max(1.0, hands))


def _one(_: RunConfig, __: Sizes, ___: Hands) -> float:
    return 1.0


def _proxy_rows(config: RunConfig, n: Sizes, rounds: int) -> float:
    """Rows that the proxies are trained on, all epochs and models together."""
    rank = config.rank
    own = min(n.rows, rank.max_proxy_examples) * (rank.folds - 1) / rank.folds
    return rounds * rank.folds * _trained_rows(rank.proxy, own)


def _trained_rows(recipe: Recipe, examples: float) -> float:
    return recipe.total_steps(max(1, round(examples))) * recipe.batch_size


def _trained(config: RunConfig, n: Sizes) -> float:
    """Forward passes over rows of all replicates: their steps, and their evaluations."""
    train = config.train
    steps = train.recipe.total_steps(max(1, round(n.selected)))
    looks = -(-steps // train.evaluate_every) * n.validation if train.evaluate_every else 0.0
    return replicates(config) * (TRAINED * steps * train.recipe.batch_size + n.test + looks)


def replicates(config: RunConfig) -> int:
    """How many trainings the model stage holds."""
    return len(config.train.seeds) * (1 + len(config.train.baselines))


def lqs_of(config: RunConfig) -> LqsConfig | None:
    """The spec of trajectory scoring, where there is one."""
    return next((spec for spec in config.score if isinstance(spec, LqsConfig)), None)


def _models(config: RunConfig) -> int:
    """Models that score each example."""
    if config.rank.method == "folding_sort" and config.model.kind != "causal_lm":
        return config.rank.rounds * config.rank.folds
    return max(1, len(config.model.checkpoints or config.model.paths))


def _walked(config: RunConfig, n: Sizes) -> float:
    spec = lqs_of(config)
    assert spec is not None
    target = min(n.validation, spec.target_limit or n.validation)
    return trajectories(config) * spec.steps * (BATCH_PASSES * spec.batch_size + TARGET_PASSES * target)


def trajectories(config: RunConfig) -> int:
    """How many trajectories are walked."""
    spec = lqs_of(config)
    assert spec is not None
    return spec.trajectories or (len(spec.starts) if spec.starts else _models(config))


def _annotated(config: RunConfig, n: Sizes) -> float:
    return _distilled(config, n) * visits(config)


def _distilled(config: RunConfig, n: Sizes) -> float:
    spec = lqs_of(config)
    assert spec is not None
    return n.rows if spec.annotate == "direct" else min(n.rows, spec.annotate.proxy)


def visits(config: RunConfig) -> int:
    """Steps of a trajectory at which every example is evaluated; 1 without trajectories."""
    spec = lqs_of(config)
    return len(visited(spec.mode, spec.steps, spec.interval)) if spec is not None else 1


def _walkers(config: RunConfig, _: Sizes, __: Hands) -> float:
    spec = lqs_of(config)
    return float(spec.workers) if spec is not None else 1.0


def _actors(_: RunConfig, n: Sizes, hands: Hands) -> float:
    return _kept_busy(n.parts, min(hands.actors, hands.gpus or hands.cpus))


def _compared(_: RunConfig, n: Sizes) -> float:
    return n.rows * min(n.rows, ROWS_PER_CLUSTER)


def _more_rows(config: RunConfig, n: Sizes) -> float:
    return _proxy_rows(config, n, config.rank.refine.rounds if config.rank.refine else 0)


LAWS: Mapping[str, Law] = {
    "start": Law(lambda *_: 0.0, _one, "nothing", "serial"),
    "corpus": Law(lambda _, n: n.read, _by_part, "rows read", "parts"),
    "tokens": Law(_rows, _by_part, "rows", "parts"),
    "embeddings": Law(_rows, _actors, "rows", "parts, actors"),
    "neighbours": Law(_compared, _by_part, f"rows x min(rows, {ROWS_PER_CLUSTER})", "parts"),
    "ledger": Law(
        lambda c, n: c.rank.rounds * _trained_rows(c.rank.proxy, n.rows) * (1 + 1 / TRAINED),
        lambda c, _, hands: _kept_busy(c.rank.rounds, hands.cpus),
        "rows x epochs x rounds",
        "rank.rounds",
    ),
    "values": Law(_rows, lambda _, __, hands: hands.cpus, "rows", "pieces of the methods"),
    "proxies": Law(
        lambda c, n: _proxy_rows(c, n, c.rank.rounds),
        lambda c, _, hands: _kept_busy(c.rank.rounds * c.rank.folds, hands.cpus),
        "steps, capped by rank.max_proxy_examples",
        "rank.rounds x rank.folds",
    ),
    "targets": Law(
        lambda c, n: n.validation * _models(c),
        lambda c, _, hands: _kept_busy(_models(c), hands.cpus),
        "target examples x models",
        "models",
    ),
    "trajectory": Law(_walked, _walkers, "steps x (batch, target)", "score.lqs.workers"),
    "annotated": Law(_annotated, _actors, "annotated examples x visits", "parts, actors"),
    "distilled": Law(_distilled, _one, "annotated examples", "score.lqs.annotate.workers"),
    "scores": Law(lambda _, n: n.busy, _actors, "seconds of the scorers", "parts, actors"),
    "uncertain": Law(_rows, _by_part, "rows", "parts"),
    "more_proxies": Law(
        _more_rows,
        lambda c, _, hands: _kept_busy((c.rank.refine.rounds if c.rank.refine else 1) * c.rank.folds, hands.cpus),
        "steps, capped by rank.max_proxy_examples",
        "rank.refine.rounds x rank.folds",
    ),
    "rescored": Law(_rows, _actors, "rows", "parts, actors"),
    "refined": Law(_rows, _by_part, "rows", "parts"),
    "ranking": Law(_rows, _by_part, "rows (log factor left out)", "parts"),
    "selection": Law(_rows, _one, "rows", "taken as serial"),
    "ordered": Law(_rows, _by_part, "rows", "parts"),
    "model": Law(
        _trained,
        lambda c, _, hands: min(c.train.most, max(c.train.fewest, hands.cpus)),
        "steps and evaluated examples",
        "train.workers",
    ),
    "report": Law(_rows, _one, "rows", "taken as serial"),
}


def law_of(stage: str) -> Law:
    """How a stage scales; one that is not listed is taken to follow the rows, alone."""
    return LAWS.get(stage, LAWS["report"])


def sizes_of(config: RunConfig, stages: Mapping[str, Any], row_bytes: float) -> Sizes:
    """The numbers of examples of a run, from the record of its stages and the bytes of an example in memory."""
    corpus = stages["corpus"]["facts"]
    held = [split for split in ("validation", "test") if getattr(config.corpus, split).source is not None]
    read = corpus["read"] - sum(corpus[split] for split in held) - corpus["pool"]
    took = stages.get("scores", {}).get("facts", {}).get("took", {"seconds": {}})
    selected = stages.get("selection", {}).get("rows", 0)
    return Sizes(
        read=read,
        rows=corpus["corpus"],
        validation=corpus["validation"],
        test=corpus["test"],
        selected=selected,
        parts=parts_of(corpus["corpus"], row_bytes),
        busy=sum(took["seconds"].values()),
    )


def parts_of(rows: float, row_bytes: float) -> int:
    """How many parts a corpus of so many rows is laid out in."""
    from raydelt.corpus.read import partitions

    return partitions(max(1, round(rows)), round(rows * row_bytes))
