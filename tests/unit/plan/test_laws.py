"""Laws against the numbers that the published code prints, closed forms, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest

from raydelt.errors import InputError
from raydelt.plan.crossovers import crossovers
from raydelt.plan.laws import ConstrainedLaw, Curves, effective_data, pooled_half_life, utility
from raydelt.plan.ratios import ratios_of
from tests.unit.plan.buckets import published

BUDGETS = np.array([32e6, 64e6, 128e6, 640e6])
# Accuracy in per cent of the best 1 to 4 buckets at 32M, 64M, 128M and 640M seen, as the published code prints it.
PRINTED = {
    ("U", "utility"): [
        [18.2471, 24.6210, 28.7290, 31.1758],
        [15.8361, 23.3014, 29.6000, 38.5524],
        [13.4221, 20.3980, 26.7660, 37.5648],
        [11.6774, 17.9889, 24.1281, 35.1359],
    ],
    ("D", "effective_data"): [
        [18.2487, 24.5795, 28.6335, 30.7694],
        [17.1352, 24.4237, 30.5316, 39.0231],
        [15.9792, 23.2286, 29.5472, 40.0902],
        [13.9079, 20.8344, 26.9405, 37.9188],
    ],
    ("D", "utility"): [
        [18.9169, 24.7767, 27.7658, 28.7785],
        [17.4450, 25.4212, 31.7046, 38.6687],
        [15.9792, 23.8746, 30.7754, 40.8416],
        [13.9079, 21.1111, 27.8866, 38.8419],
    ],
    ("U", "effective_data"): [
        [17.3846, 23.7899, 28.5703, 32.7061],
        [15.5477, 22.2827, 28.1693, 37.8467],
        [13.4221, 19.8178, 25.5701, 36.1531],
        [11.6774, 17.7461, 23.2455, 33.7940],
    ],
}
PAPER_FORM = [
    [17.036, 22.725, 26.391, 28.575],
    [15.537, 22.142, 27.715, 35.635],
    [13.422, 19.784, 25.401, 34.927],
    [11.677, 17.739, 23.148, 32.847],
]
# Budgets in millions from which 2 buckets beat 1, and 3 beat 2.
CROSSINGS = [
    ("U", "utility", True, (101, 1097)),
    ("U", "utility", False, (82, 991)),
    ("D", "effective_data", False, (68, 345)),
    ("D", "utility", True, (53, 229)),
]


def accuracies(curves: Curves) -> np.ndarray:
    return np.array([100 * (1 - curves.loss(BUDGETS, range(k))) for k in range(1, 5)])


@pytest.mark.parametrize(("name", "law"), PRINTED)
def test_the_64_published_predictions(name: str, law: str) -> None:
    curves = published(name, law=law, d_inside=law == "utility")
    np.testing.assert_allclose(accuracies(curves), PRINTED[name, law], rtol=0, atol=1e-4)


def test_the_published_formula_adds_d_last() -> None:
    np.testing.assert_allclose(accuracies(published("U")), PAPER_FORM, rtol=0, atol=6e-4)


@pytest.mark.parametrize(("name", "law", "inside", "millions"), CROSSINGS)
def test_the_published_crossovers(name: str, law: str, inside: bool, millions: tuple[float, float]) -> None:
    budgets = np.geomspace(25e6, 3e9, 241)
    true = published(name, law=law, d_inside=inside)
    found = crossovers(true, [], np.tile(budgets, (3, 1)), budgets, ratios_of(true))
    np.testing.assert_allclose([crossover.budget / 1e6 for crossover in found], millions, rtol=0.01)


def test_the_data_constrained_law_at_its_published_points() -> None:
    law = ConstrainedLaw()
    assert law.loss(6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, rel=0, abs=1e-12)
    assert law.loss(8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, rel=0, abs=1e-12)


def test_without_saturation_repeats_count_in_full() -> None:
    law = ConstrainedLaw(repeats=float("inf"), excess=float("inf"))
    assert law.loss(1e8, 4e9, 1e9) == law.loss(1e8, 4e9, 4e9)


@pytest.mark.parametrize("law", [utility, effective_data])
def test_one_epoch_is_a_power_law_whatever_the_half_life(law) -> None:
    n = np.array([10.0, 300.0, 1000.0])
    for tau in (0.1, 5.0, 1e6):
        found = law(n, -0.3, tau, unique=1000, pivot=50, scale=2.0, floor=0.7)
        np.testing.assert_allclose(found, 2.0 * (n / 50) ** -0.3 + 0.7, rtol=1e-15)


@pytest.mark.parametrize("law", [utility, effective_data])
def test_no_decay_is_a_power_law_over_all_epochs(law) -> None:
    n = np.array([10.0, 1500.0, 7000.0])
    found = law(n, -0.3, 1e15, unique=1000, pivot=50, floor=0.7)
    np.testing.assert_allclose(found, (n / 50) ** -0.3 + 0.7, rtol=1e-12)


def test_two_epochs_in_closed_form() -> None:
    value = 1.5 * (1000 / 50) ** -0.3 * 1.6 ** (-0.3 * 2 ** (-1 / 3)) + 0.7
    assert utility(1600, -0.3, 3.0, unique=1000, pivot=50, scale=1.5, floor=0.7) == pytest.approx(value, rel=1e-14)
    value = 1.5 * ((1000 + 600 * 2 ** (-1 / 3)) / 50) ** -0.3 + 0.7
    found = effective_data(1600, -0.3, 3.0, unique=1000, pivot=50, scale=1.5, floor=0.7)
    assert found == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("inside", [False, True])
def test_curves_are_continuous_at_the_ends_of_epochs(inside: bool) -> None:
    curves = published("D", d_inside=inside)
    for epochs in (1, 2, 3, 10):
        border = epochs * 2 * 12.8e6
        below, at, above = curves.loss(np.array([border * (1 - 1e-12), border, border * (1 + 1e-12)]), [0, 1])
        assert below == pytest.approx(at, rel=1e-10)
        assert above == pytest.approx(at, rel=1e-10)


def test_every_budget_alone_gives_what_all_together_give() -> None:
    curves = published("D", law="effective_data")
    n = np.geomspace(1e5, 1e11, 40)
    np.testing.assert_array_equal(curves.loss(n, [0, 1, 2]), [float(curves.loss(one, [0, 1, 2])) for one in n])


@pytest.mark.parametrize("law", ["utility", "effective_data"])
def test_equal_buckets_without_a_bonus_are_one_bucket_of_their_size(law: str) -> None:
    n = np.geomspace(100, 1e6, 30)
    three = Curves(np.full(3, -0.2), np.full(3, 4.0), np.full(3, 1000.0), 50, 2.0, 0.5, law=law, gamma=0.0)
    one = Curves(np.array([-0.2]), np.array([4.0]), np.array([3000.0]), 50, 2.0, 0.5, law=law)
    np.testing.assert_allclose(three.loss(n, [0, 1, 2]), one.loss(n, [0]), rtol=1e-13)


def test_the_pool_theorem_multiplies_half_lives_by_the_number_of_buckets() -> None:
    tau = pooled_half_life(np.array([2.0, 5.0, 7.0]), np.full(3, 100.0), 300.0, gamma=1.0)
    np.testing.assert_allclose(tau, [6.0, 15.0, 21.0])
    # A bucket of a quarter of the pool repeats its examples in a pool four times as large.
    np.testing.assert_allclose(pooled_half_life(np.array([2.0]), np.array([100.0]), 400.0, gamma=0.5), [4.0])


def test_unequal_buckets_weigh_by_their_size() -> None:
    curves = Curves(np.array([-0.3, -0.1]), np.array([4.0, 4.0]), np.array([3000.0, 1000.0]), 50)
    assert curves.loss(4000, [0, 1]) == pytest.approx(80**-0.25, rel=1e-14)
    assert curves.loss(4000, [0, 1], [1000, 3000]) == pytest.approx(80**-0.15, rel=1e-14)


def test_epochs_past_64_half_lives_change_nothing() -> None:
    n = np.array([1e3 * 130, 1e3 * 100_000])
    for law in (utility, effective_data):
        late = law(n, -0.3, 2.0, unique=1000, pivot=50)
        assert late[1] == pytest.approx(late[0], rel=1e-12)


@pytest.mark.parametrize(
    ("n", "cure"), [(0, "give positive numbers"), (-5, "give positive numbers"), (1e10, "lower the budget")]
)
def test_budgets_that_make_no_sense_are_refused(n: float, cure: str) -> None:
    with pytest.raises(InputError, match=cure):
        utility(n, -0.3, 2.0, unique=1000, pivot=50)


def test_more_unique_tokens_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="tokens_unique"):
        ConstrainedLaw().loss(1e8, 1e9, 2e9)
