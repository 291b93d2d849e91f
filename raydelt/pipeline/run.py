"""One execution of a spec: its stages, each kept under its fingerprint, and what is recorded of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from raydelt import __version__, metrics, rundir
from raydelt.config import RunConfig
from raydelt.estimate.memory import START, Watch
from raydelt.plan.chosen import Chosen
from raydelt.scorers.cells import Earlier
from raydelt.storage import Manifest, Stage, Store, fingerprint

log = logging.getLogger(__name__)


@dataclass
class Run:
    """One execution of a spec in its run directory; `seconds` are those of the stages that really ran.

    `start` are the seconds until Ray was there, `capacity` is what it has, and `watch` sees the memory. What stands
    of an `earlier` version is not computed again.
    """

    config: RunConfig
    store: Store
    watch: Watch = field(default_factory=Watch)
    capacity: dict[str, Any] = field(default_factory=dict)
    start: float = 0.0
    fresh: dict[str, bool] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    chosen: Chosen | None = None
    earlier: Earlier | None = None

    def stage(self, name: str, inputs: list[Any], work: Callable[[Stage], Manifest]) -> Manifest:
        """The stage's manifest: as it stands, if nothing that determines it changed, else computed now."""
        stage = Stage(self.store, name, fingerprint([__version__, self.config.seed, *inputs]))
        manifest = stage.published()
        self.fresh[name] = manifest is None
        started = time.perf_counter()
        if manifest is None:
            self.watch.stage = name
            manifest = metrics.measured(name, lambda: work(stage), _counts)
        seconds = time.perf_counter() - started
        if self.fresh[name]:
            self.seconds[name] = seconds
        self.manifests[name] = manifest
        _log_stage(name, manifest, self.fresh[name], seconds)
        rundir.record(self.store, self.config, self.manifests, self.seconds, self.measured())
        return manifest

    def measured(self) -> dict[str, Any]:
        """What the run's record holds beside the seconds of the stages that ran now."""
        now = {START, *self.seconds} if self.seconds else set()
        peaks = {name: asdict(peak) for name, peak in self.watch.peaks.items() if name in now}
        return {"start": self.start, "cluster": self.capacity, "peaks": peaks}


def _counts(manifest: Manifest) -> tuple[int, int]:
    """Rows that a stage processed, and those that it put into quarantine."""
    bad = sum(part.rows for part in manifest.sides.get("quarantine", []))
    return manifest.facts.get("rows_processed", manifest.rows), bad


def _log_stage(name: str, manifest: Manifest, fresh: bool, seconds: float) -> None:
    rows, _ = _counts(manifest)
    if not fresh:
        log.info("%-10s up to date, %d rows", name, rows)
        return
    log.info("%-10s %d rows, %.0f rows/s, %.1f s", name, rows, rows / max(seconds, 1e-9), seconds)
