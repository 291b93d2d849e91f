"""Measured points of small trainings on buckets or on ratios: read, and refused where no law could be fitted to them.

A point is (bucket, seen, unique, loss, seed): a training on `unique` examples of one bucket, measured after `seen`
views of them, both in one unit, examples or tokens. Buckets come best first, in the order of first appearance; where
the column `pool` says `ratio`, each is one together with all that are better. The metric is `loss` (above 0, of any
scale) or `error` (a rate in (0, 1], the law of which passes through 1 at the pivot). Tables are Parquet, CSV, JSON or
JSON lines. Cost: O(points).

Caution: under a schedule that decays the learning rate an intermediate checkpoint is not a finished shorter training.
Mixing the two bends every curve, and nothing in the numbers shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from raydelt.errors import InputError
from raydelt.scorers.protocol import Array

Unit = Literal["examples", "tokens"]
Metric = Literal["loss", "error"]
UNITS = ("examples", "tokens")
POOLS = ("bucket", "ratio")
FEWEST = 4
SAME = 0.05


@dataclass(frozen=True)
class Caution:
    """Something to know before trusting a plan: a code for programs, a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Points:
    """Measured points [n]: index of the bucket in `names` (best first), seen, unique, value of the metric, seed.

    With `cumulative` every bucket holds all that are better as well: it is a ratio.
    """

    names: tuple[str, ...]
    bucket: Array
    seen: Array
    unique: Array
    loss: Array
    seed: Array
    unit: Unit = "examples"
    metric: Metric = "loss"
    cumulative: bool = False

    @property
    def epochs(self) -> Array:
        """How often each point [n] has seen its pool."""
        epochs: Array = self.seen / self.unique
        return epochs

    @property
    def sizes(self) -> Array:
        """The size [p] of the largest pool measured of each bucket."""
        return np.array([self.unique[self.bucket == index].max() for index in range(len(self.names))])


def read(path: str | Path, *, unit: Unit | None = None, metric: Metric | None = None) -> Points:
    """The points of a Parquet, CSV, JSON or JSON lines file.

    Columns: bucket, seen, unique, loss or error (both, where `metric` says which); optional seed, unit and pool.

    Raises:
        InputError: the file is not such a table, or no law could be fitted to it.
    """
    columns = columns_of(path)
    return from_columns(columns, unit=unit, metric=metric, source=str(path))


def columns_of(path: str | Path) -> dict[str, list[Any]]:
    """The columns of such a file as it stands."""
    path = Path(path)
    try:
        if path.suffix in (".parquet", ".csv"):
            frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        elif path.suffix == ".json":
            frame = pd.DataFrame(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            frame = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines() if line.strip()])
        else:
            raise InputError(f"{path}: measured points end in .parquet, .csv, .json or .jsonl")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a table of measured points ({error}): give one row a point") from error
    return {str(name): frame[name].tolist() for name in frame.columns}


def from_columns(
    columns: Mapping[str, Sequence[Any]],
    *,
    unit: Unit | None = None,
    metric: Metric | None = None,
    source: str = "points",
) -> Points:
    """Points from columns [n]: bucket, seen, unique, loss or error; optional seed, unit (examples) and pool (bucket).

    Where both loss and error are there, `metric` says which one is meant.
    """
    metric = _metric(columns, metric, source)
    for name in ("bucket", "seen", "unique"):
        if name not in columns:
            raise InputError(f"{source} has no column `{name}`: it needs bucket, seen, unique and {metric}")
    labels = [str(name) for name in columns["bucket"]]
    names = tuple(dict.fromkeys(labels))
    seeds = _numbers(columns, "seed", source) if "seed" in columns else np.zeros(len(labels))
    points = Points(
        names,
        np.array([names.index(name) for name in labels], np.int64),
        _positive(columns, "seen", source),
        _positive(columns, "unique", source),
        _positive(columns, metric, source),
        seeds.astype(np.int64),
        _unit(columns, unit, source),
        metric,
        _cumulative(columns, source),
    )
    _fittable(points, source)
    if points.cumulative and np.any(np.diff(points.sizes) <= 0):
        raise InputError(
            f"{source}: the pools of the ratios {', '.join(names)} do not grow: each holds all that are better, so "
            "give them from the smallest up"
        )
    return points


