"""The distributions of the components, of all examples of a small run and of a uniform sample of a large one.

Parts of the corpus are ranges of hashes of the ids, so the first parts are a uniform random sample: with n of them, a
percentile is off by 50 / sqrt(n) at the most (standard error; 0.1 points at 262,144). Cost: the components of four
parts. Memory: 4 bytes for each example and component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt.ask import files
from raydelt.ask.ranked import Guess
from raydelt.ask.run import Run
from raydelt.examples import column_of
from raydelt.scorers.protocol import Array

SAMPLED = 1 << 18


@dataclass(frozen=True)
class Sample:
    """Components [rows] of a sample, or of all `of` examples."""

    values: dict[str, Array]
    rows: int
    of: int

    @property
    def exact(self) -> bool:
        return self.rows == self.of

    @property
    def error(self) -> float:
        """Standard error of a percentile at the most, in points."""
        return 0.0 if self.exact else 50.0 / float(np.sqrt(self.rows))

    def percentile(self, name: str, value: float) -> float:
        """Percentile of a value in the middle of its ties, in [0, 100]."""
        own = self.values[name]
        # Components are stored as float32, and a value that was one must find its equals.
        at = np.float32(value)
        return float(50.0 * (np.count_nonzero(own < at) + np.count_nonzero(own <= at)) / max(self.rows, 1))


def sample_of(run: Run, names: Sequence[str], *, rows: int = SAMPLED) -> Sample:
    """The named components of the first parts that hold so many rows together."""
    manifest, tables, held = run.scored, [], 0
    for part in manifest.parts:
        if held >= rows:
            break
        tables.append(files.read(run.store, part, list(names)))
        held += part.rows
    table = pa.concat_tables(tables) if tables else pa.table({name: np.empty(0, np.float32) for name in names})
    return Sample({name: column_of(table, name) for name in names}, held, manifest.rows)


def guess_of(run: Run, scores: dict[str, Any], sample: Sample) -> Guess | None:
    """Where the ranking should have an example with these components; None where the sample cannot tell."""
    combine, weights = run.raw["rank"]["combine"], run.manifest("ranking").facts["weights"]
    level = 2 * (not broken(combine, scores)) + (below_gate(combine, scores) is None)
    if combine.get("fusion", "sum") != "sum" or not set(weights) <= set(sample.values):
        return None
    parts = [
        weight * _normalised(sample, name, scores[name], combine.get("normalise", "ecdf"))
        for name, weight in weights.items()
    ]
    return Guess(int(level), float(np.sum(parts)))


def broken(combine: dict[str, Any], scores: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """The exclusions that rule an example out: component, side, bar and value."""
    found = []
    for exclusion in combine.get("exclude", []):
        name, value = exclusion["component"], np.float32(scores[exclusion["component"]])
        for side in ("above", "below"):
            bar = exclusion.get(side)
            if bar is not None and (value > np.float32(bar) if side == "above" else value < np.float32(bar)):
                found.append((name, side, float(bar), float(value)))
    return found


def below_gate(combine: dict[str, Any], scores: dict[str, Any]) -> tuple[str, float, float] | None:
    """Component, bar and value of a gate that an example does not pass; None where it passes."""
    gate = combine.get("gate")
    if gate is None or np.float32(scores[gate["component"]]) >= np.float32(gate["at_least"]):
        return None
    return gate["component"], float(gate["at_least"]), float(scores[gate["component"]])


def _normalised(sample: Sample, name: str, value: float, method: str) -> float:
    """A component on the scale that it is added up on, as `raydelt.scorers.composite` defines it."""
    own = sample.values[name]
    if method == "ecdf":
        return sample.percentile(name, value) / 100.0
    if method == "z":
        return float((value - own.mean()) / (own.std() or 1.0))
    if method == "robust":
        low, middle, high = np.quantile(own, [0.25, 0.5, 0.75], method="inverted_cdf")
        return float((value - middle) / ((high - low) or 1.0))
    return float(value)
