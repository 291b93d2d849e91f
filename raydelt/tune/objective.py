"""What a point is worth: re-rank, re-select and re-order what is scored already, train on it, and look at a split.

    error = 1 - hits / rows       loss = sum of losses / targets       of the validation split, lower is better

Only `folds` scores anew: every value of it has a run of its own, the spec's own value the run of the spec, so scores
that stand are used and those of a search are there for `raydelt run`. All points train for the same number of steps by
the same recipe and seeds. A training is one Ray task on one worker: a group of Ray Train workers would take longer to
start than a short training takes. What it measures comes back as sums over at most `GROUPS` groups of rows (row i is
in group i mod GROUPS), so that the noise of the split itself can be told. Memory of a task: that of a training worker.

Caution: a training that is killed starts again at its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raydelt import __version__, cluster, pipeline
from raydelt.active.session import QUEUE
from raydelt.config import RunConfig, Track
from raydelt.errors import SpecError
from raydelt.models.classifier import one_thread
from raydelt.order.stage import Ordered, order_examples
from raydelt.rank.stage import rank_scores
from raydelt.select.stage import select_examples
from raydelt.storage import Manifest, Stage, Store, fingerprint
from raydelt.train.learners import EVALUATED_ROWS, Learner, evaluate
from raydelt.train.loop import Replicate, Work, learner_of
from raydelt.train.training import Training, fresh_state

GROUPS = 100
FOLDER = "tune"
Sums = dict[str, list[float]]


@dataclass(frozen=True)
class Scored:
    """A run up to its scores."""

    store: Store
    corpus: Manifest
    tokens: Manifest | None
    scores: Manifest
    history: list[float]

    @staticmethod
    def of(run: pipeline.Run) -> Scored:
        known = run.manifests
        history = known["proxies"].facts["history"] if "proxies" in known else []
        return Scored(run.store, known["corpus"], known.get("tokens"), known["scores"], history)


def scored_anew(config: RunConfig, folds: int) -> Scored:
    """The scores by another number of folds, from a run of their own below that of the spec."""
    place = config.output.rstrip("/")
    # The answers of people lie beside the spec's own run.
    label = config.label.model_copy(update={"queue": config.label.queue or f"{place}/{QUEUE}"})
    rank = config.rank.model_copy(update={"folds": folds})
    changes = {"rank": rank, "label": label, "output": f"{place}/{FOLDER}/folds-{folds}"}
    return Scored.of(pipeline.execute(config.model_copy(update=changes), until="scores"))


def prepared(config: RunConfig, scored: Scored, folder: str) -> Work:
    """The training order of a spec, materialised in a folder of the run, and what a worker needs to train on it.

    Raises:
        SpecError: the selection cannot be made, or is smaller than a batch.
    """
    seed, select, corpus, tokens = config.seed, config.select, scored.corpus, scored.tokens
    only = select if config.rank.extent == "kept" else None
    counted = tokens if select.method == "token_budget" else None
    c = config.resolved()
    inputs = [scored.scores.fingerprint, scored.history, c["rank"]["combine"], c["rank"]["extent"], c["select"]]

    def stage(name: str, work: Callable[[Stage], Manifest]) -> Manifest:
        own = Stage(scored.store, f"{folder}/{name}", fingerprint([__version__, seed, *inputs, c["order"]]))
        return own.published() or work(own)

    ranking = stage(
        "ranking",
        lambda own: rank_scores(
            config.rank.combine, corpus, scored.scores, scored.history, own, seed=seed, only=only, tokens=counted
        ),
    )
    selection = stage(
        "selection",
        lambda own: select_examples(select, config.order, ranking, corpus.facts["classes"], own, seed=seed),
    )
    if selection.rows < config.train.recipe.batch_size:
        raise SpecError(
            f"train.recipe.batch_size {config.train.recipe.batch_size} is more than the {selection.rows} selected "
            "examples: lower it or select more"
        )
    ordered = stage("ordered", lambda own: order_examples(corpus, tokens, selection, [], own, seed=seed))
    return _work(config, scored, ordered, folder)


def _work(config: RunConfig, scored: Scored, ordered: Manifest, folder: str) -> Work:
    # A training is done again rather than gone on with, and nobody watches it.
    quiet = config.train.model_copy(update={"checkpoint_every": 1 << 60, "track": Track()})
    order = Ordered(**ordered.facts["orders"][0])
    sides = (scored.tokens or scored.corpus).sides
    return Work(
        config=config.model_copy(update={"train": quiet}),
        stage=Stage(scored.store, f"{folder}/model", ordered.fingerprint),
        replicates=(Replicate(folder, 0, order, config.order.later_epochs == "shuffled"),),
        steps=0,
        input_shape=tuple(scored.corpus.facts["input_shape"]),
        classes=len(scored.corpus.facts["classes"]),
        test_files=tuple(part.file for part in sides.get("test", [])),
        validation_files=tuple(part.file for part in sides.get("validation", [])),
    )


def launched(work: Work, index: int, seed: int, steps: int, files: Sequence[str]) -> Any:
    """A reference to what one training measures."""
    gpus = work.config.cluster.actors.num_gpus
    return cluster.shared(measured, work, index, seed, steps, files, label="tune: train", num_gpus=gpus)


def measured(work: Work, index: int, seed: int, steps: int, files: Sequence[str]) -> Sums:
    """Train with one seed, and measure on the rows of held-out files.

    Raises:
        InputError: the training diverged, or a file of the order is not whole.
    """
    if work.config.cluster.actors.num_gpus == 0:
        one_thread()
    replicate = replace(work.replicates[0], seed=seed)
    training = Training(
        config=work.config,
        stage=work.stage,
        name=f"{replicate.arm} (seed {index})",
        index=index,
        files=replicate.order.files,
        plan=replicate.plan(work.config.train.recipe.batch_size),
        steps=steps,
        learner=learner_of(work, replicate),
        validation_files=work.validation_files,
        keep_model=False,
        worker=0,
        workers=1,
        advance=None,
        save=lambda state: None,
    )
    training.run(fresh_state(0, []))
    return grouped(training.learner, work.stage.run, files, rows=min(training.rows, EVALUATED_ROWS))


def grouped(learner: Learner, run: Store, files: Sequence[str], *, rows: int) -> Sums:
    """The learner's sums [groups] over the rows of files, by the name of what is summed."""
    total, seen = np.zeros((GROUPS, len(learner.tallied))), 0
    learner.module.eval()
    for file in files:
        columns = learner.decode(run.read_table(file))
        count = len(next(iter(columns.values())))
        group = (seen + np.arange(count)) % GROUPS
        for index in np.unique(group):
            own = {name: values[group == index] for name, values in columns.items()}
            total[index] += evaluate(learner, learner.module, [own], rows=rows).numpy()
        seen += count
    return {name: total[: min(seen, GROUPS), i].tolist() for i, name in enumerate(learner.tallied)}


def objective(sums: Sums, metric: str) -> float:
    """The error or the loss that sums stand for."""
    count = max(sum(sums["count"]), 1.0)
    return 1.0 - sum(sums["hits"]) / count if metric == "error" else sum(sums["loss"]) / count