def noise(points: Points, *, relative: bool = False) -> float:
    """The standard deviation over seeds at the same bucket, unique and seen; NaN where none repeats.

    It is that of the metric, or where `relative` that of its logarithm.
    """
    keys = np.stack([points.bucket, points.unique, points.seen], 1)
    _, cell = np.unique(keys, axis=0, return_inverse=True)
    values, counts = np.log(points.loss) if relative else points.loss, np.bincount(cell.ravel())
    means = np.bincount(cell.ravel(), values) / counts
    freedom = int((counts - 1).sum())
    return float(np.sqrt(np.sum((values - means[cell.ravel()]) ** 2) / freedom)) if freedom else float("nan")


def _cumulative(columns: Mapping[str, Sequence[Any]], source: str) -> bool:
    pools = {str(value) for value in columns.get("pool", ())}
    if len(pools) > 1 or not pools <= set(POOLS):
        raise InputError(
            f"{source} has the pools {', '.join(sorted(pools))}: give points of `bucket` or of `ratio` alone"
        )
    return pools == {"ratio"}


def _metric(columns: Mapping[str, Sequence[Any]], wanted: Metric | None, source: str) -> Metric:
    given: list[Metric] = [name for name in ("loss", "error") if name in columns and wanted in (None, name)]
    if not given and wanted is not None:
        raise InputError(f"{source} has no column `{wanted}`: add it, or plan by another metric")
    if len(given) != 1:
        raise InputError(f"{source} has {len(given)} of the columns `loss` and `error`: give one of them")
    return given[0]


def _unit(columns: Mapping[str, Sequence[Any]], unit: Unit | None, source: str) -> Unit:
    units = {str(value) for value in columns.get("unit", ())} | ({unit} if unit else set())
    if len(units) > 1 or not units <= set(UNITS):
        raise InputError(
            f"{source} is in the units {', '.join(sorted(units))}: give all of it in examples or in tokens"
        )
    return "tokens" if units == {"tokens"} else "examples"


def _numbers(columns: Mapping[str, Sequence[Any]], name: str, source: str) -> Array:
    """A column [n] of finite numbers."""
    values = pd.to_numeric(pd.Series(list(columns[name]), dtype=object), errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = int(bad[0])
        raise InputError(
            f"{source}: `{name}` is {columns[name][row]!r} in row {row + 1}: drop the point or measure it again"
        )
    return values


def _positive(columns: Mapping[str, Sequence[Any]], name: str, source: str) -> Array:
    values = _numbers(columns, name, source)
    bad = np.flatnonzero((values <= 0) | ((values > 1) & (name == "error")))
    if len(bad):
        most = " and at most 1" if name == "error" else ""
        raise InputError(
            f"{source}: `{name}` is {values[bad[0]]:g} in row {int(bad[0]) + 1}: it must be above 0{most}"
        )
    return values


def _fittable(points: Points, source: str) -> None:
    """Refuses what no law fits."""
    if not len(points.loss):
        raise InputError(f"{source} holds no points: give at least {FEWEST} a bucket")
    for index, name in enumerate(points.names):
        mine = points.bucket == index
        levels = np.unique(np.stack([points.seen[mine], points.unique[mine]], 1), axis=0)
        if len(levels) < FEWEST or len(np.unique(levels[:, 0])) < 3:
            raise InputError(
                f"{source}: bucket {name!r} is measured at {len(levels)} different (seen, unique): "
                f"measure at least {FEWEST}, at 3 or more different numbers seen"
            )
        seen, loss = points.seen[mine], points.loss[mine]
        first, last = loss[seen == seen.min()].mean(), loss[seen == seen.max()].mean()
        if last >= first:
            raise InputError(
                f"{source}: the {points.metric} of bucket {name!r} does not fall ({first:.4g} at {seen.min():g} seen, "
                f"{last:.4g} at {seen.max():g}): no law of this family fits it; measure it again or leave it out"
            )


def small_run(
    points: Points, *, pick: Callable[[Iterable[float]], float] = max
) -> tuple[float, list[tuple[str, float]]] | None:
    """The naive ranking: the most seen that every bucket was measured at, and (bucket, mean metric) best first.

    Numbers seen count as the same within 5 %. None where no number seen is common to all buckets.
    """
    first = np.unique(points.seen[points.bucket == 0]).tolist()
    common = [seen for seen in first if all(_near(points, index, seen).any() for index in range(len(points.names)))]
    if not common:
        return None
    seen = pick(common)
    means = [(name, float(points.loss[_near(points, index, seen)].mean())) for index, name in enumerate(points.names)]
    return seen, sorted(means, key=lambda entry: entry[1])


def _near(points: Points, index: int, seen: float) -> Array:
    """Which points [n] of a bucket have seen so much, as nearly as batches of documents have equal tokens."""
    near: Array = (points.bucket == index) & (np.abs(points.seen - seen) <= SAME * seen)
    return near
