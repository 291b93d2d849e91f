"""The probes stage: short trainings on every ratio or bucket at several budgets and seeds, by one Ray Train job.

    steps = round(budget / batch size), at least 1        seen = steps x batch size, or the tokens in them

A probe is one training on one worker, with the schedule of its own number of steps: a checkpoint of a longer training,
whose learning rate has not come down, is no shorter training. Probes are dealt to workers largest first, always to the
one with the least to do. Each is put into the store when it is done, so a killed job goes on with those that are
missing, and the losses do not depend on the number of workers. They are those of the validation split: the report is
about the test split, which no plan may see. Every epoch is shuffled by the seed, the first one too.

Cost: seeds x sum of the budgets, for every ratio or bucket, and with `most_seeds` the short ones again. Memory of a
worker: one model and two files of an order.

Caution: a probe trains without early stopping and in no order: what the final training adds by these is not in the
plan.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.train
import torch
from torch.utils.flop_counter import FlopCounterMode

from raydelt import cluster
from raydelt.config import Probes, RunConfig, Track
from raydelt.corpus.tokens import TOKENS
from raydelt.errors import InputError, RaydeltError, SpecError
from raydelt.examples import derived_seed
from raydelt.models.classifier import one_thread
from raydelt.order.stage import ROWS_PER_FILE, Ordered
from raydelt.plan.buckets import HOLDOUT, Bucket, published
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Stage, Store
from raydelt.train.job import forget_job, gpus_of_worker, run_job
from raydelt.train.loop import Replicate, Work, learner_of
from raydelt.train.plan import Plan
from raydelt.train.training import Training, fresh_state

EPOCHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Of a bucket, whatever the ratio: all ratios are then known at the same numbers seen.
EPOCHS_OF_RATIOS = (*EPOCHS, 8.0)
# Steps within the first epoch: below so many, a quarter of it is a training of hardly any.
FEWEST_STEPS = 8
COLUMNS = ("bucket", "pool", "seen", "unique", "loss", "error", "seed", "unit", "seconds", "flops")


@dataclass(frozen=True)
class Probe:
    """One training: its bucket's index, steps, and seed."""

    bucket: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Probing:
    """Everything a worker needs to know."""

    work: Work
    buckets: tuple[Bucket, ...]
    probes: tuple[Probe, ...]

    def file(self, index: int) -> str:
        """Where a finished probe is kept until all are."""
        return self.work.stage.file("done", index, "json")


@dataclass(frozen=True)
class Shuffled(Plan):
    """A sequence whose first epoch is shuffled by the seed as later ones are."""

    def _within(self, epoch: int, offset: Array) -> Array:
        return super()._within(epoch + 1, offset)


def measure_losses(
    config: RunConfig, corpus: Manifest, tokens: Manifest | None, buckets: Manifest, stage: Stage
) -> Manifest:
    """Train all probes and publish their losses, one row each.

    Raises:
        SpecError: a bucket is too small for the batch size, the cluster, or the validation split is empty.
        InputError: a probe diverged.
    """
    probing = _probing(config, corpus, tokens, published(buckets), stage)
    missing = [probe for index, probe in enumerate(probing.probes) if not stage.run.exists(probing.file(index))]
    workers = _workers(config, len(missing))
    with cluster.remote_progress("plan: probe steps", sum(probe.steps for probe in missing)) as progress:
        if missing:
            run_job(
                probe_worker,
                {"probing": probing, "progress": progress},
                stage,
                workers=workers,
                max_failures=config.train.max_failures,
                num_gpus=config.cluster.actors.num_gpus,
            )
    found = _found(probing, stage.run)
    parts = [
        stage.run.write_table(stage.file("points", 0), _table([one for one in found if one["bucket"] != HOLDOUT]))
    ]
    apart = [one for one in found if one["bucket"] == HOLDOUT]
    sides = {"holdout": [stage.run.write_table(stage.file("holdout", 0), _table(apart))]} if apart else {}
    examples = sum(probe.steps for probe in probing.probes) * config.train.recipe.batch_size
    facts = {
        "rows_processed": examples,
        "seen": sum(one["seen"] for one in found),
        "seconds": sum(one["seconds"] for one in found),
        "device": device_of(config),
        "devices": _devices(config),
    }
    manifest = stage.publish(parts, facts, sides)
    forget_job(stage)
    return manifest


