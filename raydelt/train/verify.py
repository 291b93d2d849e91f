"""Replay the plan of every training of a run, and compare it with what its certificate says was fed.

    planned digest of step s = sum_{t in [s B, (s + 1) B)} h(mark of the example at position(t), t)

The plan comes from the spec and the published order, the marks from the ids in the order's files, so nothing of the
training is believed but its digests. Cost: the ids of the order are read once per training, and 16 bytes are held for
each of its examples. Caution: it proves that the examples were fed in the planned order, not what the model made of
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.scorers.protocol import Array
from raydelt.storage import Store, read_manifest
from raydelt.train import certificate
from raydelt.train.certificate import Chain, checkpoint_heads, fed, first_difference, marks_of
from raydelt.train.loop import Replicate
from raydelt.train.plan import Plan
from raydelt.train.reader import read_ordered
from raydelt.train.stage import replicates, spec_fingerprint


@dataclass(frozen=True)
class Verdict:
    """What the replay of one training found; `step` is the first that differs, None where it is as planned."""

    arm: str
    seed: int
    steps: int
    step: int | None
    problem: str | None

    @property
    def accepted(self) -> bool:
        return self.problem is None


def verify(config: RunConfig, store: Store) -> list[Verdict]:
    """Verdicts on all trainings of a run.

    Raises:
        InputError: the run has no trained model, or a file that the replay needs is missing or damaged.
    """
    ordered, model = read_manifest(store, "ordered"), read_manifest(store, "model")
    if ordered is None or model is None:
        raise InputError(f"{store.root!r} has no trained model to verify: finish it with `raydelt train SPEC`")
    name = f"model/{certificate.FILE}"
    if not store.exists(name):
        raise InputError(f"{store.path(name)} is missing: train again with `raydelt train SPEC`")
    held = certificate.load(store.read_json(name))
    if held.spec != spec_fingerprint(config) or held.order != ordered.fingerprint:
        raise InputError(f"{store.path(name)} was written for another spec or order than the run's: train again")
    planned = {(r.arm, r.seed): r for r in replicates(config, ordered)}
    calls = [(store, planned.get((c.arm, c.seed)), c, config.train.recipe.batch_size) for c in held.chains]
    return cluster.parallel(check, calls, label="verify")


def check(store: Store, replicate: Replicate | None, chain: Chain, batch_size: int) -> Verdict:
    """Replay one training."""
    own: dict[str, Any] = {"arm": chain.arm, "seed": chain.seed, "steps": chain.steps}
    if replicate is None:
        return Verdict(**own, step=None, problem="the spec has no such training")
    plan = replicate.plan(batch_size)
    if plan.fingerprint != chain.plan:
        return Verdict(**own, step=None, problem="it followed another plan than the order that is published")
    told = _digests(store, chain)
    step = first_difference(planned_digests(store, replicate.order.files, plan, chain.steps), told)
    if step is not None:
        low, high = step * batch_size, (step + 1) * batch_size - 1
        problem = f"step {step} was not fed the examples at places {low} to {high} of the plan"
        return Verdict(**own, step=step, problem=problem)
    heads = checkpoint_heads(plan.fingerprint, told, [*(step for step, _ in chain.checkpoints), chain.steps])
    if heads != [*chain.checkpoints, (chain.steps, chain.head)]:
        return Verdict(**own, step=None, problem="the heads of the chain do not follow from its steps")
    return Verdict(**own, step=None, problem=None)


def _digests(store: Store, chain: Chain) -> Array:
    """The digests [steps, 2] that the workers added up."""
    try:
        table = store.read_table(chain.file)
    except (OSError, ValueError) as error:
        raise InputError(f"{store.path(chain.file)} cannot be read ({error}): train again") from error
    return np.stack([column_of(table, "low"), column_of(table, "high")], axis=1).astype(np.uint64)


def planned_digests(store: Store, files: list[str], plan: Plan, steps: int) -> Array:
    """The digests [steps, 2] that a training along the plan adds up."""
    marks = np.concatenate(list(_marks(store, files, plan)))
    found = np.empty((steps, 2), np.uint64)
    for step in range(steps):
        start, stop = plan.slice(step, 0, 1)
        found[step] = fed(marks[plan.positions(start, stop)], np.arange(start, stop))
    return found


def _marks(store: Store, files: list[str], plan: Plan) -> Iterator[Array]:
    """The marks of all positions, file by file: 16 bytes for each example of the order."""
    for index, file in enumerate(files):
        yield marks_of(column_of(read_ordered(store, file, index, plan, [EXAMPLE_ID, "position"]), EXAMPLE_ID))
