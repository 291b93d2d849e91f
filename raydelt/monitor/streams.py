"""Change detection on streams that are ordered by event time: ADWIN, KSWIN and Page-Hinkley, as river has them.

    values at event times -> means of windows of `window` seconds, closed once the watermark has passed their end
    watermark = latest event time - lateness        what comes for a closed window is counted as late, and left out

A window's mean is the exactly rounded sum of its values by their number, so the order in which events arrive within
`lateness` of each other changes nothing. A detector starts anew after each alarm and after `memory` windows without
one; its state therefore is the window means since it last did, which are kept as plain numbers and replayed after a
restart: a restored stream goes on with the alarms of one that never stopped. Cost: amortised O(1) per window; memory
8 bytes for each value of an open window and for each of at most `memory` means. Sources: Bifet and Gavalda 2007
(ADWIN); Raab et al. 2020 (KSWIN); Page 1954.

Caution: detectors depend on the order and cannot be merged: feed one stream from one place, never round robin from
many. What can be merged are the sums of windows (`WindowSums`), before the detector sees them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from raydelt.errors import InputError, SpecError
from raydelt.rank.noise import from_units, unit_sum
from raydelt.scorers.protocol import Array

Kind = Literal["adwin", "kswin", "page_hinkley"]


@dataclass(frozen=True)
class Settings:
    """`delta` is ADWIN's, `alpha` KSWIN's level, `threshold` Page-Hinkley's; `memory` the means kept, in windows."""

    kind: Kind = "adwin"
    window: float = 86_400.0
    lateness: float = 0.0
    delta: float = 0.002
    alpha: float = 0.0001
    threshold: float = 50.0
    memory: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window <= 0 or self.lateness < 0 or self.memory < 1:
            raise SpecError("streams need a window above 0, lateness of at least 0 and memory of at least 1")


@dataclass(frozen=True)
class Alarm:
    """A change: the start of the window that raised it, its place among all windows, and its mean."""

    time: float
    window: int
    mean: float


def detector_of(settings: Settings) -> Any:
    """A fresh detector of river."""
    from river import drift

    make: dict[str, Callable[[], Any]] = {
        "adwin": lambda: drift.ADWIN(delta=settings.delta),
        "kswin": lambda: drift.KSWIN(alpha=settings.alpha, seed=settings.seed),
        "page_hinkley": lambda: drift.PageHinkley(threshold=settings.threshold),
    }
    return make[settings.kind]()


@dataclass
class Stream:
    """One stream: open windows, means since the detector began, and the alarms so far."""

    settings: Settings = field(default_factory=Settings)
    open: dict[int, list[float]] = field(default_factory=dict)
    means: list[float] = field(default_factory=list)
    closed: int = 0
    next: int | None = None
    latest: float = -math.inf
    late: int = 0
    alarms: list[Alarm] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._detector = detector_of(self.settings)
        for mean in self.means:
            self._detector.update(mean)

    def feed(self, times: Sequence[float] | Array, values: Sequence[float] | Array) -> list[Alarm]:
        """Take events [n] in any order within the lateness; the alarms that they raise.

        Raises:
            InputError: a time or value is not finite.
        """
        times, values = np.asarray(times, np.float64), np.asarray(values, np.float64)
        if times.shape != values.shape or not (np.isfinite(times).all() and np.isfinite(values).all()):
            raise InputError("a stream takes as many finite times as finite values: drop or mend the others")
        places = np.floor(times / self.settings.window).astype(np.int64)
        for place, value in zip(places.tolist(), values.tolist(), strict=True):
            if self.next is not None and place < self.next:
                self.late += 1
            else:
                self.open.setdefault(place, []).append(value)
        self.latest = max(self.latest, float(times.max(initial=-math.inf)))
        if self.latest == -math.inf:
            return []
        return self._close(math.floor((self.latest - self.settings.lateness) / self.settings.window))

    def finish(self) -> list[Alarm]:
        """Close every window, at the end of the stream."""
        return self._close(max(self.open) + 1) if self.open else []

    def state(self) -> dict[str, Any]:
        """All there is to know, as plain data for JSON."""
        return {
            "settings": asdict(self.settings),
            "open": {str(place): values for place, values in sorted(self.open.items())},
            "means": list(self.means),
            "closed": self.closed,
            "next": self.next,
            "latest": None if self.latest == -math.inf else self.latest,
            "late": self.late,
            "alarms": [asdict(alarm) for alarm in self.alarms],
        }

    @staticmethod
    def restored(state: dict[str, Any]) -> Stream:
        """The stream that gave this state."""
        return Stream(
            Settings(**state["settings"]),
            {int(place): list(values) for place, values in state["open"].items()},
            list(state["means"]),
            state["closed"],
            state["next"],
            -math.inf if state["latest"] is None else state["latest"],
            state["late"],
            [Alarm(**alarm) for alarm in state["alarms"]],
        )

    def _close(self, before: int) -> list[Alarm]:
        found = []
        for place in sorted(p for p in self.open if p < before):
            values = self.open.pop(place)
            mean = math.fsum(values) / len(values)
            if self._changed(mean):
                found.append(Alarm(place * self.settings.window, self.closed, mean))
            self.closed += 1
        self.next = before if self.next is None else max(self.next, before)
        self.alarms += found
        return found

    def _changed(self, mean: float) -> bool:
        if len(self.means) >= self.settings.memory:
            self._anew()
        self._detector.update(mean)
        self.means.append(mean)
        if not self._detector.drift_detected:
            return False
        self._anew()
        return True

    def _anew(self) -> None:
        self._detector, self.means = detector_of(self.settings), []


def alarms_of(means: Iterable[tuple[float, float]], settings: Settings) -> list[Alarm]:
    """The alarms of (time, mean) of windows that are complete and in order."""
    stream, found = Stream(settings), []
    for index, (time, mean) in enumerate(means):
        if stream._changed(mean):
            found.append(Alarm(time, index, mean))
    return found


@dataclass(frozen=True)
class WindowSums:
    """Monoid of (rows, exact sum) by window, over events with values in [0, 1]; finish gives (time, mean) in order."""

    window: float

    def zero(self) -> dict[int, tuple[int, int]]:
        return {}

    def add(self, state: dict[int, tuple[int, int]], times: Array, values: Array) -> dict[int, tuple[int, int]]:
        known = np.isfinite(times) & np.isfinite(values)
        places, own = np.floor(times[known] / self.window).astype(np.int64), values[known].astype(np.float64)
        order = np.argsort(places, kind="stable")
        starts = np.flatnonzero(np.diff(places[order], prepend=np.iinfo(np.int64).min))
        groups = np.split(own[order], starts[1:]) if len(starts) else []
        added = {
            int(places[order[start]]): (len(values), unit_sum(values))
            for start, values in zip(starts, groups, strict=True)
        }
        return self.merge(state, added)

    def merge(self, left: dict[int, tuple[int, int]], right: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        both = {p: (left.get(p, (0, 0)), right.get(p, (0, 0))) for p in left.keys() | right.keys()}
        return {p: (a[0] + b[0], a[1] + b[1]) for p, (a, b) in both.items()}

    def finish(self, state: dict[int, tuple[int, int]]) -> list[tuple[float, float]]:
        return [(p * self.window, from_units(total) / n) for p, (n, total) in sorted(state.items())]
