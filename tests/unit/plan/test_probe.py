"""Probes: their list, their dealing and their order are functions of the spec; buckets are exact slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydelt.config import Probes
from raydelt.errors import SpecError
from raydelt.examples import LABEL
from raydelt.plan.buckets import Bucket, Piece, placing, ratios, slices
from raydelt.plan.probe import Probe, Shuffled, dealt, probes_of
from raydelt.storage import Store
from raydelt.train.plan import Plan


@pytest.mark.parametrize(("counts", "buckets"), [([100], 4), ([103], 4), ([863, 7, 0, 40], 7), ([4], 4)])
def test_buckets_are_equal_slices_of_every_group_from_the_highest_place_down(counts: list[int], buckets: int) -> None:
    found = slices(counts, buckets)
    for group, count in enumerate(counts):
        places = np.concatenate([np.arange(bucket.low[group], bucket.high[group])[::-1] for bucket in found])
        np.testing.assert_array_equal(places, np.arange(count)[::-1])
        sizes = [bucket.high[group] - bucket.low[group] for bucket in found]
        assert max(sizes) - min(sizes) <= 1
    assert [bucket.pool for bucket in found] == [bucket.rows for bucket in found]
    assert {bucket.pool for bucket in slices(counts, buckets, pool=1)} == {1}


@pytest.mark.parametrize("pool", [None, 9])
def test_a_ratio_holds_its_bucket_and_all_that_are_better(pool: int | None) -> None:
    buckets = slices([863, 7, 0, 40], 4, pool=pool)
    for k, ratio in enumerate(ratios(buckets)):
        assert (ratio.name, ratio.high) == (f"top {25 * (k + 1)} %", (863, 7, 0, 40))
        assert ratio.low == buckets[k].low
        assert ratio.rows == sum(bucket.rows for bucket in buckets[: k + 1])
        assert ratio.pool == sum(bucket.pool for bucket in buckets[: k + 1])


def ranked(folder: Path, labels: np.ndarray, *, file_rows: int) -> tuple[Store, list[str]]:
    """A ranking of these labels, lowest first, in files; its rows lie in one part of the corpus in reverse."""
    store, n = Store(str(folder)), len(labels)
    table = pa.table(
        {"rank": np.arange(n), LABEL: labels, "part": np.zeros(n, np.int32), "part_row": np.arange(n)[::-1].copy()}
    )
    cuts = range(0, n, file_rows)
    return store, [store.write_table(f"r-{i}.parquet", table.slice(cut, file_rows)).file for i, cut in enumerate(cuts)]


@pytest.mark.parametrize("file_rows", [7, 50, 200])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_bucket_holds_its_slice_of_every_class_whatever_the_files(
    tmp_path: Path, file_rows: int, grouped: bool
) -> None:
    labels, excluded = np.random.default_rng(0).integers(0, 3, 120), 10
    store, files = ranked(tmp_path, labels, file_rows=file_rows)
    groups = 3 if grouped else 1
    group = labels if grouped else np.zeros_like(labels)
    counts = np.bincount(group[excluded:], minlength=groups)
    below, pieces = np.zeros(groups, np.int64), []
    for index, file in enumerate(files):
        pieces.append(Piece(file, excluded, tuple(below.tolist()), grouped))
        own = np.arange(index * file_rows, min((index + 1) * file_rows, 120))
        below = below + np.bincount(group[own[own >= excluded]], minlength=groups)
    for i, bucket in enumerate(slices(counts.tolist(), 4)):
        expected = set()
        for c in range(groups):
            mine = np.flatnonzero((group == c) & (np.arange(120) >= excluded))[::-1]
            expected |= set((119 - mine[i * len(mine) // 4 : (i + 1) * len(mine) // 4]).tolist())
        found = pa.concat_tables([placing(bucket, seed=1)(store, piece) for piece in pieces])
        assert set(found["part_row"].to_pylist()) == expected
        assert sorted(found["position"].to_pylist()) == list(range(bucket.rows))
        few = replace(bucket, pool=5)
        some = pa.concat_tables([placing(few, seed=1)(store, piece) for piece in pieces])
        assert sorted(some["position"].to_pylist()) == list(range(5))
        assert set(some["part_row"].to_pylist()) < expected


def test_more_buckets_than_examples_are_refused() -> None:
    with pytest.raises(SpecError, match=r"plan\.buckets 4 is more than the 3 ranked examples"):
        slices([3], 4)


def test_probes_reach_from_within_an_epoch_to_repeats_by_default() -> None:
    buckets = [Bucket("a", (500,), (1000,), 500), Bucket("b", (0,), (500,), 500)]
    found = probes_of(Probes(mixtures=False), buckets, 10)
    assert len(found) == 2 * 5 * 3
    assert [probe.steps for probe in found if probe.bucket == 1 and probe.seed == 2] == [13, 25, 50, 100, 200]
    of_ratios = probes_of(Probes(), ratios(buckets), 10)
    for ratio in (0, 1):
        steps = [probe.steps for probe in of_ratios if (probe.bucket, probe.seed) == (ratio, 2)]
        assert steps == [13, 25, 50, 100, 200, 400]
    own = probes_of(Probes(budgets=[100, 200, 400, 2000], seeds=[4]), buckets, 10)
    assert own[:4] == tuple(Probe(0, steps, 4) for steps in (10, 20, 40, 200))


def test_short_probes_get_more_seeds_by_the_root_of_their_cost() -> None:
    buckets, budgets = [Bucket("a", (0,), (1000,), 1000)], [100, 200, 400, 800, 3200]
    found = probes_of(Probes(budgets=budgets, seeds=[1, 7], most_seeds=8), buckets, 10)
    seeds = {steps: [probe.seed for probe in found if probe.steps == steps] for steps in (10, 20, 40, 80, 320)}
    # 2 sqrt(320 / steps): 11.3, 8, 5.7, 4 and 2.
    assert {steps: len(own) for steps, own in seeds.items()} == {10: 8, 20: 8, 40: 5, 80: 4, 320: 2}
    assert seeds[10] == [1, 7, 0, 2, 3, 4, 5, 6]
    assert all(own == seeds[10][: len(own)] for own in seeds.values())
    fewer = probes_of(Probes(budgets=budgets, seeds=[1, 7, 3], most_seeds=2), buckets, 10)
    assert len(fewer) == 5 * 3


def test_buckets_that_hold_no_few_batches_are_refused() -> None:
    with pytest.raises(SpecError, match=r"bucket a has 79 examples to probe with, less than 8 batches of .* 10"):
        probes_of(Probes(), [Bucket("a", (0,), (79,), 79)], 10)
    with pytest.raises(SpecError, match=r"budgets that differ by a batch or more"):
        probes_of(Probes(budgets=[100, 101, 200, 400]), [Bucket("a", (0,), (79,), 79)], 10)


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
def test_every_probe_is_dealt_once_and_no_worker_has_much_more_than_another(workers: int) -> None:
    probes = probes_of(Probes(), [Bucket("a", (0,), (800,), 800), Bucket("b", (800,), (1600,), 800)], 10)
    own = dealt(probes, workers)
    assert sorted(index for indices in own for index in indices) == list(range(len(probes)))
    loads = [sum(probes[index].steps for index in indices) for indices in own]
    assert max(loads) - min(loads) <= max(probe.steps for probe in probes)


def test_the_first_epoch_is_shuffled_by_the_seed_too() -> None:
    plans = [Shuffled("order", 100, 40, 10, seed, shuffle_later_epochs=True) for seed in (0, 1)]
    first = [plan.positions(0, 100) for plan in plans]
    assert not np.array_equal(*first)
    for plan, epoch in zip(plans, first, strict=True):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(100))
        later = Plan("order", 100, 40, 10, plan.seed, shuffle_later_epochs=True)
        # Its epochs are the second, third, ... of the order that a training with this seed follows.
        np.testing.assert_array_equal(plan.positions(0, 200), later.positions(100, 300))
