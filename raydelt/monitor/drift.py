"""What differs between two sides, channel by channel: features, labels, scores, errors.

    feature   PSI and KS of every column, MMD of all together         label   PSI of the classes
    score     PSI and KS of every component                           error   difference of the rates, z-test

p-values are corrected over the tests of one channel and statistic. A difference is a `drift` where the corrected p is
below the level and its size is not small (PSI, KS, difference of rates; MMD has no scale); `slight` where it is only
improbable. What follows from the channels together:

    concept drift     the error rose, and neither features nor labels drifted: the same inputs now mean something else
    covariate drift   features drifted

Cost: that of the parts. Caution: with the same examples on both sides the tests err on the side of no drift, since
they take the sides for independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.special import ndtr

from raydelt.config.monitor import Drift
from raydelt.examples import UInt64Array
from raydelt.monitor.ks import ks
from raydelt.monitor.mmd import permutation_test
from raydelt.monitor.multiple import adjusted
from raydelt.monitor.profile import Profile
from raydelt.monitor.psi import shift, shift_of
from raydelt.monitor.sketch import Values, values_of
from raydelt.scorers.protocol import Array

Channel = Literal["feature", "label", "score", "error"]
Verdict = Literal["none", "slight", "drift"]
CHANNELS: tuple[Channel, ...] = ("feature", "label", "score", "error")
Rows = tuple[UInt64Array, Array]


@dataclass(frozen=True)
class Test:
    """One test: what of which column, its value, p, corrected p, the rule of thumb for PSI, and the verdict."""

    channel: Channel
    name: str
    statistic: Literal["PSI", "KS", "MMD2", "difference"]
    value: float
    p_value: float
    adjusted: float = 1.0
    size: str = ""
    verdict: Verdict = "none"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what it is called, its profile, and keys [k] and features [k, d] of a sample of it."""

    name: str
    profile: Profile
    features: Rows | None = None


@dataclass(frozen=True)
class Comparison:
    """What differs between a reference and a current side; `concept` says what follows, `notes` what else to know."""

    name: str
    reference: str
    current: str
    rows: tuple[int, int]
    tests: list[Test]
    concept: str | None = None
    notes: list[str] = field(default_factory=list)

    def verdict(self, channel: Channel) -> Verdict | None:
        """The worst verdict of a channel's tests; None where there was nothing to test."""
        found = {test.verdict for test in self.tests if test.channel == channel}
        return next((v for v in ("drift", "slight", "none") if v in found), None)

    @property
    def drifted(self) -> list[Channel]:
        """The channels that drifted."""
        return [channel for channel in CHANNELS if self.verdict(channel) == "drift"]


def compare(
    name: str, reference: Side, current: Side, spec: Drift, *, seed: int, names: Sequence[str] = (), same: bool = False
) -> Comparison:
    """All tests of two sides; `names` are those of the features, `same` says that both hold the same examples."""
    a, b = reference.profile, current.profile
    rows, notes = (a.rows, b.rows), _notes(reference, current)
    if min(rows) < spec.least_rows:
        told = f"{min(rows)} rows on a side are fewer than monitor.drift.least_rows {spec.least_rows}: not compared"
        return Comparison(name, reference.name, current.name, rows, [], None, [*notes, told])
    tests = [*_feature_tests(reference, current, spec, seed, names), *_label_tests(a, b), *_score_tests(a, b, spec)]
    tests += _error_tests(a, b)
    if not any(test.channel == "error" for test in tests):
        notes.append("nothing tells which examples are got wrong: no error channel")
    found = Comparison(name, reference.name, current.name, rows, judged(tests, spec), None, notes)
    return replace(found, concept=concept_of(found, same=same))


def judged(tests: Sequence[Test], spec: Drift) -> list[Test]:
    """The tests with corrected p-values and verdicts."""
    found: list[Test] = []
    for family in dict.fromkeys((test.channel, test.statistic) for test in tests):
        own = [test for test in tests if (test.channel, test.statistic) == family]
        p_values = adjusted(np.array([test.p_value for test in own]), spec.correction)
        for test, p in zip(own, p_values.tolist(), strict=True):
            found.append(replace(test, adjusted=p, verdict=_verdict(test, p, spec)))
    return found


