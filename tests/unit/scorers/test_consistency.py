"""Consistency counts what it says, and variants are pure functions of (seed, k, id)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import binomtest

from raydelt.errors import SpecError
from raydelt.scorers.augment import AUGMENTATIONS, variants
from raydelt.scorers.consistency import consistency, mean_pairwise_js, wilson_lower

RNG = np.random.default_rng(0)


def logits_of(predicted: list[list[int]], classes: int = 3) -> np.ndarray:
    """Logits [1, B, K, C] whose predictions are the given classes."""
    return np.eye(classes)[np.array(predicted)][None] * 10.0


def test_answers_known_per_variant_give_their_shares() -> None:
    found = consistency(logits_of([[0, 0, 0, 0, 0], [1, 1, 1, 0, 2], [2, 2, 1, 1, 1]]), np.array([0, 1, 2]))
    assert found["consistency"].tolist() == [1.0, 0.6, 0.4]
    assert found["self_consistency"].tolist() == [1.0, 0.6, 0.6]
    assert found["consistency_posterior"].tolist() == pytest.approx([5.5 / 6, 3.5 / 6, 2.5 / 6])
    assert found["consistency_js"][0] == pytest.approx(0.0, abs=1e-12)


def test_rounds_are_averaged_and_pooled() -> None:
    logits = np.concatenate([logits_of([[0, 0, 1, 1]]), logits_of([[0, 0, 0, 0]])])
    found = consistency(logits, np.array([0]))
    assert found["consistency"][0] == 0.75
    assert found["consistency_se"][0] == pytest.approx(0.25)
    assert found["consistency_posterior"][0] == pytest.approx(6.5 / 9)


@given(trials=st.integers(1, 60), data=st.data())
def test_the_wilson_bound_equals_scipy(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson").low
    assert wilson_lower(np.array([float(successes)]), trials)[0] == pytest.approx(expected, abs=1e-12)


def test_the_divergence_equals_scipy_over_all_pairs() -> None:
    logits = RNG.normal(size=(2, 3, 4, 5)) * 3
    p = softmax(logits, axis=-1)
    for r in range(2):
        for b in range(3):
            pairs = [jensenshannon(p[r, b, i], p[r, b, j]) ** 2 for i in range(4) for j in range(i)]
            assert mean_pairwise_js(logits)[r, b] == pytest.approx(np.mean(pairs), rel=1e-9)


def test_a_model_that_no_variant_changes_is_all_or_nothing() -> None:
    same = np.repeat(RNG.normal(size=(2, 50, 1, 4)), 5, axis=2)
    found = consistency(same, RNG.integers(0, 4, 50))
    per_round = {0.0, 0.5, 1.0}
    assert set(found["consistency"].tolist()) <= per_round
    assert found["consistency_js"].max() == pytest.approx(0.0, abs=1e-12)
    assert set(found["self_consistency"].tolist()) == {1.0}


def make(
    x: np.ndarray, keys: np.ndarray, kind: str, strength: float, shape: tuple[int, ...], seed: int = 0
) -> np.ndarray:
    return variants(
        x, keys, kind=kind, count=4, strength=strength, seed=seed, scale=np.ones(x.shape[1]), input_shape=shape
    )


@pytest.mark.parametrize(("kind", "strength"), [("noise", 0.5), ("mask", 0.3), ("shift", 1.0)])
def test_variants_do_not_depend_on_the_batch_or_its_order(kind: str, strength: float) -> None:
    x = RNG.normal(size=(40, 36)).astype(np.float32)
    keys = RNG.integers(0, 2**63, 40).astype(np.uint64)
    whole = make(x, keys, kind, strength, (1, 6, 6))
    order = RNG.permutation(40)
    np.testing.assert_array_equal(make(x[order], keys[order], kind, strength, (1, 6, 6)), whole[order])
    np.testing.assert_array_equal(make(x[7:8], keys[7:8], kind, strength, (1, 6, 6)), whole[7:8])
    assert (make(x, keys, kind, strength, (1, 6, 6), seed=1) != whole).any()
    assert (whole[:, 0] != whole[:, 1]).any()


def test_noise_has_the_spread_it_was_asked_for() -> None:
    x = np.zeros((500, 50), np.float32)
    keys = RNG.integers(0, 2**63, 500).astype(np.uint64)
    noise = make(x, keys, "noise", 0.25, (50,))
    assert noise.std() == pytest.approx(0.25, rel=0.02)
    assert abs(noise.mean()) < 0.005
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.15


def test_masks_hide_the_share_they_were_asked_for() -> None:
    keys = RNG.integers(0, 2**63, 500).astype(np.uint64)
    masked = make(np.ones((500, 50), np.float32), keys, "mask", 0.3, (50,))
    assert (masked == 0).mean() == pytest.approx(0.3, abs=0.01)


def test_a_shift_moves_by_at_most_its_reach_and_never_by_none() -> None:
    image = np.zeros((300, 1, 7, 7), np.float32)
    image[:, 0, 3, 3] = 1
    keys = RNG.integers(0, 2**63, 300).astype(np.uint64)
    moved = make(image.reshape(300, -1), keys, "shift", 2.0, (1, 7, 7)).reshape(-1, 7, 7)
    where = np.argwhere(moved)[:, 1:] - 3
    assert len(where) == len(moved)
    assert np.abs(where).max() == 2
    assert (np.abs(where).sum(axis=1) > 0).all()
    assert len(np.unique(where, axis=0)) == 24


@pytest.mark.parametrize(
    ("kind", "shape", "strength"), [("shift", (36,), 1), ("shift", (1, 6, 6), 0.5), ("mask", (36,), 1)]
)
def test_an_augmentation_that_cannot_work_is_refused(kind: str, shape: tuple[int, ...], strength: float) -> None:
    with pytest.raises(SpecError, match=r"score\.consistency"):
        AUGMENTATIONS[kind].check(shape, strength)
