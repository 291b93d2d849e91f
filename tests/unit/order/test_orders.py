"""Orders are permutations, and equal their definitions by lists, for every number of examples."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.config import Order
from raydelt.errors import SpecError
from raydelt.order.folds import folding, unfolding
from raydelt.order.orders import positions, ranks_at
from raydelt.order.permutation import permuted, unpermuted
from tests.unit.order.naive import emission, grid

TRILLION = 10**12
EVERY_METHOD = [
    Order(),
    Order(method="folding", layers=TRILLION),
    Order(method="zigzag"),
    Order(method="segment"),
    Order(method="stair"),
    Order(method="saw", sections=7, reach=0.5),
    Order(method="sorted", descending=True),
    Order(method="shuffled"),
    Order(method="zigzag", descending=True, window=1000),
    Order(method="sorted", window=TRILLION - 1),
    Order(method="sorted", window=2 * TRILLION),
]


def assert_as_defined(n: int, order: Order, seed: int = 3) -> None:
    """The map from ranks to positions and the one back, against the list of ranks in the order of emission."""
    expected = np.array(emission(n, order, seed), np.int64)
    everything = np.arange(n)
    assert ranks_at(everything, n, order, seed=seed).tolist() == expected.tolist()
    assert positions(expected, n, order, seed=seed).tolist() == everything.tolist()


def with_windows(n: int) -> list[Order]:
    """Every window, either way up, each with an order of the grid that differs from one n to the next."""
    draw, orders = np.random.default_rng(n), list(grid(n))
    return [
        orders[draw.integers(len(orders))].model_copy(update={"window": window, "descending": down})
        for window in sorted({1, 2, 3, 10, n, n + 1})
        for down in (False, True)
    ]


@st.composite
def orders(draw: st.DrawFn) -> tuple[int, Order]:
    n = draw(st.integers(1, 2000))
    options: dict[str, Any] = {
        "method": draw(st.sampled_from(["folding", "zigzag", "segment", "stair", "saw", "sorted", "shuffled"])),
        "window": draw(st.integers(1, n + 1)),
        "descending": draw(st.booleans()),
    }
    if options["method"] == "segment":
        options["front"] = draw(st.floats(0, 0.99))
        options["back"] = draw(st.floats(0, 1 - options["front"], exclude_max=True))
    if options["method"] in ("folding", "zigzag"):
        options["layers"] = draw(st.integers(1, n))
    if options["method"] in ("stair", "saw"):
        n = max(n, 2)
        options["sections"] = draw(st.integers(2, n))
        options["layers"] = draw(st.integers(1, 2 * n))
        options["reach"] = draw(st.floats(0.001, 0.5))
    return n, Order(**options)


@pytest.mark.parametrize("first", range(10))
def test_every_order_is_as_defined_for_up_to_200_examples(first: int) -> None:
    for n in range(1 + first, 201, 10):
        for order in grid(n):
            assert_as_defined(n, order)


def test_windows_and_directions_go_with_every_order() -> None:
    for n in range(1, 201):
        for order in with_windows(n):
            assert_as_defined(n, order)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_order_is_as_defined_for_up_to_2000_examples() -> None:
    for n in range(1, 2001):
        for order in itertools.chain(grid(n), with_windows(n)):
            assert_as_defined(n, order)


@settings(deadline=None)
@given(case=orders(), seed=st.integers(0, 2**31))
def test_an_order_is_as_defined(case: tuple[int, Order], seed: int) -> None:
    assert_as_defined(*case, seed)


@settings(deadline=None)
@given(case=orders(), seed=st.integers(0, 1000), data=st.data())
def test_a_position_does_not_depend_on_which_ranks_are_asked_together(
    case: tuple[int, Order], seed: int, data: st.DataObject
) -> None:
    n, order = case
    ranks = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=5)), np.int64)
    assert (
        positions(ranks, n, order, seed=seed).tolist() == positions(np.arange(n), n, order, seed=seed)[ranks].tolist()
    )
    assert ranks_at(ranks, n, order, seed=seed).tolist() == ranks_at(np.arange(n), n, order, seed=seed)[ranks].tolist()


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 64, 100])
@pytest.mark.parametrize("zigzag", [False, True])
def test_each_fold_is_sorted_and_folds_differ_by_at_most_one_example(layers: int, zigzag: bool) -> None:
    for n in range(layers, 300):
        ranks = unfolding(np.arange(n), n, layers, zigzag=zigzag)
        folds = np.split(ranks, np.flatnonzero(np.diff(ranks % layers)) + 1) if layers > 1 else [ranks]
        assert len(folds) == layers
        assert max(map(len, folds)) - min(map(len, folds)) <= 1
        for index, fold in enumerate(folds):
            assert (np.diff(fold) == (-layers if zigzag and index % 2 else layers)).all()


@pytest.mark.parametrize("layers", [1, 50, 51])
def test_folding_with_one_layer_or_a_layer_per_example_is_sorted(layers: int) -> None:
    n = 50
    assert folding(np.arange(n), n, layers).tolist() == list(range(n))
    assert unfolding(np.arange(n), n, layers).tolist() == list(range(n))


def test_zigzag_turns_round_after_every_layer() -> None:
    order = Order(method="zigzag", layers=2)
    assert ranks_at(np.arange(7), 7, order, seed=0).tolist() == [0, 2, 4, 6, 5, 3, 1]


def test_stair_folds_around_the_split_points_only() -> None:
    order = Order(method="stair", layers=2, sections=2, reach=0.2)
    assert ranks_at(np.arange(10), 10, order, seed=0).tolist() == [0, 1, 2, 3, 5, 4, 6, 7, 8, 9]


def test_a_window_that_the_one_before_it_cuts_folds_what_is_left() -> None:
    order = Order(method="stair", layers=2, sections=3, reach=0.5)
    assert ranks_at(np.arange(6), 6, order, seed=0).tolist() == [0, 2, 4, 1, 3, 5]
    # Split points 4 and 8, radius 3: [1, 7) and what it leaves of [5, 11).
    order = Order(method="saw", layers=2, sections=3, reach=0.25)
    assert ranks_at(np.arange(12), 12, order, seed=0).tolist() == [0, 1, 3, 5, 6, 4, 2, 7, 9, 10, 8, 11]


@pytest.mark.parametrize(("n", "sizes"), [(5, (1, 3, 1)), (4, (0, 4, 0)), (100, (10, 80, 10))])
def test_segments_stay_apart(n: int, sizes: tuple[int, int, int]) -> None:
    ranks = ranks_at(np.arange(n), n, Order(method="segment"), seed=1)
    start = 0
    for size in sizes:
        assert sorted(ranks[start : start + size].tolist()) == list(range(start, start + size))
        start += size
    assert n < 100 or ranks.tolist() != list(range(n))


def test_segments_that_round_up_to_more_than_everything_leave_the_rest_to_the_back() -> None:
    order = Order(method="segment", front=0.5, back=0.5)
    ranks = ranks_at(np.arange(7), 7, order, seed=1).tolist()
    assert sorted(ranks[:4]) == [0, 1, 2, 3]


@settings(deadline=None)
@given(case=orders(), seed=st.integers(0, 1000))
def test_jitter_keeps_every_example_in_its_window(case: tuple[int, Order], seed: int) -> None:
    n, order = case
    still = order.model_copy(update={"window": 1})
    before = positions(np.arange(n), n, still, seed=seed)
    assert (positions(np.arange(n), n, order, seed=seed) // order.window == before // order.window).all()


def test_jitter_shuffles_neighbouring_windows_independently_and_evenly() -> None:
    w, draws = 3, 8000
    placed = positions(np.arange(2 * w * draws), 2 * w * draws, Order(method="sorted", window=w), seed=5)
    within = (placed % w).reshape(draws, 2 * w)
    _, counts = np.unique(within, axis=0, return_counts=True)
    assert len(counts) == 36
    # 35 degrees of freedom: above 80 has a probability below 1e-4.
    assert ((counts - draws / 36) ** 2 / (draws / 36)).sum() < 80


def test_descending_starts_at_the_highest_score() -> None:
    assert positions(np.arange(4), 4, Order(method="sorted", descending=True), seed=0).tolist() == [3, 2, 1, 0]
    assert ranks_at(np.arange(5), 5, Order(layers=2, descending=True), seed=0).tolist() == [4, 2, 0, 3, 1]


@pytest.mark.parametrize(
    "order", [Order(method="shuffled"), Order(method="segment"), Order(method="sorted", window=10)], ids=str
)
def test_another_seed_gives_another_shuffle(order: Order) -> None:
    n = 1000
    assert positions(np.arange(n), n, order, seed=1).tolist() != positions(np.arange(n), n, order, seed=2).tolist()


@pytest.mark.parametrize("order", EVERY_METHOD, ids=str)
def test_a_trillion_examples_cost_no_more_than_those_that_are_asked(order: Order) -> None:
    ranks = np.array([0, 1, 2, TRILLION // 3, TRILLION // 2, TRILLION - 2, TRILLION - 1])
    placed = positions(ranks, TRILLION, order, seed=4)
    assert ((placed >= 0) & (placed < TRILLION)).all()
    assert ranks_at(placed, TRILLION, order, seed=4).tolist() == ranks.tolist()


def test_as_many_layers_as_examples_is_the_sort_for_a_trillion_too() -> None:
    ranks = np.array([0, 5, TRILLION - 1])
    assert positions(ranks, TRILLION, Order(layers=TRILLION), seed=0).tolist() == ranks.tolist()


def test_split_points_are_exact_where_floats_are_not() -> None:
    n, sections = 9 * 10**17, 7
    order = Order(method="saw", layers=2, sections=sections, reach=1e-9)
    radius = 9 * 10**8
    for k in range(1, sections):
        start = (2 * n * k + sections) // (2 * sections) - radius
        around = np.array([start - 1, start, start + 1])
        assert positions(around, n, order, seed=0).tolist() == [start - 1, start, start + 2 * radius - 1]


@pytest.mark.parametrize("method", ["folding", "zigzag", "segment", "stair", "saw", "sorted", "shuffled"])
def test_no_examples_have_no_positions(method: Any) -> None:
    nothing = np.zeros(0, np.int64)
    assert positions(nothing, 0, Order(method=method, window=3), seed=0).tolist() == []
    assert ranks_at(nothing, 0, Order(method=method, window=3), seed=0).tolist() == []


@pytest.mark.parametrize("ask", [positions, ranks_at])
@pytest.mark.parametrize(
    ("order", "n", "message"),
    [
        (Order(layers=9), 4, r"order\.layers 9 .* use at most 4"),
        (Order(method="zigzag", layers=9), 4, r"order\.layers 9 .* use at most 4"),
        (Order(method="stair", sections=5), 4, r"order\.sections 5 .* use at most 4"),
        (Order(method="saw", sections=2), 1, r"order\.sections 2 .* the 1 selected .* use order\.method sorted"),
    ],
)
def test_more_parts_than_examples_are_refused_with_the_cure(ask: Any, order: Order, n: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ask(np.arange(n), n, order, seed=0)


def test_the_permutation_is_the_one_that_runs_of_before_have_seen() -> None:
    assert permuted(np.arange(2), 2, 0, "order").tolist() == [1, 0]
    assert permuted(np.arange(10), 10, 7, "order").tolist() == [1, 9, 8, 2, 7, 4, 0, 6, 3, 5]
    some = np.array([0, 1, TRILLION // 2, TRILLION - 1])
    expected = [770909984769, 841837336908, 751297040307, 64762760866]
    assert permuted(some, TRILLION, 7, "order").tolist() == expected
    digest = xxhash.xxh3_64()
    for n in range(1, 2001, 7):
        digest.update(permuted(np.arange(n), n, n % 5, "segment", n % 3).tobytes())
    assert digest.hexdigest() == "684ab22c3703010c"


@settings(deadline=None)
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**31))
def test_the_permutation_is_one_and_has_an_inverse(n: int, seed: int) -> None:
    images = permuted(np.arange(n), n, seed, "x")
    assert sorted(images.tolist()) == list(range(n))
    assert unpermuted(images, n, seed, "x").tolist() == list(range(n))


@settings(deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 1000))
def test_every_key_has_a_permutation_of_its_own(n: int, seed: int) -> None:
    keys = np.repeat(np.array([5, 2**63], np.uint64), n)
    values = np.tile(np.arange(n), 2)
    both = permuted(values, n, seed, "x", keys=keys)
    assert unpermuted(both, n, seed, "x", keys=keys).tolist() == values.tolist()
    for half in np.split(both, 2):
        assert sorted(half.tolist()) == list(range(n))
    assert n < 30 or both[:n].tolist() != both[n:].tolist()


def test_shuffled_places_are_close_to_uniform() -> None:
    n, draws = 8, 4000
    counts = np.zeros((n, n))
    for seed in range(draws):
        counts[np.arange(n), permuted(np.arange(n), n, seed)] += 1
    chi_square = ((counts - draws / n) ** 2 / (draws / n)).sum()
    # 49 degrees of freedom: above 100 has a probability below 1e-4.
    assert chi_square < 100
