"""From trials to the run: every stage by its law of scaling, memory, disk, and the same for larger clusters.

    seconds  = a + b w / hands, through the smallest and the largest trial that finished the stage, a and b >= 0
    bytes    = a + b rows, likewise, of published files and of shared memory (at most the object store)
    memory   = peak outside the object store + hands COPIES (bytes of a part of the run - of the trial) + shared memory

A trajectory's files follow its visits, and its memory the copies of the parameters that a walk of T steps holds.

Memory outside the object store is that of processes, whose number does not follow the corpus, so only what a task
holds of a part is let grow. Pure functions.

Caution: a stage that one trial alone finished is scaled as if none of its time were for starting up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydelt.config import RunConfig
from raydelt.estimate.capacity import Capacity
from raydelt.estimate.trial import Trial
from raydelt.estimate.work import Sizes, law_of, lqs_of, parts_of, sizes_of, trajectories, visits

# The stage of trajectories: of every visited step it publishes the parameters and the adjoint.
WALK = "trajectory"
# A task holds its part as read, filtered, sorted and as bytes on their way out.
COPIES = 4


@dataclass(frozen=True)
class Line:
    """a + b x."""

    a: float
    b: float

    def __call__(self, x: float) -> float:
        return self.a + self.b * x


@dataclass(frozen=True)
class StageForecast:
    """The seconds of a stage: a part that nothing shortens and a part that hands share; files and their bytes."""

    fixed: float
    shared: float
    hands: float
    bytes: float
    files: int

    @property
    def seconds(self) -> float:
        return self.fixed + self.shared


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak: of all processes, and in the object store, which is part of it."""

    total: float
    shared: float


def line(points: Sequence[tuple[float, float]]) -> Line:
    """The line through the points of least and greatest x, neither falling nor below zero at 0."""
    low, high = min(points), max(points)
    if high[0] <= 0:
        return Line(max(y for _, y in points), 0.0)
    if low[0] == high[0]:
        ys = [y for _, y in points]
        return Line(0.0, sum(ys) / len(ys) / high[0])
    slope = max(0.0, (high[1] - low[1]) / (high[0] - low[0]))
    if slope == 0.0:
        return Line(sum(y for _, y in points) / len(points), 0.0)
    return Line(high[1] - slope * high[0], slope) if high[1] > slope * high[0] else Line(0.0, high[1] / high[0])


def whole_sizes(config: RunConfig, trials: Sequence[Trial], total: int) -> Sizes:
    """The numbers of examples of the run, by the shares of the largest trial that came to its end."""
    largest = next(trial for trial in reversed(trials) if trial.whole)
    n = _sizes(largest)
    scale = total / max(n.read, 1.0)
    rows = n.rows * scale
    corpus = config.corpus
    return Sizes(
        read=float(total),
        rows=rows,
        validation=n.validation if corpus.validation.source else n.validation * scale,
        test=n.test if corpus.test.source else n.test * scale,
        selected=_selected(config, n, rows),
        parts=parts_of(rows, largest.row_bytes),
        busy=busy(config, trials)(rows),
    )


def _selected(config: RunConfig, n: Sizes, rows: float) -> float:
    select = config.select
    if select.method == "ratio":
        return rows * select.value
    if select.method == "top_k":
        return min(rows, select.value)
    # A token budget keeps so many tokens whatever the corpus; the trial's was cut as its corpus was.
    return n.selected * rows / max(n.rows, 1.0)


def busy(config: RunConfig, trials: Sequence[Trial]) -> Line:
    """Seconds that all scorers work, by the number of examples, at the run's own number of visits."""
    points = [(0.0, 0.0)]
    for trial in trials:
        took, more = _took(trial), visits(config) / visits(trial.config)
        if took["rows"]:
            seconds = sum(own * (more if name == "lqs" else 1.0) for name, own in took["seconds"].items())
            points.append((float(took["rows"]), float(seconds)))
    return line(points[1:] or points)


def rates(trial: Trial) -> dict[str, float]:
    """Rows per second of each scorer in one actor."""
    took = _took(trial)
    return {name: took["rows"] / seconds for name, seconds in took["seconds"].items() if seconds > 0}


