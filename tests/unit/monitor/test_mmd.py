"""MMD against its closed form, its random features against the kernel, and its p-values under no change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from raydelt.monitor.mmd import (
    FeatureSums,
    RandomFeatures,
    gaussian,
    linear,
    median_distance,
    mmd2,
    mmd2_of_sums,
    permutation_test,
)


def keys(n: int, start: int = 0) -> np.ndarray:
    return np.random.default_rng(start).integers(0, 2**63, n).astype(np.uint64)


def test_with_a_linear_kernel_it_is_the_distance_of_the_means_less_its_bias() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(1, 2, size=(30, 3))
    bias = x.var(axis=0, ddof=1).sum() / 40 + y.var(axis=0, ddof=1).sum() / 30
    expected = np.square(x.mean(axis=0) - y.mean(axis=0)).sum() - bias
    assert mmd2(x, y, linear) == pytest.approx(expected, rel=1e-12)


def test_the_linear_kernel_estimates_the_distance_of_the_true_means_without_bias() -> None:
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        found.append(mmd2(rng.normal(size=(20, 2)), rng.normal(0.5, 1, size=(20, 2)), linear))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(0.5, abs=4 * error)


def test_random_features_come_close_to_the_kernel_and_add_up() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.normal(0.8, 1, size=(200, 4))
    width = median_distance(np.concatenate([x, y]))
    sums = FeatureSums(RandomFeatures(4, width, seed=1, frequencies=4096))
    whole = [sums.add(sums.zero(), rows) for rows in (x, y)]
    assert mmd2_of_sums(*whole) == pytest.approx(mmd2(x, y, gaussian(width)), abs=0.01)
    split = sums.merge(sums.add(sums.zero(), x[:100]), sums.add(sums.zero(), x[100:]))
    assert split[0] == whole[0][0]
    assert split[1] == pytest.approx(whole[0][1])


def test_p_values_of_no_change_are_uniform() -> None:
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(30, 2)), rng.normal(size=(40, 2))
        found.append(permutation_test(x, y, keys(30, 2 * seed), keys(40, 2 * seed + 1), seed=seed, permutations=99)[1])
    # p lies on a grid of 1/100; a shift of half a step makes it comparable with the uniform distribution.
    assert kstest(np.array(found) - 0.005, "uniform").pvalue > 0.01


def test_a_change_of_shape_alone_is_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    y = rng.choice([-1, 1], (300, 2)) * 0.95 + rng.normal(0, 0.3, (300, 2))
    assert np.abs(x.mean(axis=0) - y.mean(axis=0)).max() < 0.15
    assert np.abs(x.std(axis=0) - y.std(axis=0)).max() < 0.1
    assert permutation_test(x, y, keys(300, 1), keys(300, 2), seed=0, permutations=199)[1] == 1 / 200


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y, a, b = rng.normal(size=(50, 3)), rng.normal(0.4, 1, size=(60, 3)), keys(50, 1), keys(60, 2)
    order, other = rng.permutation(50), rng.permutation(60)
    assert permutation_test(x, y, a, b, seed=3) == permutation_test(x[order], y[other], a[order], b[other], seed=3)


def test_constant_columns_are_no_obstacle() -> None:
    x, y = np.zeros((20, 2)), np.zeros((20, 2))
    value, p_value = permutation_test(x, y, keys(20, 1), keys(20, 2), seed=0, permutations=19)
    assert (value, p_value) == (pytest.approx(0, abs=1e-12), 1.0)
