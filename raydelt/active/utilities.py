"""How much a label would tell: uncertainty of one model, disagreement of a committee, or a function of the user's own.

    entropy = -sum_c p_c ln p_c    margin = 1 - (p_(1) - p_(2))    least_confidence = 1 - max_c p_c      p [n, C]
    vote_entropy = -sum_c v_c ln v_c,  v_c = share of the R members whose most probable class is c       p [R, n, C]
    consensus_kl = mean_r KL(p_r || q),  q = mean_r p_r        bald = H(q) - mean_r H(p_r)               p [R, n, C]

All are in nats or in [0, 1], and higher means ask sooner. `consensus_kl` and `bald` are one quantity in exact
arithmetic, the Jensen-Shannon divergence of the members; both names are in use. Equal votes of a member go to the
lowest class. Cost: O(R n C). Settles 2009; Dagan and Engelson 1995 (votes); McCallum and Nigam 1998 (KL); Houlsby et
al. 2011 (BALD).

Caution: all of them rank noise and outliers high, and the k highest are often near-copies of each other: diversify.
"""

from __future__ import annotations

import importlib
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from raydelt.errors import InputError, SpecError
from raydelt.scorers.protocol import Array

SUM_TOLERANCE = 1e-3


def entropy(p: Array) -> Array:
    """Entropy [n] of probabilities [n, C], in nats."""
    return _entropy(_checked(p, "entropy"))


def margin(p: Array) -> Array:
    """One minus the lead [n] of the most probable class over the next, of probabilities [n, C]."""
    top = np.sort(_checked(p, "margin"), axis=-1)
    # 1 - p_(1) loses its digits where p_(1) is near 1; the sum of the others keeps them.
    lead: Array = top[..., :-1].sum(axis=-1) + top[..., -2]
    return lead


def least_confidence(p: Array) -> Array:
    """The probability [n] of all classes but the most probable, of probabilities [n, C]."""
    rest: Array = np.sort(_checked(p, "least_confidence"), axis=-1)[..., :-1].sum(axis=-1)
    return rest


def vote_entropy(p: Array) -> Array:
    """Entropy [n] of the members' votes, of probabilities [R, n, C]."""
    p = _checked(p, "vote_entropy", members=True)
    votes = p.argmax(axis=-1)
    shares = np.stack([(votes == c).mean(axis=0) for c in range(p.shape[-1])], axis=-1)
    return _entropy(shares)


def consensus_kl(p: Array) -> Array:
    """Mean divergence [n] of the members from their mean, of probabilities [R, n, C]."""
    p = _checked(p, "consensus_kl", members=True)
    mean = p.mean(axis=0)
    # The mean of members above 0 can still be 0: 1 / R of the smallest float is.
    ratio = np.divide(p, mean, out=np.ones_like(p), where=(p > 0) & (mean > 0))
    divergence: Array = (p * np.log(ratio)).sum(axis=-1).mean(axis=0)
    return np.asarray(np.maximum(divergence, 0.0))


def bald(p: Array) -> Array:
    """Mutual information [n] of the label and the choice of a member, of probabilities [R, n, C]."""
    p = _checked(p, "bald", members=True)
    information: Array = _entropy(p.mean(axis=0)) - _entropy(p).mean(axis=0)
    return np.asarray(np.maximum(information, 0.0))


UTILITIES: dict[str, Callable[[Array], Array]] = {
    "entropy": entropy,
    "margin": margin,
    "least_confidence": least_confidence,
    "vote_entropy": vote_entropy,
    "consensus_kl": consensus_kl,
    "bald": bald,
}
COMMITTEE = frozenset({"vote_entropy", "consensus_kl", "bald"})
"""Those of the utilities that read the probabilities of a committee, [R, n, C]."""
RANDOM = "random"
NAMES = (*UTILITIES, RANDOM)
"""What a spec may name beside `module:function`; `random` asks no model."""


