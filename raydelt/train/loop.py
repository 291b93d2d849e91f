"""What every Ray Train worker runs: the replicates (arm, seed) one after another, by the same code for every arm.

Workers hold the same weights and average their gradients. The loss of a worker is its share of the global batch's
weighted mean, so a step does not depend on the number of workers beyond the order of float additions. A checkpoint
holds the weights, the optimiser, the step, what was fed until then and the results so far; the data position follows
from the step, so a step that is done twice gives the same state, and any number of workers can go on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import ray.train

from raydelt.config import RunConfig
from raydelt.errors import RaydeltError
from raydelt.models.classifier import one_thread
from raydelt.order.stage import ROWS_PER_FILE, Ordered
from raydelt.storage import Stage
from raydelt.train.job import commit, committed, device_of_worker
from raydelt.train.learners import ClassifierLearner, LanguageLearner, Learner
from raydelt.train.plan import Plan
from raydelt.train.training import DTYPES, Training, Unanimous, fresh_state


@dataclass(frozen=True)
class Replicate:
    """One training: an arm's order, and the seed of the weights and of the later epochs."""

    arm: str
    seed: int
    order: Ordered
    shuffle_later_epochs: bool
    keep_model: bool = False

    def plan(self, batch_size: int) -> Plan:
        order = self.order
        return Plan(order.digest, order.rows, ROWS_PER_FILE, batch_size, self.seed, self.shuffle_later_epochs)


@dataclass(frozen=True)
class Work:
    """Everything a worker needs to know; the files hold what the model reads of the held-out splits."""

    config: RunConfig
    stage: Stage
    replicates: tuple[Replicate, ...]
    steps: int
    input_shape: tuple[int, ...]
    classes: int
    test_files: tuple[str, ...]
    validation_files: tuple[str, ...]


def train_worker(options: dict[str, Any]) -> None:
    """Entry point of a worker; what is meant for the user goes out as a metric."""
    work = cast(Work, options["work"])
    num_gpus = work.config.cluster.actors.num_gpus
    if num_gpus == 0:
        one_thread()
    try:
        state = committed() or fresh_state(0, [])
        while state["replicate"] < len(work.replicates):
            result = _trained(work, work.replicates[state["replicate"]], state, options["progress"])
            state = fresh_state(state["replicate"] + 1, [*state["results"], result])
            save(state)
    except Unanimous as error:
        commit({}, {"results": [], "failed": str(error)})


def save(state: dict[str, Any]) -> None:
    """Commit the state, and report the results so far with it."""
    commit(state, {"results": state["results"], "failed": ""})


def _trained(work: Work, replicate: Replicate, state: dict[str, Any], progress: Any) -> dict[str, Any]:
    context = ray.train.get_context()
    training = Training(
        config=work.config,
        stage=work.stage,
        name=f"{replicate.arm}-{replicate.seed}",
        index=state["replicate"],
        files=replicate.order.files,
        plan=replicate.plan(work.config.train.recipe.batch_size),
        steps=work.steps,
        learner=learner_of(work, replicate),
        validation_files=work.validation_files,
        keep_model=replicate.keep_model,
        worker=context.get_world_rank(),
        workers=context.get_world_size(),
        advance=progress.advance.remote if progress is not None else None,
        save=save,
    )
    chain = training.run(state)
    metrics = training.metrics(work.test_files)
    own = {"arm": replicate.arm, "seed": replicate.seed, "rows": replicate.order.rows}
    told = {key: state[key] for key in ("seconds", "curve", "evaluations")} | {"steps": state["step"]}
    told["untracked"] = training.untracked
    files = [asdict(part) for part in training.kept_files()] if replicate.keep_model else []
    chain = {"arm": replicate.arm, "seed": replicate.seed} | chain
    return own | told | {"kept": state["kept"], "files": files, "chain": chain} | metrics


def learner_of(work: Work, replicate: Replicate) -> Learner:
    """The model of a replicate as it is before the first step; what is wrong with it is so for every worker."""
    try:
        return _built(work, replicate)
    except RaydeltError as error:
        raise Unanimous(str(error)) from error


def _built(work: Work, replicate: Replicate) -> Learner:
    config = work.config
    own: dict[str, Any] = {
        "seed": replicate.seed,
        "dtype": DTYPES[config.train.precision],
        "device": device_of_worker(config.cluster.actors.num_gpus),
    }
    if config.model.kind == "causal_lm":
        return LanguageLearner(config.model, config.train.lora, **own)
    standardisation = (replicate.order.mean, replicate.order.scale)
    return ClassifierLearner(config.model, work.input_shape, work.classes, standardisation, **own)
