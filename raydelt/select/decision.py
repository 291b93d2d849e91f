"""What the budget of a spec means for given examples: the cut in the order (eligible, gate, score, example_id).

    ratio, top_k:  the k highest eligible examples, or with quotas the k_c highest of every class
    threshold:     every eligible example that passes the gate with a score of at least the value
    token_budget:  the longest prefix, from the highest eligible example down, with at most that many tokens in all

With `sample` or `strata` the budget goes by other keys (`raydelt.select.views`). One pass counts, radix
passes find the cut, one pass counts what is kept of every part. Memory of a task: one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import Sample, Select
from raydelt.corpus.tokens import TOKENS
from raydelt.errors import InputError, SpecError
from raydelt.examples import EXAMPLE_ID, LABEL, column_of
from raydelt.rank import keys, radix
from raydelt.rank.cuts import Bar, Cut, groups_of
from raydelt.scorers.protocol import Array
from raydelt.select.budget import kept, quotas
from raydelt.select.views import STRATUM, Sampled, View, poisson_bar, read_through, sampled, stratified

# Below every key of a sample; JSON has no infinity.
LOWEST = -1e308


@dataclass(frozen=True)
class Decision:
    """The cut, how many examples each group is allowed and has, and how many are kept of every part.

    `view` is what the cut looks at in place of the rows themselves; `drawn` is the sample that it keeps, and its
    threshold. `cuts` are the scores at which the groups are cut, where a score decides: None for a group that the gate
    cuts or that is kept whole.
    """

    select: Select
    cut: Cut
    per_group: tuple[int, ...]
    eligible: tuple[int, ...]
    counts: tuple[int, ...]
    view: View | None = None
    drawn: tuple[Sampled, float] | None = None
    cuts: tuple[float | None, ...] = ()

    def mask(self, table: pa.Table) -> Array:
        """Which rows [n] of the ranking are kept."""
        return self.cut.mask(table if self.view is None else self.view(table))

    def cut_scores(self, table: pa.Table) -> Array | None:
        """The score [n] at which each row is cut, NaN where its gate or group decides; None where no score does."""
        if not self.cuts:
            return None
        found: Array = np.array(self.cuts, np.float64)[groups_of(table, self.group)]
        found[keys.levels(table) != keys.BEST] = np.nan
        return found

    def importance(self, table: pa.Table) -> tuple[Array, Array]:
        """Inclusion probability [n], NaN where it is not known, and weight [n] of kept rows."""
        if self.drawn is None:
            return np.full(table.num_rows, np.nan), np.ones(table.num_rows)
        view, threshold = self.drawn
        return view.importance(table, threshold)

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def group(self) -> str | None:
        """The column of the group that each budget is for."""
        return LABEL if self.select.quotas is not None else None

    def reason(self, group: int, gate: bool) -> str:
        """Why an example of this group is kept."""
        if self.select.method == "threshold":
            return f"score at least {self.select.value:g}"
        if self.select.sample is not None:
            return f"drawn by {self.select.sample.method} sampling, {self.per_group[0]} of {self.eligible[0]}"
        if self.select.strata is not None:
            return f"drawn within its stratum of the score, {self.select.strata.count} strata in all"
        text = f"within {self.select.value:.0f} tokens from the highest"
        if self.select.method != "token_budget":
            where = "" if self.select.quotas is None else f" of class {group}"
            text = f"among the highest {self.per_group[group]} of {self.eligible[group]}{where}"
        return text if gate else f"{text}, though below the gate"

    def facts(self) -> dict[str, Any]:
        """What a later stage needs to stand by this decision."""
        told: dict[str, Any] = {
            "per_group": list(self.per_group),
            "eligible": list(self.eligible),
            "cuts": list(self.cuts),
        }
        if self.drawn is not None:
            view, threshold = self.drawn
            told["drawn"] = {"mean": view.mean, "std": view.std, "threshold": max(threshold, LOWEST)}
        return told


def source_of(select: Select, parts: Sequence[Any], read: radix.Read, classes: int) -> radix.Source:
    """The rows to decide on, with the group and the weight that the spec's budget goes by."""
    group = LABEL if select.quotas is not None else None
    weight = TOKENS if select.method == "token_budget" else None
    return radix.Source(parts, read, group, max(classes, 1) if group is not None else 1, weight)