@dataclass(frozen=True)
class Predictor:
    """What a function of the user's own may ask of a committee, under the names that modAL gives to it.

    `probabilities` maps features [n, d] to probabilities [R, n, C] of R `members` and C `classes`.
    """

    probabilities: Callable[[Array], Array]
    members: int
    classes: int

    def __len__(self) -> int:
        return self.members

    def __iter__(self) -> Iterator[Predictor]:
        """The members, each a committee of its own."""
        return (Predictor(partial(_of_member, self.probabilities, r), 1, self.classes) for r in range(self.members))

    @property
    def classes_(self) -> Array:
        """The classes [C] by number."""
        return np.arange(self.classes)

    def predict_proba(self, x: Array) -> Array:
        """Mean probabilities [n, C]."""
        return np.asarray(self.probabilities(x).mean(axis=0))

    def predict(self, x: Array) -> Array:
        """The most probable class [n]."""
        return np.asarray(self.predict_proba(x).argmax(axis=-1))

    def vote_proba(self, x: Array) -> Array:
        """Probabilities of every member [n, R, C]."""
        return np.asarray(self.probabilities(x).transpose(1, 0, 2))

    def vote(self, x: Array) -> Array:
        """The most probable class of every member [n, R]."""
        return np.asarray(self.vote_proba(x).argmax(axis=-1))


@dataclass(frozen=True)
class Custom:
    """A query function in the manner of modAL: `f(classifier, x, n_instances=k, **options)`."""

    name: str
    function: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, classifier: Predictor, x: Array, k: int) -> Array:
        """Rows [min(k, m)] that the function picks from the features [m, d] of a shortlist.

        Raises:
            SpecError: it fails, or returns no integers, rows out of range, a row twice, or not as many as asked.
        """
        k = min(k, len(x))
        if k == 0:
            return np.empty(0, np.int64)
        try:
            rows = np.asarray(_indices(self.function(classifier, x, n_instances=k, **self.options)))
        except Exception as error:
            raise SpecError(
                f"query function {self.name!r} failed ({type(error).__name__}: {error}): it is called as "
                f"`{self.name.rpartition(':')[2]}(classifier, x, n_instances={k})`"
            ) from error
        fault = _fault(rows, k, len(x))
        if fault:
            raise SpecError(
                f"query function {self.name!r} {fault}: return {k} distinct row numbers below {len(x)}, "
                "alone or first in a tuple"
            )
        return np.atleast_1d(rows).astype(np.int64)


def custom(target: str, **options: Any) -> Custom:
    """The query function at `module:function`, called with these options.

    Raises:
        SpecError: it cannot be loaded, or is no function.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise SpecError(f"query function {target!r} must read `module:function`")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"query function {target!r} cannot be loaded ({error}): check `module:function`") from error
    if not callable(found):
        raise SpecError(f"query function {target!r} is a {type(found).__name__}: name a function")
    return Custom(target, found, options)


def _of_member(probabilities: Callable[[Array], Array], member: int, x: Array) -> Array:
    return np.asarray(probabilities(x)[member : member + 1])


def _entropy(p: Array) -> Array:
    total: Array = -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)
    return np.asarray(np.maximum(total, 0.0))


def _checked(p: Array, name: str, *, members: bool = False) -> Array:
    """Probabilities as float64, of the shape that a utility reads."""
    p = np.asarray(p, np.float64)
    shape = "[R, n, C]" if members else "[n, C]"
    if p.ndim != (3 if members else 2) or p.shape[-1] < 2 or (members and not len(p)):
        raise InputError(f"{name} got probabilities of shape {list(p.shape)}: give {shape} with at least two classes")
    if not (np.isfinite(p).all() and (p >= 0).all() and (np.abs(p.sum(axis=-1) - 1) <= SUM_TOLERANCE).all()):
        raise InputError(f"{name} got rows that are no probabilities: they must be finite, at least 0 and sum to 1")
    return p


def _indices(found: Any) -> Any:
    """The row numbers in what a query function returns: (rows, instances), rows, or one row."""
    if isinstance(found, tuple) and found and not all(isinstance(entry, numbers.Integral) for entry in found):
        return found[0]
    return found


def _fault(rows: Array, k: int, m: int) -> str | None:
    if rows.ndim > 1 or not np.issubdtype(rows.dtype, np.integer):
        return f"returned {rows.dtype} of shape {list(rows.shape)}"
    rows = np.atleast_1d(rows)
    if len(rows) != k:
        return f"returned {len(rows)} rows where {k} were asked for"
    if rows.min() < 0 or rows.max() >= m:
        return f"returned row {int(rows.min()) if rows.min() < 0 else int(rows.max())} of {m}"
    return "returned a row twice" if len(np.unique(rows)) < k else None
