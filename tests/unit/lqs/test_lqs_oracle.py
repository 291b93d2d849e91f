"""Trajectory, adjoint and annotation against derivatives by central differences, and against retraining."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import spearmanr

from raydelt.errors import InputError
from raydelt.lqs.adjoint import walk_back
from raydelt.lqs.annotate import Visits, Walked
from raydelt.lqs.objective import Objective, Vector
from raydelt.lqs.terms import Mode, visited
from raydelt.lqs.trajectory import Share, Trajectory
from tests.unit.lqs import toy

STEPS, LR, BATCH, EXAMPLES = 30, 0.3, 4, 12
Weight = Callable[[int, Vector], float]


class ToyModel:
    """The toy as what scorers see; a batch's column `document` numbers the documents."""

    losses = staticmethod(toy.losses)

    def __init__(self, documents: torch.Tensor, size: int) -> None:
        self.module, self.documents, self.size = toy.model(), documents, size

    def groups(self, batch: pa.RecordBatch, rows: np.ndarray, budget: int) -> list[np.ndarray]:
        return [rows[start : start + self.size] for start in range(0, len(rows), self.size)]

    def tensors(self, batch: pa.RecordBatch, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], None]:
        return {"ids": self.documents[batch.column("document").to_numpy()[rows]]}, None


def batches(seed: int = 3) -> list[torch.Tensor]:
    return list(toy.documents(STEPS * BATCH, seed=seed).split(BATCH))


def walked(steps: Sequence[torch.Tensor], target: torch.Tensor, **options: Any) -> dict[int, tuple[Vector, Any]]:
    """Every theta_t with lambda_{t+1}, theta_T with none."""
    final_only = options.pop("final_only", False)
    module = toy.model()
    trajectory = Trajectory(
        Objective(module, toy.losses), toy.start(module), [toy.share(ids) for ids in steps], lr=LR, **options
    )
    last = trajectory.forward()
    pairs: dict[int, tuple[Vector, Any]] = {len(steps): (dict(last), None)}
    for t, at, adjoint in walk_back(trajectory, last, toy.share(target, size=5), final_only=final_only):
        pairs[t] = (dict(at), dict(adjoint))
    return pairs


def annotated(
    pairs: dict[int, tuple[Vector, Any]], documents: torch.Tensor, mode: Mode, interval: int, *, size: int = 5
) -> dict[str, np.ndarray]:
    steps = visited(mode, STEPS, interval)
    own = Walked(ToyModel(documents, size), lambda i: pairs[steps[i]], hold=3)
    visits = Visits([own], steps, mode=mode, steps=STEPS, lr=LR, budget=1)
    batch = pa.RecordBatch.from_pydict({"document": np.arange(len(documents))})
    return {name: values[0] for name, values in visits.scores(batch).items()}


def area(steps: Sequence[torch.Tensor], target: torch.Tensor, extra: Any, *, final_only: bool = False) -> float:
    """Summed target loss of the trajectory with `extra(t, objective, theta)` added to the gradient of step t."""
    module = toy.model()
    objective, at, total = Objective(module, toy.losses), toy.start(module), 0.0
    for t, ids in enumerate(steps):
        gradient, more = toy.gradient_of(objective, at, ids), extra(t, objective, at)
        at = {name: at[name] - LR * (gradient[name] + more[name]) for name in at}
        if not final_only or t + 1 == len(steps):
            total += toy.value_of(module, at, target)
    return total


def by_differences(document: torch.Tensor, weights: Sequence[float], target: torch.Tensor, **options: bool) -> float:
    """-dA/d epsilon for fixed weights w_t on one document."""
    h = 1e-4

    def extra(epsilon: float) -> Callable[[int, Objective, Vector], Vector]:
        def of(t: int, objective: Objective, at: Vector) -> Vector:
            own = toy.gradient_of(objective, at, document[None])
            return {name: epsilon * weights[t] * g for name, g in own.items()}

        return of

    up, down = (area(batches(), target, extra(sign * h), **options) for sign in (1, -1))
    return -(up - down) / (2 * h)


def frozen_weights(pairs: Any, document: torch.Tensor, mode: Mode, interval: int) -> list[float]:
    """w_t of one document by the definition of each mode, from the unperturbed trajectory."""
    objective = Objective(toy.model(), toy.losses)

    def size(t: int) -> float:
        return toy.norm(toy.gradient_of(objective, pairs[t][0], document[None]))

    weights = [0.0] * STEPS
    for t in range(0, STEPS, interval):
        following = t + interval
        if mode == "pds" or (mode == "released" and following >= STEPS):
            weights[t] = 1.0
        elif mode == "released" or (t > 0 and following <= STEPS):
            weights[t] = 1 / size(following)
    return weights


