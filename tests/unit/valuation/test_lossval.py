"""LossVal: the reference against a literal one, any layout and any restart against one run, and what values mean."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from geomloss import SamplesLoss
from sklearn.datasets import make_classification, make_regression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from raydelt.errors import InputError, SpecError
from raydelt.valuation.exchange import gathered, in_order
from raydelt.valuation.lossval import LossVal, Training, lossval
from raydelt.valuation.posterior import Strange, StrangeFeatures, WrongLabels, WrongTargets
from raydelt.valuation.problem import Problem, Values
from raydelt.valuation.shards import at_once, neighbourhood
from raydelt.valuation.sinkhorn import Divergence, Target

SMALL = LossVal(epochs=4, batch=8, hidden=(7,), folds=2, repeats=2, double=True)
REFERENCE = LossVal("reference", epochs=3, batch=8, hidden=(7,), repeats=2, double=True)


def classes(n: int = 70, *, wrong: int = 7) -> Problem:
    """Two classes; the first labels are wrong."""
    x, y = make_classification(n + 20, 6, n_informative=5, n_redundant=0, class_sep=2.0, flip_y=0.0, random_state=3)
    y[:wrong] = 1 - y[:wrong]
    return Problem(x[:n], y[:n], x[n:], y[n:], 2)


def targets(n: int = 70, *, wrong: int = 7) -> Problem:
    x, y = make_regression(n + 20, 6, noise=1.0, random_state=3)
    y[:wrong] = y[:wrong][::-1] + y.std()
    return Problem(x[:n], y[:n] / y.std(), x[n:], y[n:] / y.std())


class Together:
    """The exchange of groups that run as threads."""

    def __init__(self, groups: int) -> None:
        self.barrier, self.parts = threading.Barrier(groups), {}

    def sum(self, parts: dict[int, list[torch.Tensor]]) -> list[torch.Tensor]:
        self.parts.update(parts)
        self.barrier.wait()
        found = in_order(self.parts)
        self.barrier.wait()
        return found


def in_groups(problem: Problem, settings: LossVal, groups: int) -> Values:
    exchange, found = Together(groups), {}

    def work(group: int) -> None:
        owned = range(group, settings.shards, groups)
        training = Training(problem, settings, seed=5, owned=owned, exchange=exchange)
        training.run()
        found[group] = training.values()

    threads = [threading.Thread(target=work, args=(group,)) for group in range(groups)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return gathered(list(found.values()), len(problem.x))


def literal(problem: Problem, settings: LossVal, seed: int, member: int) -> np.ndarray:
    """One member: geomloss, autograd, and one torch.optim.Adam over model and weights."""
    start = Training(problem, settings, seed=seed)
    linear = []
    for a, b in zip(start.members.parameters[::2], start.members.parameters[1::2], strict=True):
        linear.append(nn.Linear(*a.shape[1:], dtype=torch.float64))
        linear[-1].weight.data, linear[-1].bias.data = a[member].detach().T.contiguous(), b[member, 0].detach().clone()
    activation = nn.ReLU() if problem.classes else nn.Tanh()
    model = nn.Sequential(linear[0], activation, linear[1])
    weights = nn.Parameter(torch.ones(len(problem.x), dtype=torch.float64))
    adam = torch.optim.Adam([*model.parameters(), weights], lr=settings.lr)
    x, v = torch.as_tensor(problem.x, dtype=torch.float64), torch.as_tensor(problem.val_x, dtype=torch.float64)
    y = torch.as_tensor(problem.y)
    for step in range(start.total):
        ids = start.shards[0].batches(*divmod(step, start.steps))[member]
        out, w = model(x[ids]), weights.index_select(0, ids)
        if problem.classes:
            loss = -(torch.eye(problem.classes)[y[ids]] * torch.log(out.softmax(1) + 1e-8)).sum(1)
        else:
            loss = (y[ids].view(-1, 1) - out).square().sum(1)
        diameter = 1.1 * float(torch.cdist(x[ids], v).max())
        o = SamplesLoss("sinkhorn", diameter=diameter)(w, x[ids], torch.ones(len(v), dtype=v.dtype), v)
        adam.zero_grad()
        ((w * loss).sum() * o**2).backward()
        adam.step()
    return weights.detach().numpy()


@pytest.mark.parametrize("problem", [classes(30, wrong=3), targets(30, wrong=3)], ids=["classes", "targets"])
def test_the_reference_is_the_literal_one(problem: Problem) -> None:
    found = lossval(problem, REFERENCE, seed=2)
    members = np.stack([literal(problem, REFERENCE, 2, member) for member in range(2)])
    assert np.abs(found.values - members.mean(0)).max() < 1e-6
    assert found.errors is not None
    assert np.abs(found.errors - members.std(0, ddof=1) / np.sqrt(2)).max() < 1e-6


@pytest.mark.parametrize("settings", [SMALL, REFERENCE], ids=["normalised", "reference"])
@pytest.mark.parametrize("make", [classes, targets])
def test_no_layout_of_the_shards_changes_a_value(settings: LossVal, make: Any) -> None:
    """Five shards of 13 and 14 rows in batches of 8: the last batches are partial."""
    problem = make(67)
    settings = LossVal(**{**settings.__dict__, "shards": 5, "epochs": 2})
    alone = lossval(problem, settings, seed=5)
    for groups in (1, 2, 4):
        found = in_groups(problem, settings, groups)
        assert np.abs(found.values - alone.values).max() <= 1e-9
        assert np.abs(found.errors - alone.errors).max() <= 1e-9


@pytest.mark.parametrize("settings", [SMALL, REFERENCE], ids=["normalised", "reference"])
def test_a_restart_goes_on_with_the_same_bits(settings: LossVal, tmp_path: Any) -> None:
    problem, settings = classes(50), LossVal(**{**settings.__dict__, "shards": 3, "epochs": 3})
    whole = Training(problem, settings, seed=1)
    whole.run()
    for stop in (1, 2, whole.total - 1):
        first = Training(problem, settings, seed=1)
        for _ in range(stop):
            first.advance()
        torch.save(first.state_dict(), tmp_path / "state.pt")
        first.advance()  # what goes on after saving must not reach into what was saved
        again = Training(problem, settings, seed=1)
        again.load_state_dict(torch.load(tmp_path / "state.pt"))
        assert again.step == stop
        again.run()
        assert np.array_equal(again.values()[1].values, whole.values()[1].values)


def test_potentials_may_come_later_from_elsewhere() -> None:
    problem = classes(40)
    compute = at_once(Target(torch.as_tensor(problem.val_x)))
    with ThreadPoolExecutor(1) as pool:

        def later(x: torch.Tensor, w: torch.Tensor) -> Future[Divergence]:
            return pool.submit(compute, x, w)

        training = Training(problem, REFERENCE, seed=0, potentials=later)
        training.run()
    assert np.array_equal(training.values()[1].values, lossval(problem, REFERENCE, seed=0).values)


def test_wrong_labels_get_low_values_and_the_rest_values_near_one() -> None:
    problem = classes(400, wrong=40)
    found = lossval(problem, LossVal(), seed=0)
    assert found.errors is not None
    assert found.values.min() >= 0
    assert found.values.max() <= 1
    assert roc_auc_score(np.arange(400) >= 40, found.values) > 0.9
    assert np.median(found.values[:40]) < 0.3 < 0.9 < np.median(found.values[40:])


def test_wrong_targets_get_low_values() -> None:
    found = lossval(targets(400, wrong=40), LossVal(), seed=0)
    assert roc_auc_score(np.arange(400) >= 40, found.values) > 0.8


def test_strange_features_get_low_values_by_transport() -> None:
    problem = classes(400, wrong=0)
    x = np.array(problem.x)
    x[:40] += np.random.default_rng(0).normal(size=(40, 6)) * 8
    spoilt = Problem(x, problem.y, problem.val_x, problem.val_y, 2)
    found = lossval(spoilt, LossVal(epochs=2), seed=0)
    assert roc_auc_score(np.arange(400) >= 40, found.values) > 0.9
    assert np.median(found.values[:40]) < 0.1


def test_a_module_of_ones_own_is_trained_in_copies() -> None:
    problem = classes(300, wrong=30)
    single = Problem(np.asarray(problem.x, np.float32), problem.y, problem.val_x, problem.val_y, 2)
    found = lossval(
        single, LossVal(), seed=0, module=lambda: nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 2))
    )
    assert roc_auc_score(np.arange(300) >= 30, found.values) > 0.9
    with pytest.raises(SpecError, match="buffers"):
        lossval(single, LossVal(), seed=0, module=lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)))


def test_the_mixture_of_labels_finds_rate_and_probabilities() -> None:
    rng, noise = np.random.default_rng(0), WrongLabels(4)
    p = rng.dirichlet(np.full(4, 0.1), 20_000)
    true = (rng.random(20_000)[:, None] > p.cumsum(1)).sum(1).clip(max=3)
    wrong = rng.random(20_000) < 0.2
    labels = np.where(wrong, (true + rng.integers(1, 4, 20_000)) % 4, true)
    odds = noise.evidence(torch.from_numpy(p), torch.from_numpy(labels))
    fitted = noise.fit(noise.counts(odds))
    clean = noise.clean(odds, fitted).numpy()
    assert abs(fitted[0] - 0.2) < 0.02
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        chosen = (clean >= low) & (clean <= high)
        assert abs(clean[chosen].mean() - 1 + wrong[chosen].mean()) < 0.05


def test_the_mixture_of_targets_finds_rate_and_spread() -> None:
    rng, noise = np.random.default_rng(0), WrongTargets(1)
    f = rng.normal(size=(20_000, 1)) * 0.95
    wrong = rng.random(20_000) < 0.1
    y = np.where(wrong[:, None], rng.normal(size=f.shape), f + 0.3 * rng.normal(size=f.shape))
    evidence = noise.evidence(torch.from_numpy(f), torch.from_numpy(y))
    rate, variance = noise.fit(noise.counts(evidence))
    assert abs(rate - 0.1) < 0.02
    assert abs(variance - 0.09) < 0.02
    clean = noise.clean(evidence, (rate, variance)).numpy()
    assert abs(clean[wrong].mean()) < abs(clean[~wrong].mean()) - 0.5


def strangeness(cost: Tensor, labels: Tensor) -> tuple[Strange | None, Tensor]:
    mixture = StrangeFeatures(int(labels.max()) + 1)
    fitted = mixture.fit(mixture.counts(cost, labels))
    return fitted, mixture.clean(cost, labels, fitted)


def test_one_skewed_part_is_not_taken_for_two() -> None:
    rng = np.random.default_rng(0)
    one = torch.from_numpy(rng.normal(size=5000) * 0.3)
    fitted, clean = strangeness(one, torch.zeros(5000).long())
    assert fitted is None
    assert bool((clean == 1).all())
    two = torch.cat([one, torch.from_numpy(2 + 0.2 * rng.normal(size=500))])
    fitted, _ = strangeness(two, torch.zeros(5500).long())
    assert fitted is not None
    assert abs(fitted.rate - 1 / 11) < 0.01


def test_a_class_that_scatters_more_is_not_strange() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 5, 5000))
    cost = torch.from_numpy(rng.normal(size=5000) * 0.2 + np.where(labels == 0, 1.2, 0.0))
    fitted, clean = strangeness(cost, labels)
    assert float(clean.mean()) > 0.99
    strange = torch.from_numpy(rng.random(5000) < 0.1)
    fitted, clean = strangeness(torch.where(strange, 3 + cost / 2, cost), labels)
    assert fitted is not None
    np.testing.assert_allclose(fitted.low, [1.2, 0, 0, 0, 0], atol=0.06)
    assert abs(fitted.rate - float(strange.double().mean())) < 0.01
    assert float((clean[labels == 0] > 0.5).eq(~strange[labels == 0]).double().mean()) > 0.99


def test_a_class_of_few_rows_scatters_like_all() -> None:
    rng = np.random.default_rng(0)
    labels = torch.cat([torch.zeros(2000), torch.ones(1)]).long()
    cost = torch.from_numpy(np.concatenate([rng.normal(size=2000) * 0.2, [4.0]]))
    cost[:100] += 4
    fitted, clean = strangeness(cost, labels)
    assert fitted is not None
    np.testing.assert_allclose(fitted.low[1], fitted.low[0], atol=0.02)
    assert float(clean[-1]) < 0.01


def test_copies_do_not_make_the_other_rows_strange() -> None:
    """The copies are a part of their own, far below the rest."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 6)))
    x[:60] = x[240:]
    cost = neighbourhood(x, np.arange(300), x, np.arange(300), 1)
    assert bool(torch.isfinite(cost).all())
    assert bool((strangeness(cost, torch.zeros(300).long())[1] > 0.5).all())
    same = torch.ones(20, 3, dtype=torch.float64)
    assert bool(torch.isfinite(neighbourhood(same, np.arange(20), same, np.arange(20), 5)).all())


def test_what_cannot_be_valued_is_refused() -> None:
    with pytest.raises(InputError, match="fewer shards"):
        lossval(classes(30), LossVal(shards=10), seed=0)
    with pytest.raises(SpecError, match="folds"):
        lossval(classes(30), LossVal(folds=1), seed=0)
    with pytest.raises(SpecError, match="lr"):
        lossval(classes(30), LossVal(lr=0.0), seed=0)
