"""One training: the same whether it is interrupted, cut into passes, or told to stop; and honest about what it fed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from raydelt.config import Recipe
from raydelt.errors import InputError
from raydelt.models.recipe import rate
from raydelt.order.stage import Ordered
from raydelt.train.certificate import Chain
from raydelt.train.loop import Replicate
from raydelt.train.plan import Plan
from raydelt.train.reader import Batch, OrderedReader
from raydelt.train.training import Training, fresh_state
from raydelt.train.verify import check
from tests.unit.train.conftest import BATCH, PER_FILE, ROWS

Make = Callable[..., Training]


def weights(training: Training) -> dict[str, Any]:
    return {name: x.clone() for name, x in training.learner.module.state_dict().items()}


def assert_same(left: dict[str, Any], right: dict[str, Any], *, tolerance: float = 0.0) -> None:
    for name, x in left.items():
        torch.testing.assert_close(x, right[name], rtol=tolerance, atol=tolerance)


def test_steps_are_those_of_plain_torch(training: Make) -> None:
    own = training(steps=9, recipe={"optimizer": "sgd", "schedule": "cosine", "warm_up": 0.3, "clip": 0.1})
    other = copy.deepcopy(own.learner.module)
    own.run(fresh_state(0, []))
    optimiser = torch.optim.SGD(other.parameters(), lr=1.0)
    for step in range(9):
        batch = own.reader.step(step)
        loss = torch.nn.functional.cross_entropy(
            other(torch.from_numpy(batch.columns["x"]).double()), torch.from_numpy(batch.columns["y"])
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.1)
        optimiser.param_groups[0]["lr"] = rate(own.recipe, step, 9)
        optimiser.step()
    assert_same(weights(own), other.state_dict(), tolerance=1e-12)


def test_passes_over_parts_of_a_batch_give_the_whole_batch_gradient(training: Make) -> None:
    runs = [training(micro_batch=size) for size in (1, 3, 8)]
    chains = [run.run(fresh_state(0, [])) for run in runs]
    assert [run.passes for run in runs] == [8, 3, 1]
    for run in runs[1:]:
        assert_same(weights(runs[0]), weights(run), tolerance=1e-12)
    assert len({chain["head"] for chain in chains}) == 1


def test_a_pass_without_rows_changes_nothing(training: Make) -> None:
    plain, idle = training(), training()
    idle.passes = BATCH + 3
    chains = [run.run(fresh_state(0, [])) for run in (plain, idle)]
    assert_same(weights(plain), weights(idle), tolerance=1e-12)
    assert chains[0] == chains[1]


@pytest.mark.parametrize("at", [5, 10])
def test_a_training_that_goes_on_from_a_checkpoint_ends_as_one_that_never_stopped(training: Make, at: int) -> None:
    saved: dict[int, dict[str, Any]] = {}

    def save(state: dict[str, Any]) -> None:
        saved[state["step"]] = copy.deepcopy(state)

    options: dict[str, Any] = {"evaluate_every": 4, "keep_best": 1, "recipe": {"optimizer": "adamw"}}
    whole, state = training(save=save, **options), fresh_state(0, [])
    chain = whole.run(state)
    other, later = training(**options), saved[at]
    assert other.run(later) == chain
    assert_same(weights(whole), weights(other))
    assert later["curve"] == state["curve"]
    assert later["evaluations"] == state["evaluations"]


def test_a_checkpoint_of_another_order_is_refused(training: Make) -> None:
    saved: list[dict[str, Any]] = []
    training(save=lambda state: saved.append(copy.deepcopy(state))).run(fresh_state(0, []))
    other = training()
    other.plan = Plan("another-order", ROWS, PER_FILE, BATCH, 3, True)
    with pytest.raises(InputError, match="belongs to another training order: delete the folder"):
        other.run(saved[0])


def test_weights_of_examples_enter_the_loss(training: Make) -> None:
    doubled, plain = training(steps=1, recipe={"optimizer": "sgd"}), training(steps=1, recipe={"optimizer": "sgd"})
    start = weights(plain)
    doubled.reader = Changed(doubled.reader, lambda step, batch: Batch(**{**vars(batch), "weight": 2 * batch.weight}))
    doubled.run(fresh_state(0, []))
    plain.run(fresh_state(0, []))
    for name, before in start.items():
        moved, twice = weights(plain)[name] - before, weights(doubled)[name] - before
        torch.testing.assert_close(twice, 2 * moved, rtol=1e-12, atol=1e-14)


def test_early_stopping_ends_where_the_validation_loss_no_longer_falls_and_takes_the_best_weights(
    training: Make,
) -> None:
    own, state = (
        training(steps=400, evaluate_every=5, early_stop={"patience": 3}, recipe={"lr": 0.5}),
        fresh_state(0, []),
    )
    own.run(state)
    losses = [found["loss"] for _, found in state["evaluations"]]
    assert state["step"] < 400
    assert min(losses[-3:]) >= min(losses[:-3])
    assert own.metrics(own.validation_files)["loss"] == pytest.approx(min(losses), rel=1e-12)


def test_the_best_few_evaluations_are_kept_as_files(training: Make) -> None:
    own, state = training(steps=60, evaluate_every=5, keep_best=2, recipe={"lr": 0.5}), fresh_state(0, [])
    own.run(state)
    best = sorted([found["loss"], step] for step, found in state["evaluations"])[:2]
    assert [entry[:2] for entry in state["kept"]] == best
    held = own.stage.run.at("best").names()
    assert held == sorted(f"step-{step:07d}" for _, step in best)
    assert own.stage.run.exists(f"best/{held[0]}/model.safetensors")


def test_a_training_that_diverges_is_told(training: Make) -> None:
    own = training(steps=40, precision="float32", recipe={"optimizer": "sgd", "lr": 1e38})
    with pytest.raises(InputError, match=r"training of selected-0 diverged by step \d+: lower train.recipe.lr"):
        own.run(fresh_state(0, []))


def test_half_precision_trains_and_leaves_whole_weights(training: Make) -> None:
    own, state = training(steps=60, precision="bfloat16", recipe={"lr": 0.05}), fresh_state(0, [])
    own.run(state)
    assert state["curve"][-1][1] < state["curve"][0][1]
    assert {x.dtype for x in weights(own).values()} == {torch.float32}


@dataclass
class Changed:
    """A reader that feeds something else than the plan says."""

    inner: OrderedReader
    change: Callable[[int, Batch], Batch]

    def step(self, s: int, *, worker: int = 0, workers: int = 1) -> Batch:
        return self.change(s, self.inner.step(s, worker=worker, workers=workers))


def _swap(inner: OrderedReader) -> Callable[[int, Batch], Batch]:
    """Exchange an example of step 4 with one of step 7."""

    def change(step: int, batch: Batch) -> Batch:
        if step not in (4, 7):
            return batch
        other = inner.step(11 - step)
        parts = [batch.pick(np.arange(1, len(batch))), other.pick(np.arange(1))]
        columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in batch.columns}
        rest = (np.concatenate([getattr(p, n) for p in parts]) for n in ("weight", "ids", "marks"))
        return Batch(columns, *rest)

    return change


FAULTS: dict[str, tuple[Callable[[OrderedReader], Callable[[int, Batch], Batch]], int]] = {
    "swapped pair": (_swap, 4),
    "swapped within a batch": (lambda inner: lambda s, b: b.pick(np.r_[1, 0, 2:8]) if s == 6 else b, 6),
    "skipped batch": (lambda inner: lambda s, b: inner.step(s + 1) if s >= 5 else b, 5),
    "repeated batch": (lambda inner: lambda s, b: inner.step(s - 1) if s >= 3 else b, 3),
}


def replicate(own: Training) -> Replicate:
    order = Ordered("selected", list(own.files), ROWS, own.plan.order, [], [])
    return Replicate("selected", own.plan.seed, order, True)


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_verification_names_the_first_step_that_was_fed_something_else(
    training: Make, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    monkeypatch.setattr("raydelt.train.loop.ROWS_PER_FILE", PER_FILE)
    own = training()
    if fault is not None:
        own.reader = Changed(own.reader, FAULTS[fault][0](own.reader))
    chain = Chain(arm="selected", seed=own.plan.seed, **own.run(fresh_state(0, [])))
    verdict = check(own.stage.run, replicate(own), chain, BATCH)
    if fault is None:
        assert verdict.accepted
        return
    assert verdict.step == FAULTS[fault][1]
    assert verdict.problem is not None
    assert f"step {verdict.step} was not fed" in verdict.problem


def test_verification_refuses_a_chain_that_does_not_follow_from_its_steps(
    training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydelt.train.loop.ROWS_PER_FILE", PER_FILE)
    own = training()
    told = own.run(fresh_state(0, []))
    forged = Chain(arm="selected", seed=own.plan.seed, **told | {"head": "0" * 64})
    assert check(own.stage.run, replicate(own), forged, BATCH).problem == (
        "the heads of the chain do not follow from its steps"
    )
    other = Chain(arm="selected", seed=own.plan.seed, **told | {"plan": "f" * 32})
    assert check(own.stage.run, replicate(own), other, BATCH).problem is not None


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(lr=2.0), [2.0, 2.0, 2.0, 2.0]),
        (Recipe(lr=2.0, warm_up=0.5), [1.0, 2.0, 2.0, 2.0]),
        (Recipe(lr=2.0, schedule="linear"), [2.0, 1.5, 1.0, 0.5]),
        (Recipe(lr=2.0, schedule="cosine", warm_up=0.5), [1.0, 2.0, 2.0, 1.0]),
    ],
)
def test_rates_follow_their_schedule(recipe: Recipe, expected: list[float]) -> None:
    assert [rate(recipe, step, 4) for step in range(4)] == pytest.approx(expected)