@pytest.mark.parametrize("final_only", [False, True])
@pytest.mark.parametrize(
    ("mode", "interval"), [("pds", 1), ("pds", 7), ("released", 5), ("lqs", 1), ("lqs", 5), ("lqs", 7)]
)
def test_scores_are_the_derivative_of_the_area_under_the_target_loss(
    mode: Mode, interval: int, final_only: bool
) -> None:
    target, documents = toy.documents(9, seed=1), toy.documents(EXAMPLES, seed=2)
    pairs = walked(batches(), target, final_only=final_only)
    scores = annotated(pairs, documents, mode, interval)["pds" if mode == "pds" else "lqs"]
    truth = np.array(
        [
            by_differences(ids, frozen_weights(pairs, ids, mode, interval), target, final_only=final_only)
            for ids in documents
        ]
    )
    assert np.abs(scores - truth).max() <= 1e-6 * np.abs(truth).max()


def test_columns_are_their_definitions() -> None:
    target, documents = toy.documents(9, seed=1), toy.documents(EXAMPLES, seed=2)
    pairs, objective = walked(batches(), target), Objective(toy.model(), toy.losses)
    found = annotated(pairs, documents, "lqs", 5)
    for i, ids in enumerate(documents):
        own = {t: toy.gradient_of(objective, pairs[t][0], ids[None]) for t in range(0, STEPS + 1, 5)}
        inner = range(5, STEPS - 4, 5)
        quality = sum(toy.dot(own[t], pairs[t][1]) / toy.norm(own[t]) / toy.norm(pairs[t][1]) for t in inner)
        learnability = sum(toy.norm(own[t]) / toy.norm(own[t + 5]) for t in inner)
        pds = LR * sum(toy.dot(own[t], pairs[t][1]) for t in range(0, STEPS, 5))
        assert found["quality"][i] == pytest.approx(quality, rel=1e-10)
        assert found["learnability"][i] == pytest.approx(learnability, rel=1e-10)
        assert found["pds"][i] == pytest.approx(pds, rel=1e-10)