def _took(trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = trial.stages.get("scores", {}).get("facts", {}).get("took", {"rows": 0, "seconds": {}})
    return found


def forecast(
    config: RunConfig, trials: Sequence[Trial], n: Sizes, measured: Capacity, there: Capacity
) -> dict[str, StageForecast]:
    """The stages of the run on a cluster, from trials that were measured on one of the same kind of machines."""
    known = {"start": [(trial, trial.record["start"]) for trial in trials]}
    for trial in trials:
        for name, stage in trial.stages.items():
            if stage["seconds"] is not None:
                known.setdefault(name, []).append((trial, stage["seconds"]))
    found = {}
    for name, own in known.items():
        law = law_of(name)
        points = []
        for trial, seconds in own:
            small = _sizes(trial)
            hands = max(1.0, law.hands(trial.config, small, measured.hands(config)))
            points.append((law.work(trial.config, small) / hands, seconds))
        fit, hands = line(points), max(1.0, law.hands(config, n, there.hands(config)))
        files, size = _files(name, own[-1][0], n), _bytes(config, name, [trial for trial, _ in own], n)
        found[name] = StageForecast(fit.a, fit.b * law.work(config, n) / hands, hands, size, files)
    return found


def _sizes(trial: Trial) -> Sizes:
    return sizes_of(trial.config, trial.stages, trial.row_bytes)


def _bytes(config: RunConfig, name: str, trials: Sequence[Trial], n: Sizes) -> float:
    if name == WALK:
        return float(trials[-1].stages[WALK]["bytes"]) * visits(config) / visits(trials[-1].config)
    points = [(_sizes(t).rows, float(t.stages[name]["bytes"])) for t in trials if name in t.stages]
    return line(points)(n.rows) if points else 0.0


FIXED = ("models", "gradients", "steps", "model", "best", "page")


def _files(name: str, trial: Trial, n: Sizes) -> int:
    """Files that a stage publishes: those of the parts grow in number with them."""
    manifest = trial.manifests.get(name)
    if manifest is None:
        return 0
    grows = len(manifest.parts) + sum(len(own) for kind, own in manifest.sides.items() if kind not in FIXED)
    stays = sum(len(own) for kind, own in manifest.sides.items() if kind in FIXED)
    return stays + round(grows * n.parts / _sizes(trial).parts)


def memory(config: RunConfig, trials: Sequence[Trial], n: Sizes, measured: Capacity, there: Capacity) -> Memory:
    """Peak memory of all processes; `there` has machines like those of `measured`, and its processes as many more."""
    peaks = [_peak(trial.record["peaks"]) for trial in trials]
    sizes = [_sizes(trial) for trial in trials]
    private = max(
        own["memory"] - own["shared"] + _walking(config, trial) for trial, own in zip(trials, peaks, strict=True)
    )
    points = [(small.rows, float(own["shared"])) for small, own in zip(sizes, peaks, strict=True)]
    shared = min(line(points)(n.rows), max(float(there.object_store_bytes), peaks[-1]["shared"]))
    part = (n.rows / n.parts - sizes[-1].rows / sizes[-1].parts) * trials[-1].row_bytes
    more = there.cpus / measured.cpus
    return Memory((private + max(0.0, part) * COPIES * min(measured.cpus, n.parts)) * more + shared, shared)


def _peak(peaks: Mapping[str, Any]) -> dict[str, int]:
    """The greatest memory of any stage, and the greatest shared memory."""
    return {
        "memory": max((own["memory"] for own in peaks.values()), default=0),
        "shared": max((own["shared"] for own in peaks.values()), default=0),
    }


def _walking(config: RunConfig, trial: Trial) -> float:
    """Bytes that the run's own trajectory holds beyond the trial's, whose walk was shorter."""
    spec, short = lqs_of(config), lqs_of(trial.config)
    if spec is None or short is None or WALK not in trial.stages:
        return 0.0
    pairs = visits(trial.config) * trajectories(trial.config)
    parameters = trial.stages[WALK]["bytes"] / (2 * pairs)
    return float(spec.workers * parameters * 2 * (math.sqrt(spec.steps) - math.sqrt(short.steps)))