def probes_of(spec: Probes, buckets: Sequence[Bucket], batch_size: int) -> tuple[Probe, ...]:
    """All probes of a spec, bucket by bucket.

    Raises:
        SpecError: a bucket is too small for the batch size, or two budgets are the same number of steps.
    """
    found = []
    for index, bucket in enumerate(buckets):
        least = FEWEST_STEPS if spec.budgets is None else 1
        if bucket.pool < least * batch_size:
            raise SpecError(
                f"the bucket {bucket.name} has {bucket.pool} examples to probe with, less than {least} batches of "
                f"train.recipe.batch_size {batch_size}: lower it, or plan.buckets, or raise plan.probes.pool"
            )
        default = [epochs * buckets[0].pool for epochs in EPOCHS_OF_RATIOS]
        default = default if spec.mixtures else [epochs * bucket.pool for epochs in EPOCHS]
        budgets: Sequence[float] = spec.budgets or default
        steps = [max(1, math.floor(budget / batch_size + 0.5)) for budget in budgets]
        if len(set(steps)) < len(steps):
            raise SpecError(
                f"plan.probes.budgets {budgets} are {steps} steps of train.recipe.batch_size {batch_size}: give "
                "budgets that differ by a batch or more"
            )
        found += [Probe(index, count, seed) for count in steps for seed in seeds_of(spec, count, steps[-1])]
    return tuple(found)


def seeds_of(spec: Probes, steps: int, longest: int) -> list[int]:
    """The seeds of probes of so many steps: those of the spec, and for short ones as many more as `most_seeds` allows.

    For noise alike the sum of variances is least at a given cost where their number goes with 1 / sqrt(steps)
    (Neyman's allocation); short trainings are noisier than that.
    """
    wanted = min(math.floor(len(spec.seeds) * math.sqrt(longest / steps)), spec.most_seeds or 0)
    others = (seed for seed in itertools.count() if seed not in spec.seeds)
    return [*spec.seeds, *itertools.islice(others, max(wanted - len(spec.seeds), 0))]


def dealt(probes: Sequence[Probe], workers: int) -> list[list[int]]:
    """The indices of each worker's probes: largest first, each to the worker with the fewest steps so far."""
    loads, own = [0] * workers, [list[int]() for _ in range(workers)]
    for index in sorted(range(len(probes)), key=lambda index: (-probes[index].steps, index)):
        worker = loads.index(min(loads))
        own[worker].append(index)
        loads[worker] += probes[index].steps
    return own


def probe_worker(options: dict[str, Any]) -> None:
    """Entry point of a worker: its share of the probes, without those that are done."""
    probing = cast(Probing, options["probing"])
    context, store = ray.train.get_context(), probing.work.stage.run
    if probing.work.config.cluster.actors.num_gpus == 0:
        one_thread()
    advance = options["progress"].advance.remote if options["progress"] is not None else None
    for index in dealt(probing.probes, context.get_world_size())[context.get_world_rank()]:
        if store.exists(probing.file(index)):
            continue
        try:
            told = measured(probing, index, advance)
        except RaydeltError as error:
            # An error that is raised would be tried again; this one would only come again.
            told = {"problem": str(error)}
        store.write_json(probing.file(index), told)


def measured(probing: Probing, index: int, advance: Any = None) -> dict[str, Any]:
    """Train one probe; its row of the table.

    Raises:
        InputError: it diverged.
    """
    probe, work = probing.probes[index], probing.work
    bucket, (training, seconds) = probing.buckets[probe.bucket], trained(probing, index, advance)
    found = training.metrics(work.validation_files)
    if not math.isfinite(found["loss"]):
        raise InputError(f"{training.name} ends with a loss that is not finite: lower train.recipe.lr")
    in_tokens, seen = bucket.tokens > 0, probe.steps * training.plan.batch_size
    return {
        "bucket": bucket.name,
        "pool": "ratio" if work.config.plan.probes.mixtures else "bucket",
        "seen": _tokens_fed(work.stage.run, training.files, training.plan, seen) if in_tokens else seen,
        "unique": bucket.tokens if in_tokens else bucket.pool,
        "loss": found["loss"],
        "error": 1.0 - found["accuracy"] if "accuracy" in found else None,
        "seed": probe.seed,
        "unit": "tokens" if in_tokens else "examples",
        "seconds": seconds,
        "flops": _flops(training, in_tokens=in_tokens),
    }


def trained(probing: Probing, index: int, advance: Any = None) -> tuple[Training, float]:
    """The training of one probe after its last step, and the seconds that it took."""
    training, state = _training(probing, index, advance), fresh_state(0, [])
    training.run(state)
    return training, float(state["seconds"])


