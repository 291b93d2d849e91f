"""What a run may claim, in words and numbers, for the page and the terminal alike. Pure functions of the summary.

A difference counts as shown only where its 95 % interval over the seeds leaves zero out; one seed shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MINUS = "\N{MINUS SIGN}"
GIB = 2**30
SAMPLES = {"random": "a random subset of the same size", "full": "the full corpus"}


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)


@dataclass(frozen=True)
class Metric:
    """How the values and differences of what arms are compared by are told; `scale` is that of the charts."""

    name: str
    unit: str
    of_differences: str
    scale: float
    digits: int

    def value(self, value: float) -> str:
        """`95.64 %` or `3.1234 nats`."""
        return f"{self.scale * value:.{self.digits}f} {self.unit}"

    def change(self, difference: float) -> str:
        """A difference with its sign: `+0.35`, `−0.0120`, or `0.00`."""
        text = f"{self.scale * difference:+.{self.digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", MINUS)

    def interval(self, difference: Mapping[str, Any]) -> str:
        """The interval of a paired difference: `[+0.12, +0.58]`, or that there is none."""
        if difference["low"] is None:
            return "one seed, no interval"
        return f"[{self.change(difference['low'])}, {self.change(difference['high'])}]"


METRICS = {
    "accuracy": Metric("test accuracy", "%", "percentage points", 100.0, 2),
    "loss": Metric("test loss", "nats", "nats per token", 1.0, 4),
}


def percent(share: float, digits: int = 2) -> str:
    """A share of one as per cent: 0.9564 is `95.64 %`."""
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `0.35 s`, `12.3 s`, `4 min 10 s`, `3 h 5 min`."""
    if seconds is None:
        return "not known"
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if seconds < 7200:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size(number: float) -> str:
    """Bytes as people say them: `512 KiB`, `1.25 GiB`."""
    for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}" if number < 1000 * scale else f"{number / scale:,.0f} {unit}"
    return f"{number:.0f} bytes"


def quantity(number: float, unit: str) -> str:
    """Seconds or bytes as people say them."""
    return duration(number) if unit == "seconds" else size(number)


def taken(training: Mapping[str, Any], arm: str | None = None) -> tuple[int, int]:
    """The fewest and the most optimiser steps that the trainings of an arm, or all, took: some may stop early."""
    own = [found.get("steps", training["steps"]) for found in training["results"] if arm in (None, found["arm"])]
    return min(own), max(own)


def steps_of(training: Mapping[str, Any], arm: str | None = None) -> str:
    """Optimiser steps as people say them: `1,000`, or `640 to 1,000`."""
    fewest, most = taken(training, arm)
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def claim(summary: Mapping[str, Any]) -> str:
    """The run's result in one or two sentences."""
    training = summary["training"]
    metric, own = METRICS[training["metric"]], training["values"]["selected"]
    seeds = f"mean of {len(own)} seeds" if len(own) > 1 else "one seed"
    steps, reached = steps_of(training, "selected"), metric.value(mean(own))
    text = f"A model trained on the selection for {steps} steps reaches {reached} {metric.name} ({seeds})."
    if not training["differences"]:
        return f"{text} No baseline was trained, so whether the selection helps is not known."
    said = "; ".join(_comparison(metric, arm, d) for arm, d in training["differences"].items())
    return f"{text} {said[0].upper()}{said[1:]}."


def _comparison(metric: Metric, arm: str, difference: Mapping[str, Any]) -> str:
    other, told = SAMPLES.get(arm, arm), difference["verdict"]
    numbers = f"{metric.change(difference['mean'])} {metric.of_differences}, "
    numbers += "one seed" if difference["low"] is None else f"95 % interval {metric.interval(difference)}"
    if told == "no difference shown":
        return f"no difference shown from {other} ({numbers})"
    return f"{told} than {other} ({numbers})"


def planned(told: Mapping[str, Any]) -> str:
    """Where a selection's ratio comes from: what its plan said for the budget."""
    kept = percent(told["ratio"], 1) if told["pays"] else "everything"
    return f"{kept}, by {told['path']} for {told['budget']:g} {told['unit'].replace('_', ' ')}: {told['verdict']}"


def price(cost: Mapping[str, Any], training: Mapping[str, Any]) -> list[str]:
    """What choosing cost beside what training costs, sentence by sentence."""
    scoring, one = cost["scoring"], cost["one_training"]
    if scoring is None or one is None:
        return ["The seconds of a stage that ran in an unfinished execution are not known, so neither is the cost."]
    fewest, most = taken(training)
    alike = (
        "All arms train for the same number of steps, so the selection saved no training time in this run: choosing "
        "comes on top."
    )
    stopped = f"Trainings stopped early, after {fewest:,} to {most:,} steps; choosing comes on top of what they took."
    times = f", as much as {scoring / one:.1f} trainings" if one else ""
    said = [
        f"Choosing took {duration(scoring)}{times} (one took {duration(one)}, start-up included).",
        alike if fewest == most else stopped,
    ]
    if cost["breaks_even"]:
        said.append(
            f"Against training on everything for as many epochs, each training on the selection would save about "
            f"{duration(cost['saved_per_training'])}; choosing would be paid back after {cost['breaks_even']:,} "
            f"such training{'' if cost['breaks_even'] == 1 else 's'}."
        )
    return said
