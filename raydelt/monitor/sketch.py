"""A mergeable record of the values of a column: exact up to a number of distinct values, and binned beyond it.

    key(v)  = bits(float32 v) xor (all ones if v < 0 else 2^31)       key(a) < key(b) exactly when a < b
    state   = (s, {key >> s: count})        s the least shift with at most `limit` distinct keys

The state is a function of the values alone: merged in any order and of any parts it comes out the same. While s = 0
(no more than `limit` distinct values) quantiles and distribution functions are exact; beyond, values that share a bin
count as its upper end, and between limit / 2 and limit bins are occupied. Cost: a sort per batch; memory 12 bytes a
bin, 0.8 MB at the default limit. The keys are the well-known ones of radix sorts for IEEE 754.

Caution: values are taken as float32, so float64 values that differ in the last digits count as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydelt.scorers.protocol import Array

LIMIT = 65_536
SIGN = np.uint32(1 << 31)


@dataclass(frozen=True, eq=False)
class Values:
    """How often each value occurs: shift, sorted keys uint32 [k] and counts int64 [k]."""

    shift: int
    keys: Array
    counts: Array

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def upper(self) -> Array:
        """The greatest float32 [k] that each key stands for."""
        ends = (self.keys << np.uint32(self.shift)) | np.uint32((1 << self.shift) - 1)
        bits = np.where(ends & SIGN, ends ^ SIGN, ~ends).astype(np.uint32)
        found: Array = bits.view(np.float32)
        return found

    def quantiles(self, levels: Array) -> Array:
        """The least values [q] float32 that at least a share `levels` [q] of all values does not exceed.

        Raises:
            ValueError: there are no values.
        """
        if not len(self.keys):
            raise ValueError("no values were seen, so there are no quantiles")
        reached = np.cumsum(self.counts)
        # As numpy's inverted_cdf: 0.1 times 30 is 3, whatever its last bit.
        wanted = np.ceil(np.asarray(levels, np.float64) * reached[-1] - 1e-9)
        found: Array = self.upper[np.searchsorted(reached, np.maximum(wanted, 1), side="left")]
        return found

    def below(self, edges: Array) -> Array:
        """How many values [e] int64 are at most each edge [e]."""
        reached = np.concatenate([[0], np.cumsum(self.counts)])
        found: Array = reached[np.searchsorted(self.upper, np.asarray(edges, np.float32), side="right")]
        return found


NOTHING = Values(0, np.empty(0, np.uint32), np.empty(0, np.int64))


def values_of(values: Array, *, limit: int = LIMIT) -> Values:
    """The record of finite values [n]."""
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32)
    keys, counts = np.unique(np.where(bits & SIGN, ~bits, bits ^ SIGN), return_counts=True)
    return _within(Values(0, keys.astype(np.uint32), counts.astype(np.int64)), limit)


def merge(left: Values, right: Values, *, limit: int = LIMIT) -> Values:
    """The record of both sets of values."""
    left, right = aligned(left, right)
    keys, where = np.unique(np.concatenate([left.keys, right.keys]), return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, where, np.concatenate([left.counts, right.counts]))
    return _within(Values(left.shift, keys, counts), limit)


def aligned(left: Values, right: Values) -> tuple[Values, Values]:
    """Both records in bins of one width, the wider of the two."""
    shift = max(left.shift, right.shift)
    return _shifted(left, shift), _shifted(right, shift)


def _within(values: Values, limit: int) -> Values:
    while len(values.keys) > limit:
        values = _shifted(values, values.shift + 1)
    return values


def _shifted(values: Values, shift: int) -> Values:
    if shift == values.shift:
        return values
    wide = values.keys >> np.uint32(shift - values.shift)
    keys, first = np.unique(wide, return_index=True)
    counts = np.add.reduceat(values.counts, first) if len(first) else values.counts
    return Values(shift, keys, counts)
