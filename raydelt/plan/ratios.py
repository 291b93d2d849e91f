"""The cumulative ratios that a plan chooses among, and how the law of each comes about from what was probed.

    probed: single buckets    ratio k is the mixture of the laws of the best k, by the pool theorem
    probed: the ratios        ratio k has a law of its own; nothing about mixtures is assumed

A mixture teaches what no bucket of it does alone, since its parts are unlike each other; the theorem does not know
that. On seven small classification sets at three budgets (tests/bench/plan_proof.py) the recommended of four ratios
was within noise of the really best in 20 of 21 cases by probes of ratios, and in 11 of 18 by as many probes of single
buckets, those of the seventh set being such that no law fits them. Nothing is measured here. Cost: O(buckets).

Caution: a probe of a ratio says nothing about its parts, so buckets cannot be combined in another way afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydelt.errors import SpecError
from raydelt.plan.laws import Curves
from raydelt.scorers.protocol import Array


@dataclass(frozen=True)
class Ratios:
    """Per ratio [p] the laws it is made of and its pool; per law [p] its size. `own`: each ratio has a law of its own.

    Sizes are in the points' unit.
    """

    members: tuple[tuple[int, ...], ...]
    sizes: Array
    pools: Array
    own: bool

    @property
    def shares(self) -> Array:
        """What each ratio [p] is of the whole."""
        found: Array = self.pools / self.pools[-1]
        return found


def ratios_of(curves: Curves, sizes: Sequence[float] | None = None, *, own: bool = False) -> Ratios:
    """The ratios of buckets of `sizes` [p] (as measured by default); `own` where the curves are those of the ratios.

    Raises:
        SpecError: the sizes are not those of as many buckets.
    """
    p = len(curves.b)
    members = tuple((k,) if own else tuple(range(k + 1)) for k in range(p))
    if sizes is None:
        found = curves.size
    else:
        found = np.asarray(sizes, np.float64)
        if len(found) != p or not np.all(np.isfinite(found) & (found > 0)):
            raise SpecError(f"sizes {sizes}: give one above 0 for each of the {p} buckets")
        found = np.cumsum(found) if own else found
    return Ratios(members, found, found if own else np.cumsum(found), own)
