"""Our own metrics, which every node's Ray agent exports to Prometheus as `ray_raydelt_*`.

    rows/s       = rate(rows)                          a part counts when it is done, the rest when its stage is
    utilisation  = rate(busy seconds) / actors         1 where no actor ever waits for work
    cost         = held CPU seconds x price of a CPU second + the same of GPUs

Everything is counted on the driver, part by part, except the number of actors, which each tells of itself. So a killed
actor takes nothing along, and no row and no batch pays for it: about 2 us for each value. What the cluster holds is
looked at every `LOOK_SECONDS`. Source: ray.util.metrics; Ray passes values on every ten seconds.

Caution: values live as long as their process. Ray's agent keeps the counters of one that has ended, and forgets its
gauges. Of a histogram it keeps the buckets' counts; its `_sum` is made of their middles, and is no measurement. A
metric that cannot be recorded is told of once in the log, and never ends a run.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

log = logging.getLogger(__name__)
M = TypeVar("M")

LOOK_SECONDS = 5.0
PREFIX = "ray_"
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class Definition:
    """A metric: its kind, its name as Ray takes it, what it counts, and its labels."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ("run", "stage")

    @property
    def exported(self) -> frozenset[str]:
        """The names that Prometheus sees."""
        suffixes = ("_bucket", "_count", "_sum") if self.kind == "histogram" else ("",)
        return frozenset(f"{PREFIX}{self.name}{suffix}" for suffix in suffixes)


ROWS = Definition("counter", "raydelt_rows_total", "Rows that a stage has processed.")
QUARANTINED = Definition("counter", "raydelt_quarantined_total", "Rows that a stage has put into quarantine.")
STAGE_SECONDS = Definition("counter", "raydelt_stage_seconds_total", "Seconds that a stage took.")
QUEUE = Definition("gauge", "raydelt_queue_parts", "Parts that no actor has finished yet.")
ACTORS = Definition("gauge", "raydelt_actors", "Living actors: 1 for each.")
BUSY_SECONDS = Definition("counter", "raydelt_actor_busy_seconds_total", "Seconds that actors worked on parts.")
PART_SECONDS = Definition("histogram", "raydelt_part_seconds", "Seconds that an actor took for a part.")
HELD_SECONDS = Definition(
    "counter",
    "raydelt_held_seconds_total",
    "CPU or GPU seconds that the cluster had while the run was on, busy or idle.",
    ("run", "resource"),
)
DEFINITIONS = (ROWS, QUARANTINED, STAGE_SECONDS, QUEUE, ACTORS, BUSY_SECONDS, PART_SECONDS, HELD_SECONDS)


class _Recorder:
    """The metrics of this process, made as they are used, under the run and stage that are on."""

    def __init__(self) -> None:
        self.run, self.stage = "", ""
        self.counted: dict[str, float] = {}
        self.made: dict[str, Any] = {}
        self.broken = False

    def labels(self) -> dict[str, str]:
        return {"run": self.run, "stage": self.stage}

    def record(self, definition: Definition, value: float, labels: Mapping[str, str]) -> None:
        if self.broken or (definition.kind == "counter" and value <= 0):
            return
        try:
            metric = self.made.get(definition.name)
            if metric is None:
                metric = self.made[definition.name] = _make(definition)
            method = {"counter": "inc", "gauge": "set", "histogram": "observe"}[definition.kind]
            getattr(metric, method)(float(value), tags=dict(labels))
        except Exception:
            self.broken = True
            log.warning("metrics cannot be recorded, and the run goes on without", exc_info=True)


def _make(definition: Definition) -> Any:
    """The metric as Ray has it."""
    from ray.util import metrics

    kind = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}[definition.kind]
    more = {"boundaries": list(SECONDS)} if definition.kind == "histogram" else {}
    return kind(definition.name, description=definition.help, tag_keys=definition.labels, **more)


_recorder = _Recorder()


@contextlib.contextmanager
def run(name: str) -> Iterator[None]:
    """Label what is recorded with a run's name, and count what the cluster holds for as long as the context lasts."""
    _recorder.run, _recorder.stage = name, ""
    _recorder.counted.clear()
    ended = threading.Event()
    thread = threading.Thread(target=_look, args=(ended,), name="raydelt-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _look(ended: threading.Event) -> None:
    """Add up, until the end, the CPU and GPU seconds that the cluster holds."""
    import ray

    before, over = time.monotonic(), False
    while not over:
        over = ended.wait(LOOK_SECONDS)
        try:
            held = ray.cluster_resources()
        except Exception:
            # The connection may be gone before the run is.
            log.debug("the cluster's resources are not known", exc_info=True)
            return
        now = time.monotonic()
        for resource in ("CPU", "GPU"):
            seconds = held.get(resource, 0.0) * (now - before)
            _recorder.record(HELD_SECONDS, seconds, {"run": _recorder.run, "resource": resource})
        before = now


def measured(stage: str, work: Callable[[], M], counts: Callable[[M], tuple[int, int]]) -> M:
    """What `work` returns for a stage, with its seconds, rows and quarantined rows (`counts` of it) recorded.

    Rows that `part_done` has counted already do not count again.
    """
    _recorder.stage = stage
    started, counted = time.monotonic(), _recorder.counted.get(stage, 0.0)
    done = work()
    rows, quarantined = counts(done)
    labels = _recorder.labels()
    _recorder.record(STAGE_SECONDS, time.monotonic() - started, labels)
    _recorder.record(ROWS, rows - (_recorder.counted.get(stage, 0.0) - counted), labels)
    _recorder.record(QUARANTINED, quarantined, labels)
    return done


def labels() -> dict[str, str]:
    """The run and stage that are on, for actors to tell of themselves with."""
    return _recorder.labels()


def actor_here(own: Mapping[str, str]) -> None:
    """Tell that this process is an actor."""
    _recorder.record(ACTORS, 1.0, own)


def queued(parts: int) -> None:
    """Tell how many parts no actor has finished yet."""
    _recorder.record(QUEUE, float(parts), _recorder.labels())


def part_done(rows: float, seconds: float, left: int) -> None:
    """Count a part that an actor has finished, its rows and the seconds it took; `left` parts are still to do."""
    labels = _recorder.labels()
    _recorder.counted[_recorder.stage] = _recorder.counted.get(_recorder.stage, 0.0) + rows
    _recorder.record(ROWS, rows, labels)
    _recorder.record(BUSY_SECONDS, seconds, labels)
    _recorder.record(PART_SECONDS, seconds, labels)
    queued(left)