def concept_of(found: Comparison, *, same: bool) -> str | None:
    """What the channels say together; None where the error did not rise."""
    rose = any(test.channel == "error" and test.verdict == "drift" and test.value > 0 for test in found.tests)
    if not rose:
        return "covariate drift" if found.verdict("feature") == "drift" else None
    if found.verdict("label") == "drift":
        return "the error rose with the classes' shares"
    if same:
        return "the error rose on the same examples: the model or the labels changed"
    if found.verdict("feature") == "drift":
        return "covariate drift, and the error rose with it"
    if found.verdict("feature") is None:
        return "the error rose; without features it cannot be told whether the inputs moved too"
    return "concept drift: the error rose while the features did not move"


def z_test(a: Profile, b: Profile) -> tuple[float, float]:
    """The difference of the error rates, current less reference, and its two-sided p-value."""
    difference = (b.error or 0.0) - (a.error or 0.0)
    variance = a.error_variance / max(a.judged, 1) + b.error_variance / max(b.judged, 1)
    if variance <= 0:
        return difference, 1.0 if difference == 0 else 0.0
    return difference, float(2 * ndtr(-abs(difference) / math.sqrt(variance)))


def _verdict(test: Test, p: float, spec: Drift) -> Verdict:
    if p >= spec.level:
        return "none"
    least = {"PSI": spec.psi, "KS": spec.ks, "difference": spec.error, "MMD2": 0.0}[test.statistic]
    return "drift" if abs(test.value) >= least else "slight"


def _feature_tests(a: Side, b: Side, spec: Drift, seed: int, names: Sequence[str]) -> list[Test]:
    if a.features is None or b.features is None:
        return []
    (keys_a, x), (keys_b, y) = a.features, b.features
    if min(len(x), len(y)) < spec.least_rows or x.shape[1] != y.shape[1]:
        return []
    found: list[Test] = []
    for j in range(x.shape[1]):
        name = names[j] if len(names) == x.shape[1] else f"feature {j}"
        found += _column_tests("feature", name, values_of(x[:, j]), values_of(y[:, j]), spec)
    value, p_value = permutation_test(x, y, keys_a, keys_b, seed=seed, permutations=spec.permutations)
    return [*found, Test("feature", "all", "MMD2", value, p_value)]


def _score_tests(a: Profile, b: Profile, spec: Drift) -> list[Test]:
    names = [name for name in b.values if name in a.values]
    return [t for name in names for t in _column_tests("score", name, a.values[name], b.values[name], spec)]


def _column_tests(channel: Channel, name: str, a: Values, b: Values, spec: Drift) -> list[Test]:
    own, (d, p_value) = shift_of(a, b, spec.bins), ks(a, b)
    return [
        Test(channel, name, "PSI", own.psi, own.p_value, size=own.size),
        Test(channel, name, "KS", d, p_value),
    ]


def _label_tests(a: Profile, b: Profile) -> list[Test]:
    if not a.classes or not b.classes:
        return []
    names = sorted(a.classes.keys() | b.classes.keys())
    counts = (np.array([side.classes.get(name, 0) for name in names]) for side in (a, b))
    own = shift(*counts)
    return [Test("label", "classes", "PSI", own.psi, own.p_value, size=own.size)]


def _error_tests(a: Profile, b: Profile) -> list[Test]:
    if a.error is None or b.error is None:
        return []
    difference, p_value = z_test(a, b)
    return [Test("error", "error rate", "difference", difference, p_value)]


def _notes(a: Side, b: Side) -> list[str]:
    """What is odd about the sides: columns that only one has, classes that are new, values that are not finite."""
    found = []
    for own, other in ((a, b), (b, a)):
        alone = [name for name in own.profile.values if name not in other.profile.values]
        if alone:
            found.append(f"only {own.name} has {', '.join(alone)}")
        bad = {name: n for name, n in own.profile.bad.items() if n}
        found += [f"{n} values of {name} in {own.name} are not finite, and were left out" for name, n in bad.items()]
    if a.profile.classes:
        new = [name for name in b.profile.classes if name not in a.profile.classes]
        found += [f"classes that {a.name} does not have: {', '.join(new)}"] if new else []
    return found
