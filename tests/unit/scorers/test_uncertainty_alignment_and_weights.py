"""Uncertainty, input saliency, target alignment and sample weights equal their closed forms and autograd."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch import nn

from raydelt.config import ModelSpec
from raydelt.corpus.canonical import fixed_lists, seconds_of
from raydelt.errors import SpecError
from raydelt.models import classifier
from raydelt.scorers.diversity import Transform
from raydelt.scorers.protocol import Array, ScoringContext
from raydelt.scorers.sample_weight import DAY, ClassMeans, Distances, SampleWeightConfig
from raydelt.scorers.target_alignment import alignment
from raydelt.scorers.uncertainty import uncertainty

RNG = np.random.default_rng(0)


def test_uncertainty_equals_scipy_and_the_definitions() -> None:
    logits = RNG.normal(size=(2, 50, 7)) * 4
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    found = uncertainty(logits)
    top = np.sort(p, axis=-1)
    np.testing.assert_allclose(found["entropy"], scipy_entropy(p, axis=-1), atol=1e-12)
    np.testing.assert_allclose(found["least_confidence"], 1 - top[..., -1], atol=1e-12)
    np.testing.assert_allclose(found["margin_uncertainty"], 1 - (top[..., -1] - top[..., -2]), atol=1e-12)


def test_uncertainty_is_largest_for_equal_probabilities_and_keeps_its_digits_near_certainty() -> None:
    equal = uncertainty(np.zeros((1, 1, 4)))
    assert equal["entropy"][0, 0] == pytest.approx(np.log(4))
    assert equal["least_confidence"][0, 0] == pytest.approx(0.75)
    assert equal["margin_uncertainty"][0, 0] == pytest.approx(1.0)
    sure = uncertainty(np.array([[[50.0, 0.0]]]))
    assert sure["least_confidence"][0, 0] == pytest.approx(np.exp(-50.0), rel=1e-9)


@pytest.mark.parametrize("network", ["logistic", "mlp", "cnn"])
def test_input_saliency_equals_one_backward_pass_per_example(network: str) -> None:
    model = classifier.build(ModelSpec(network=network), (1, 6, 6), 4, seed=1)
    model.set_standardisation(RNG.normal(size=36), RNG.uniform(0.5, 2, 36))
    x, y = RNG.normal(size=(9, 36)).astype(np.float32), RNG.integers(0, 4, 9)
    expected = []
    for row in range(9):
        own = model.standardise(torch.from_numpy(x[row : row + 1])).detach().requires_grad_(True)
        nn.functional.cross_entropy(model.network(own), torch.tensor([y[row]])).backward()
        assert own.grad is not None
        expected.append(float(own.grad.abs().sum()))
    np.testing.assert_allclose(model.input_saliency(x, y), expected, rtol=1e-5)
    halves = np.concatenate([model.input_saliency(x[:4], y[:4]), model.input_saliency(x[4:], y[4:])])
    np.testing.assert_allclose(halves, expected, rtol=1e-5)


def test_logistic_saliency_has_its_closed_form() -> None:
    model = classifier.build(ModelSpec(network="logistic"), (5,), 3, seed=1)
    x, y = RNG.normal(size=(20, 5)).astype(np.float32), RNG.integers(0, 3, 20)
    logits = model.predict(x).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = model.last_linear.weight.detach().numpy().astype(np.float64)
    expected = np.abs((p - np.eye(3)[y]) @ weights).sum(axis=1)
    np.testing.assert_allclose(model.input_saliency(x, y), expected, rtol=1e-5)


def test_alignment_is_the_mean_product_and_cosine_and_tracin_the_weighted_sum() -> None:
    g, target = RNG.normal(size=(3, 10, 6)), RNG.normal(size=(3, 6))
    dots, norms = np.einsum("rbd,rd->rb", g, target), np.linalg.norm(g, axis=2)
    lengths = np.repeat(np.linalg.norm(target, axis=1)[:, None], 10, axis=1)
    found = alignment(dots, norms, lengths, (0.1, 0.2, 0.3))
    np.testing.assert_allclose(found["alignment"], dots.mean(axis=0))
    np.testing.assert_allclose(found["alignment_cosine"], (dots / norms / lengths).mean(axis=0))
    np.testing.assert_allclose(found["tracin"], 0.1 * dots[0] + 0.2 * dots[1] + 0.3 * dots[2])
    with pytest.raises(SpecError, match="learning_rates has 2 entries but 3 models"):
        alignment(dots, norms, lengths, (0.1, 0.2))


def test_an_example_without_gradient_has_cosine_zero() -> None:
    zero = np.zeros((1, 1))
    assert alignment(zero, zero, np.ones((1, 1)), None)["alignment_cosine"][0] == 0


class Certain:
    """Predictions whose least confidence is given."""

    rounds = 1

    def __init__(self, u: Array) -> None:
        p = np.stack([1 - u, u], axis=1)
        self.z = np.log(p)[None]

    def logits(self, batch: pa.RecordBatch) -> Array:
        return self.z


def weighed(batch: pa.RecordBatch, u: Array, **settings: object) -> dict[str, Array]:
    scorer = SampleWeightConfig.model_validate({"kind": "sample_weight", **settings}).build()
    bare = ScoringContext(0, 2, (2,), np.zeros(2), np.ones(2))

    def reduce(reducer: object) -> object:
        halves = [batch.slice(0, 3), batch.slice(3)]
        states = [reducer.add(reducer.zero(), half) for half in halves]  # type: ignore[attr-defined]
        return reducer.finish(reducer.merge(*states))  # type: ignore[attr-defined]

    statistics = {"sample_weight": scorer.fit(reduce, bare)}
    scorer.setup(ScoringContext(0, 2, (2,), np.zeros(2), np.ones(2), predictions=Certain(u), statistics=statistics))
    return scorer.score(batch)


def corpus_batch() -> tuple[pa.RecordBatch, Array, Array]:
    x = np.array([[0, 0], [2, 0], [10, 0], [10, 4], [10, 8], [1, 1]], np.float32)
    labels = np.array([0, 0, 1, 1, 1, 0], np.int32)
    times = np.array([0.0, 10 * DAY, 20 * DAY, np.nan, 25 * DAY, 30 * DAY])
    time = pa.array([None if np.isnan(t) else t for t in times], pa.float64())
    return pa.record_batch({"x": fixed_lists(x), "label": pa.array(labels), "time": time}), x, labels


def test_a_weight_is_the_product_of_its_three_factors() -> None:
    batch, x, labels = corpus_batch()
    u = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.05])
    x = x.astype(np.float64)
    far = np.array([np.linalg.norm(row - x[labels == own].mean(axis=0)) for row, own in zip(x, labels, strict=True)])
    typical = np.exp(-far / np.median(far))
    found = weighed(batch, u, half_life_days=10)
    np.testing.assert_allclose(found["weight_uncertainty"], u, rtol=1e-9)
    np.testing.assert_allclose(found["weight_place"], 1 - typical, rtol=1e-9)
    np.testing.assert_allclose(found["weight_age"], [0.125, 0.25, 0.5, 1.0, 2**-0.5, 1.0])
    np.testing.assert_allclose(found["sample_weight"], u * (1 - typical) * found["weight_age"], rtol=1e-9)
    verbatim = weighed(batch, u, favour="typical")
    np.testing.assert_allclose(verbatim["weight_place"], typical, rtol=1e-9)
    assert (verbatim["weight_age"] == 1).all()


def test_the_future_has_no_age_and_a_fixed_now_is_kept() -> None:
    batch, _, _ = corpus_batch()
    found = weighed(batch, np.full(6, 0.3), half_life_days=10, now=10 * DAY)
    np.testing.assert_allclose(found["weight_age"], [0.5, 1, 1, 1, 1, 1])


def test_means_and_distances_do_not_depend_on_how_the_corpus_is_cut() -> None:
    transform, rows = Transform(np.zeros(3), np.ones(3)), 40
    x = RNG.normal(size=(rows, 3)).astype(np.float32)
    batch = pa.record_batch({"x": fixed_lists(x), "label": pa.array(RNG.integers(0, 3, rows).astype(np.int32))})
    means = ClassMeans(transform, 4)
    whole = means.finish(means.add(means.zero(), batch))
    cut = [means.add(means.zero(), batch.slice(low, 7)) for low in range(0, rows, 7)]
    total = cut[0]
    for part in cut[1:]:
        total = means.merge(total, part)
    np.testing.assert_allclose(means.finish(total), whole, rtol=1e-12)
    np.testing.assert_allclose(whole[3], x.astype(np.float64).mean(axis=0), rtol=1e-6)
    distances = Distances(transform, whole)
    far, latest = distances.add(distances.zero(), batch)
    assert latest == -np.inf
    assert len(far) == rows


def test_times_are_read_from_timestamps_dates_texts_and_numbers() -> None:
    import datetime

    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    seconds = moment.timestamp()
    reasons: list[str | None] = [None] * 5
    texts = ["2024-05-06T07:08:09", "2024-05-06T09:08:09+02:00", str(seconds), "yesterday", None]
    found = seconds_of(pa.array(texts), "when", reasons).to_pylist()
    assert found == [seconds, seconds, seconds, None, None]
    assert reasons == [None, None, None, "time 'when' is 'yesterday': no ISO date and no number of seconds", None]
    for kind in (pa.timestamp("ms"), pa.timestamp("ns", tz="Europe/Berlin"), pa.timestamp("s")):
        value = moment if kind.tz else moment.replace(tzinfo=None)
        assert seconds_of(pa.array([value, None], kind), "when", [None, None]).to_pylist() == [seconds, None]
    assert seconds_of(pa.array([datetime.date(1970, 1, 2)]), "when", [None]).to_pylist() == [DAY]
    assert seconds_of([1.5, float("nan")], "when", (told := [None, None])).to_pylist() == [1.5, None]
    assert "nan" in str(told[1])