def _training(probing: Probing, index: int, advance: Any) -> Training:
    """The training of one probe before its first step."""
    work, probe = probing.work, probing.probes[index]
    own, size = work.replicates[probe.bucket], work.config.train.recipe.batch_size
    seed = derived_seed(work.config.seed, "probe", probe.seed)
    return Training(
        config=work.config,
        stage=work.stage,
        name=f"the probe {probing.buckets[probe.bucket].name} (seed {probe.seed}, {probe.steps} steps)",
        index=index,
        files=own.order.files,
        plan=Shuffled(own.order.digest, own.order.rows, ROWS_PER_FILE, size, seed, shuffle_later_epochs=True),
        steps=probe.steps,
        learner=learner_of(work, Replicate(own.arm, seed, own.order, shuffle_later_epochs=True)),
        validation_files=(),
        keep_model=False,
        worker=0,
        workers=1,
        advance=advance,
        save=lambda state: None,
    )


def _probing(
    config: RunConfig,
    corpus: Manifest,
    tokens: Manifest | None,
    buckets: Sequence[tuple[Bucket, Ordered]],
    stage: Stage,
) -> Probing:
    plain = {"evaluate_every": None, "early_stop": None, "keep_best": None, "track": Track()}
    # A probe is done again rather than gone on with: it is short.
    train = config.train.model_copy(update=plain | {"checkpoint_every": 1 << 60})
    validation = tuple(part.file for part in (tokens or corpus).sides.get("validation", []))
    if not any(part.rows for part in corpus.sides.get("validation", [])):
        raise SpecError("the validation split is empty, and probes are measured on it: raise its fraction")
    own = tuple(bucket for bucket, _ in buckets)
    work = Work(
        config=config.model_copy(update={"train": train}),
        stage=stage,
        replicates=tuple(Replicate(order.name, 0, order, True) for _, order in buckets),
        steps=0,
        input_shape=tuple(corpus.facts["input_shape"]),
        classes=len(corpus.facts["classes"]),
        test_files=(),
        validation_files=validation,
    )
    return Probing(work, own, probes_of(config.plan.probes, own, train.recipe.batch_size))


def device_of(config: RunConfig) -> str:
    """What a training keeps busy: a CPU or a GPU."""
    return "GPU" if config.cluster.actors.num_gpus > 0 else "CPU"


def _devices(config: RunConfig) -> int:
    """How many of them the cluster has, at least one."""
    return max(1, int(ray.cluster_resources().get(device_of(config), 1)))


def _workers(config: RunConfig, probes: int) -> int:
    """As many workers as there are probes, or devices to run them on."""
    asked = config.plan.probes.workers
    each = {"CPU": 1.0, "GPU": gpus_of_worker(config.cluster.actors.num_gpus, asked or probes)}
    if asked is not None:
        cluster.require_places(each, asked, "plan.probes.workers")
    return max(1, min(asked or _devices(config), cluster.places(each), probes))


def _found(probing: Probing, store: Store) -> list[dict[str, Any]]:
    """The rows of all probes in their order; what is wrong with one is said once, and forgotten."""
    files = [probing.file(index) for index in range(len(probing.probes))]
    found: list[dict[str, Any]] = [store.read_json(file) for file in files]
    wrong = [(file, one["problem"]) for file, one in zip(files, found, strict=True) if "problem" in one]
    for file, _ in wrong:
        store.delete(file)
    if wrong:
        raise InputError(wrong[0][1])
    return found


def _table(found: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of the probes; without the column `error` where there is none."""
    names = [name for name in COLUMNS if found[0][name] is not None]
    return pa.table({name: [one[name] for one in found] for name in names})


def _tokens_fed(run: Store, files: Sequence[str], plan: Plan, examples: int) -> int:
    """The tokens of the first so many examples of a sequence."""
    lengths = np.concatenate(
        [pc.list_value_length(run.read_table(file, [TOKENS])[TOKENS]).to_numpy() for file in files]
    )
    return int(lengths[plan.positions(0, examples)].sum())


def _flops(training: Training, *, in_tokens: bool) -> float:
    """Floating-point operations of training on one example, or token, as torch counts those of matrix products."""
    batch = training.reader.step(0)
    batch = batch.pick(np.arange(min(len(batch), training.rows)))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(training.learner.losses(training.module, batch.columns).sum())
    seen = sum(len(ids) for ids in batch.columns[TOKENS]) if in_tokens else len(batch)
    return float(counter.get_total_flops()) / seen