def decide(select: Select, source: radix.Source, *, seed: int) -> Decision:
    """The decision over all rows of a source.

    Raises:
        SpecError: the budget cannot be met or keeps nothing.
        InputError: nothing was scored, a score is not finite, or ids are not unique.
    """
    counted = radix.census(source)
    eligible, total = counted.eligible, int(counted.counts.sum())
    if total == 0:
        raise InputError("no example has a score, so nothing can be ranked: look at quarantine/ for the reasons")
    if eligible.sum() == 0:
        raise SpecError(f"rank.combine.exclude and monitor.retire leave none of the {total} examples: exclude fewer")
    per_group = _per_group(select, eligible, total)
    found = _found(select, source, per_group, counted, seed=seed)
    decision = replace(found, per_group=tuple(per_group.tolist()), eligible=tuple(eligible.tolist()))
    if decision.rows == 0:
        raise SpecError(_nothing_kept(select))
    return decision


def _found(select: Select, source: radix.Source, per_group: Array, counted: radix.Census, *, seed: int) -> Decision:
    """The cut, what it looks at, and what it keeps of every part."""
    k = int(per_group[0])
    if select.sample is not None:
        return _drawn(select, select.sample, source, k, seed=seed)
    if select.strata is not None:
        view, budgets = stratified(select.strata, source, k, seed=seed)
        seen = replace(source, read=read_through(source.read, view), group=STRATUM, groups=len(budgets))
        cut = radix.cut(seen, budgets, radix.census(seen))
        return Decision(select, cut, (), (), _counts(seen, cut), view)
    cut = _at_least(select.value) if select.method == "threshold" else radix.cut(source, per_group, counted)
    cuts = tuple(None if b is None or b.level != keys.BEST else keys.score_of(b.key) for b in cut.bars)
    return Decision(select, cut, (), (), _counts(source, cut), cuts=cuts)


def _drawn(select: Select, sample: Sample, source: radix.Source, k: int, *, seed: int) -> Decision:
    """A sample of k examples, or of k on average."""
    view = sampled(sample, source, seed=seed)
    seen = replace(source, read=read_through(source.read, view))
    if sample.method == "poisson":
        threshold = poisson_bar(view, source, k)
        cut = _at_least(max(threshold, LOWEST))
    else:
        cut = radix.cut(seen, np.array([k]), radix.census(seen))
        calls = [(seen, cut, part) for part in seen.parts]
        threshold = max(cluster.parallel(_highest_left, calls, label="select: threshold"))
    return Decision(select, cut, (), (), _counts(seen, cut), view, (view, threshold))


def _at_least(score: float) -> Cut:
    """What passes the gate with a score of at least this."""
    return Cut((Bar(keys.BEST, int(keys.score_keys(np.array([score]))[0])),))


def _highest_left(source: radix.Source, cut: Cut, part: Any) -> float:
    """The highest key of a part's examples that pass the gate and are not kept; -inf where there are none."""
    table = source.read(part, source.columns(keys.SCORE, EXAMPLE_ID))
    left = ~cut.mask(table) & (keys.levels(table) == keys.BEST)
    return float(np.max(column_of(table, keys.SCORE)[left], initial=-np.inf))


def _counts(source: radix.Source, cut: Cut) -> tuple[int, ...]:
    calls = [(source, cut, part) for part in source.parts]
    return tuple(cluster.parallel(_count_kept, calls, label="select: count"))


def stood_by(select: Select, facts: dict[str, Any], counts: Sequence[int], *, seed: int) -> Decision:
    """The decision that an earlier stage took, seen from parts that hold the kept rows alone."""
    everything, drawn = Cut((Bar(0, 0),)), None
    if select.sample is not None:
        told = facts["drawn"]
        drawn = Sampled(select.sample, told["mean"], told["std"], seed), told["threshold"]
    known = tuple(facts["per_group"]), tuple(facts["eligible"])
    return Decision(select, everything, *known, tuple(counts), drawn=drawn, cuts=tuple(facts["cuts"]))


def _per_group(select: Select, eligible: Array, total: int) -> Array:
    """The budget [G] of each group: examples, or tokens."""
    if select.method in ("threshold", "token_budget"):
        return np.array([int(select.value)])
    n = int(eligible.sum())
    k = kept(select, n, excluded=total - n)
    return quotas(select.quotas, k, eligible.tolist()) if select.quotas is not None else np.array([k])


def _count_kept(source: radix.Source, cut: Cut, part: Any) -> int:
    return int(np.count_nonzero(kept_of(source, cut, part)))


def kept_of(source: radix.Source, cut: Cut, part: Any) -> Array:
    """Which rows [n] of a part are kept; the ids are read only where rows tie with the cut."""
    table = source.read(part, source.columns(keys.SCORE))
    return cut.mask(source.read(part, source.columns(keys.SCORE, EXAMPLE_ID)) if cut.ties(table) else table)


def _nothing_kept(select: Select) -> str:
    if select.method == "token_budget":
        return f"select.value {select.value:.0f}: the highest example alone has more tokens: raise the budget"
    return f"select.value {select.value:g}: no example has a score that high: lower the threshold"
