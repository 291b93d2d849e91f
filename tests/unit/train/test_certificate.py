"""The hash chain tells any other sequence from the planned one, and only the sequence."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydelt.scorers.protocol import Array
from raydelt.train.certificate import checkpoint_heads, extended, fed, first_difference, marks_of, start_of_chain

IDS = [f"example-{i}" for i in range(24)]


def digests(ids: list[str], batch: int = 4) -> Array:
    marks = marks_of(ids)
    return np.stack(
        [fed(marks[start : start + batch], np.arange(start, start + batch)) for start in range(0, len(ids), batch)]
    )


@given(cuts=st.lists(st.integers(0, 24), max_size=5), start=st.integers(0, 10**12))
def test_what_workers_fed_adds_up_however_a_batch_is_shared(cuts: list[int], start: int) -> None:
    marks, edges = marks_of(IDS), [0, *sorted(cuts), len(IDS)]
    shares = [fed(marks[a:b], start + np.arange(a, b)) for a, b in itertools.pairwise(edges)]
    with np.errstate(over="ignore"):
        assert np.sum(shares, axis=0, dtype=np.uint64).tolist() == fed(marks, start + np.arange(len(marks))).tolist()


@given(a=st.integers(0, 23), b=st.integers(0, 23))
def test_a_swapped_pair_is_seen_at_its_first_step(a: int, b: int) -> None:
    other = list(IDS)
    other[a], other[b] = other[b], other[a]
    assert first_difference(digests(IDS), digests(other)) == (None if a == b else min(a, b) // 4)


def test_a_skipped_and_a_repeated_batch_are_seen() -> None:
    skipped = IDS[:8] + IDS[12:]
    repeated = IDS[:12] + IDS[8:20]
    assert first_difference(digests(IDS), digests(skipped)) == 2
    assert first_difference(digests(IDS), digests(repeated)) == 3


def test_a_training_that_stopped_early_or_went_on_differs_where_the_other_ends() -> None:
    assert first_difference(digests(IDS), digests(IDS[:16])) == 4
    assert first_difference(digests(IDS[:16]), digests(IDS)) == 4


def test_the_chain_is_sha256_over_step_and_digest() -> None:
    head = hashlib.sha256(b"plan").digest()
    for step, digest in enumerate(digests(IDS)):
        head = hashlib.sha256(
            head
            + step.to_bytes(8, "big")
            + int(digest[0]).to_bytes(8, "little")
            + int(digest[1]).to_bytes(8, "little")
        ).digest()
    assert extended(start_of_chain("plan"), digests(IDS), 0) == head.hex()


def test_heads_at_checkpoints_are_those_of_the_chain_there() -> None:
    found = dict(checkpoint_heads("plan", digests(IDS), [2, 5, 6]))
    for step, head in found.items():
        assert head == extended(start_of_chain("plan"), digests(IDS)[:step], 0)
    assert len(set(found.values())) == 3


def test_ids_that_are_alike_have_marks_that_are_not() -> None:
    marks = marks_of(["a", "b", "aa", "a ", ""])
    assert len({tuple(mark) for mark in marks.tolist()}) == 5
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(fed(marks[:1], np.array([0])), fed(marks[:1], np.array([1])))
