"""What a budget is spent on where it is not the scores themselves: keys of a sample, or draws within strata.

A view gives rows of the ranking another score, group and eligibility, so that the same exact cut by radix histograms
(`raydelt.rank.radix`) keeps the highest keys of a sample, or the lowest draws of every stratum. A view is a function
of a row's id and score alone, so it does not depend on the layout of the parts. Cost: O(n) and a hash of every id.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import Sample, Strata
from raydelt.examples import EXAMPLE_ID, column_of, draw_keys
from raydelt.models.moments import Moments
from raydelt.rank import keys, radix
from raydelt.rank.cuts import Cut
from raydelt.rank.keys import ELIGIBLE, GATE, SCORE
from raydelt.scorers.protocol import Array
from raydelt.select import strata
from raydelt.select.sampling import Gumbel, InclusionSum, Poisson, Priority, log_weights, poisson_threshold

STRATUM = "stratum"
METHODS: dict[str, Poisson | Priority | Gumbel] = {
    "poisson": Poisson(),
    "priority": Priority(),
    "gumbel": Gumbel(),
}


class View(Protocol):
    """Rows of the ranking as a budget sees them."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows [n] with other values in some columns."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Keys of a sample in place of the scores, whose mean and deviation over all examples are known."""

    sample: Sample
    mean: float
    std: float
    seed: int

    def __call__(self, table: pa.Table) -> pa.Table:
        drawn = draw_keys(table[EXAMPLE_ID].to_pylist())
        return replaced(table, SCORE, METHODS[self.sample.method].keys(self.log_weights(table), drawn, self.seed))

    def log_weights(self, table: pa.Table) -> Array:
        """Logarithms [n] of the rows' sampling weights."""
        options = {"mean": self.mean, "std": self.std, "temperature": self.sample.temperature}
        found: Array = log_weights(column_of(table, SCORE), **options)
        return found

    def importance(self, table: pa.Table, threshold: float) -> tuple[Array, Array]:
        """Inclusion probability [n] (NaN where it has no closed form) and weight [n] of kept rows."""
        return METHODS[self.sample.method].importance(self.log_weights(table), threshold)


@dataclass(frozen=True)
class Stratified:
    """The stratum of the score as the group, and a random draw as the score; the highest scores are set aside."""

    strata: Strata
    low: float
    high: float
    aside: Cut
    seed: int

    def __call__(self, table: pa.Table) -> pa.Table:
        scores = column_of(table, SCORE)
        allowed = column_of(table, ELIGIBLE).astype(bool) & ~self.aside.mask(table)
        # The lowest draw is kept first; 53 bits of it are more than enough, and equal ones fall to the id.
        draw = -(strata.draws(draw_keys(table[EXAMPLE_ID].to_pylist()), self.seed) >> np.uint64(11)).astype(np.float64)
        table = table.append_column(STRATUM, pa.array(strata.stratum(scores, self.low, self.high, self.strata.count)))
        # The gate has no say any more: a stratum keeps at random.
        table = replaced(replaced(table, ELIGIBLE, allowed), GATE, np.ones(len(scores), np.bool_))
        return replaced(table, SCORE, draw)


def replaced(table: pa.Table, name: str, values: Array) -> pa.Table:
    """The table with other values [n] in one column."""
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def read_through(read: radix.Read, view: View) -> radix.Read:
    """The reading of parts as a view shows them."""
    return functools.partial(_read, read, view)


def _read(read: radix.Read, view: View, part: Any, columns: Sequence[str]) -> pa.Table:
    own = [name for name in dict.fromkeys((*columns, ELIGIBLE, GATE, SCORE, EXAMPLE_ID)) if name != STRATUM]
    return view(read(part, own)).select(list(columns))


def sampled(sample: Sample, source: radix.Source, *, seed: int) -> Sampled:
    """The view that a sample is drawn by."""
    found = cluster.parallel(_moments, [(source, part) for part in source.parts], label="select: moments")
    moments = functools.reduce(Moments.merge, found)
    return Sampled(sample, float(moments.mean[0]), float(np.sqrt(moments.m2[0] / max(moments.count, 1))), seed)


def _moments(source: radix.Source, part: Any) -> Moments:
    table = source.read(part, [ELIGIBLE, GATE, SCORE])
    return Moments.of(column_of(table, SCORE)[keys.levels(table) == keys.BEST].reshape(-1, 1))


def poisson_bar(view: Sampled, source: radix.Source, k: int) -> float:
    """The threshold at which the examples that pass the gate have inclusion probabilities that sum to k."""

    def sum_of(threshold: float) -> float:
        calls = [(view, source, threshold, part) for part in source.parts]
        total = InclusionSum(threshold)
        return total.finish(sum(cluster.parallel(_inclusion, calls, label="select: inclusion")))

    return poisson_threshold(sum_of, k)


def _inclusion(view: Sampled, source: radix.Source, threshold: float, part: Any) -> int:
    table = source.read(part, [ELIGIBLE, GATE, SCORE])
    own = view.log_weights(table)[keys.levels(table) == keys.BEST]
    total = InclusionSum(threshold)
    return total.add(total.zero(), own)


def stratified(spec: Strata, source: radix.Source, k: int, *, seed: int) -> tuple[Stratified, Array]:
    """The view that strata are kept by, and the budget [strata] of each."""
    counted = radix.census(source)
    eligible = int(counted.eligible.sum())
    aside = strata.set_aside(eligible, spec.hardest)
    top = radix.cut(source, np.array([aside]), counted)
    found = cluster.parallel(_range, [(source, top, part) for part in source.parts], label="select: range")
    ranges = [one for one in found if one is not None]
    low, high = min(one[0] for one in ranges), max(one[1] for one in ranges)
    view = Stratified(spec, low, high, top, seed)
    counts = sum(cluster.parallel(_counts, [(source, view, part) for part in source.parts], label="select: strata"))
    return view, strata.budgets(np.asarray(counts), k)


def _allowed(source: radix.Source, top: Cut, part: Any) -> Array:
    table = source.read(part, [ELIGIBLE, GATE, SCORE, EXAMPLE_ID])
    own: Array = column_of(table, SCORE)[column_of(table, ELIGIBLE).astype(bool) & ~top.mask(table)]
    return own


def _range(source: radix.Source, top: Cut, part: Any) -> tuple[float, float] | None:
    own = _allowed(source, top, part)
    return (float(own.min()), float(own.max())) if len(own) else None


def _counts(source: radix.Source, view: Stratified, part: Any) -> Array:
    return strata.counts(_allowed(source, view.aside, part), view.low, view.high, view.strata.count)