def left_out(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of full-batch descent, and how much the area grows when it runs again without each example."""
    documents, target = toy.documents(count, seed=5), toy.documents(9, seed=1)
    full = [documents] * STEPS
    scores = annotated(walked(full, target), documents, "pds", 1)["pds"]

    def without(n: int) -> float:
        rest = torch.cat([documents[:n], documents[n + 1 :]])
        module = toy.model()
        objective, at, total = Objective(module, toy.losses), toy.start(module), 0.0
        for _ in range(STEPS):
            gradient, _ = objective.gradient(at, [{"ids": rest}])
            at = {name: at[name] - LR / count * gradient[name] for name in at}
            total += toy.value_of(module, at, target)
        return total

    whole = area(full, target, lambda t, objective, at: dict.fromkeys(at, 0.0))
    return scores, np.array([without(n) - whole for n in range(count)])


def test_leaving_one_out_and_training_again_ranks_examples_as_the_score_does() -> None:
    scores, change = left_out(24)
    assert spearmanr(scores, change).statistic >= 0.99
    assert np.polyfit(scores / 24, change, 1)[0] == pytest.approx(1, abs=0.05)


def test_hessian_products_are_those_of_the_whole_hessian() -> None:
    module, ids = toy.model(), toy.documents(6, seed=4)
    objective, at = Objective(module, toy.losses), toy.start(module)
    names = list(at)
    flat = torch.cat([at[name].flatten() for name in names])

    def loss(x: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, x.split([at[name].numel() for name in names]), strict=True))
        own = {name: part.reshape(at[name].shape) for name, part in parts.items()}
        return toy.losses(lambda *a: torch.func.functional_call(module, own, a), {"ids": ids}).sum()

    vector = {name: torch.randn_like(x) for name, x in at.items()}
    hessian = torch.autograd.functional.hessian(loss, flat)
    expected = hessian @ torch.cat([vector[name].flatten() for name in names])
    found = objective.product(at, vector, [{"ids": part} for part in ids.split(4)])
    assert torch.allclose(torch.cat([found[name].flatten() for name in names]), expected, rtol=1e-10, atol=1e-12)


def test_a_trajectory_of_some_parameters_is_exact_and_leaves_no_graph_to_the_others() -> None:
    module, target, document = toy.model(), toy.documents(9, seed=1), toy.documents(1, seed=2)
    objective, steps = Objective(module, toy.losses), batches()
    start = {"head.weight": module.head.weight.detach().clone()}

    def area(epsilon: float) -> float:
        at, total = start, 0.0
        for ids in steps:
            gradient, own = toy.gradient_of(objective, at, ids), toy.gradient_of(objective, at, document)
            at = {name: at[name] - LR * (gradient[name] + epsilon * own[name]) for name in at}
            total += toy.value_of(module, at, target)
        return total

    trajectory = Trajectory(objective, start, [toy.share(ids) for ids in steps], lr=LR)
    score = 0.0
    for _, at, adjoint in walk_back(trajectory, trajectory.forward(), toy.share(target)):
        assert not any(x.requires_grad for x in (*at.values(), *adjoint.values()))
        score += LR * toy.dot(toy.gradient_of(objective, at, document), adjoint)
    assert score == pytest.approx(-(area(1e-4) - area(-1e-4)) / 2e-4, rel=1e-6)


@pytest.mark.parametrize("every", [None, 1, 4, 7, STEPS])
def test_steps_computed_again_are_the_same_bits(every: int | None) -> None:
    module = toy.model()
    steps = [toy.share(ids, size=3) for ids in batches()]
    stored: list[Vector] = [toy.start(module)]
    everything = Trajectory(Objective(module, toy.losses), toy.start(module), steps, lr=LR, every=1)
    everything.forward()
    stored = [everything.kept[t] for t in range(STEPS + 1)]
    sparse = Trajectory(Objective(module, toy.losses), toy.start(module), steps, lr=LR, every=every)
    last = sparse.forward()
    assert all(torch.equal(last[name], stored[STEPS][name]) for name in last)
    seen = []
    for t, at in sparse.backward():
        assert all(torch.equal(at[name], stored[t][name]) for name in at)
        seen.append(t)
    assert seen == list(range(STEPS - 1, -1, -1))


def test_scores_do_not_depend_on_the_batch_an_example_comes_in_nor_on_the_order() -> None:
    target, documents = toy.documents(9, seed=1), toy.documents(64, seed=2)
    pairs = walked(batches(), target)
    truth = annotated(pairs, documents, "lqs", 5, size=64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for size in (1, 8):
        for name, values in annotated(pairs, documents[order], "lqs", 5, size=size).items():
            assert np.allclose(values, truth[name][order.numpy()], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("lr", "how"), [(1e308, r"its loss is (inf|nan)"), (1e9, r"its loss is \d.*")])
def test_a_trajectory_that_diverges_names_the_step_and_the_cure(lr: float, how: str) -> None:
    module = toy.model()
    steps = [Share(lambda ids=ids: [{"ids": ids}], len(ids)) for ids in batches()]
    with pytest.raises(InputError, match=rf"score\.lqs\.lr .* {how} at step \d+ of 30: lower the learning rate"):
        Trajectory(Objective(module, toy.losses), toy.start(module), steps, lr=lr).forward()


def copies_held(steps: int) -> float:
    """Peak of live tensors on the way back, in copies of a network whose parameters outweigh its activations."""
    module = torch.nn.Linear(700, 700)
    rows = torch.randn(steps, 700)

    def losses(forward: Callable[..., Any], batch: Any) -> torch.Tensor:
        return forward(batch["x"]).square().mean(1)  # type: ignore[no-any-return]

    def walk() -> None:
        shares = [Share(lambda x=x: [{"x": x[None]}], 1) for x in rows]
        start = {name: p.detach().clone() for name, p in module.named_parameters()}
        trajectory = Trajectory(Objective(module, losses), start, shares, lr=0.01)
        del start
        last = trajectory.forward()
        for _ in walk_back(trajectory, last, shares[0]):
            last = {}

    walk()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        walk()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return 1 + max(live) / sum(4 * p.numel() for p in module.parameters())  # the module's own are one copy


@pytest.mark.parametrize("steps", [9, 16, 25])
def test_no_more_than_two_square_roots_of_copies_are_held(steps: int) -> None:
    assert copies_held(steps) <= 2 * math.sqrt(steps) + 6
