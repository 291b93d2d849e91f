"""The plan feeds the same global batches to any number of workers, and can start anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.train.plan import Plan
from tests.unit.train.conftest import BATCH, ROWS, plan


def test_the_first_epoch_is_the_materialised_order() -> None:
    assert plan().positions(0, ROWS).tolist() == list(range(ROWS))


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_sees_every_example_once(shuffle: bool) -> None:
    one = plan(shuffle=shuffle)
    for epoch in range(4):
        positions = one.positions(epoch * ROWS, (epoch + 1) * ROWS).tolist()
        assert sorted(positions) == list(range(ROWS))
        assert (positions == list(range(ROWS))) == (not shuffle or epoch == 0)


@settings(deadline=None, max_examples=60)
@given(step=st.integers(0, 60), workers=st.integers(1, BATCH))
def test_the_slices_of_all_workers_are_the_global_batch(step: int, workers: int) -> None:
    one = plan()
    slices = [one.slice(step, worker, workers) for worker in range(workers)]
    assert [low for low, _ in slices[1:]] == [high for _, high in slices[:-1]]
    assert (slices[0][0], slices[-1][1]) == (step * BATCH, (step + 1) * BATCH)
    assert min(high - low for low, high in slices) >= 1


@settings(deadline=None, max_examples=60)
@given(start=st.integers(0, 300), length=st.integers(1, 100))
def test_a_stretch_is_the_same_whether_or_not_what_comes_before_was_asked_for(start: int, length: int) -> None:
    whole = plan().positions(0, start + length)
    assert plan().positions(start, start + length).tolist() == whole[start:].tolist()


def test_seeds_shuffle_differently() -> None:
    one, other = plan(seed=1), plan(seed=2)
    assert one.positions(ROWS, 2 * ROWS).tolist() != other.positions(ROWS, 2 * ROWS).tolist()
    assert one.fingerprint != other.fingerprint


def test_every_part_of_a_plan_is_in_its_fingerprint() -> None:
    base = {"order": "a", "rows": 9, "rows_per_file": 4, "batch_size": 2, "seed": 0, "shuffle_later_epochs": True}
    others = {"order": "b", "rows": 8, "rows_per_file": 5, "batch_size": 3, "seed": 1, "shuffle_later_epochs": False}
    found = {Plan(**base | {name: value}).fingerprint for name, value in others.items()}
    assert len(found | {Plan(**base).fingerprint}) == 1 + len(others)


def test_files_hold_all_rows() -> None:
    one = plan()
    assert [one.rows_of(file) for file in range(one.files)] == [10, 10, 10, 10, 10, 3]
    assert np.sum([one.rows_of(file) for file in range(one.files)]) == ROWS
