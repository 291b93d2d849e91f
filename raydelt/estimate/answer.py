"""The estimate of a run: trials of growing size within a budget of seconds, and what follows from them.

The first trial takes about 1 % of the rows and may come to its end, the next as many as the remaining time lets
expect, up to a third of the corpus. All run below `.estimate` in the run directory, on the storage and the cluster
that the run will use, and are deleted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raydelt import rundir
from raydelt.config import RunConfig
from raydelt.corpus.sources import find, items
from raydelt.errors import InputError, SpecError
from raydelt.estimate import prices
from raydelt.estimate.beside import ESTIMATE, identity
from raydelt.estimate.capacity import Capacity, limits
from raydelt.estimate.model import StageForecast, forecast, memory, rates, whole_sizes
from raydelt.estimate.requests import requests
from raydelt.estimate.sample import count_rows, trial_spec
from raydelt.estimate.trial import Trial, run_trial
from raydelt.estimate.work import Sizes, law_of
from raydelt.storage import Store, absolute

log = logging.getLogger(__name__)

FIRST_SHARE, LEAST_ROWS, LEAST_DOCUMENTS, FIRST_ROWS = 0.01, 256, 64, 4096
LARGEST_SHARE, GROWTH, LEAST_GROWTH = 1 / 3, 4, 2
TIMES = (1, 2, 8, 64)
# Without one trial that came to its end there is no estimate, and without a second one what starting up costs passes
# for work: so these may take so many times what was allowed, together.
PATIENCE, NEEDED = 5, 2
FOLDER = ".estimate"


@dataclass(frozen=True)
class Job:
    """What is to be estimated: a spec up to a stage, and the rows and units of its sources."""

    config: RunConfig
    until: str
    rows: int
    sources: int


def estimate(config: RunConfig, *, until: str, seconds: float, price_file: str | None = None) -> dict[str, Any]:
    """Estimate a run up to a stage within so many seconds; published as `estimate.json` in the run directory.

    Raises:
        SpecError: no time at all.
        InputError: no rows, a wrong price file, or a first trial that does not end in time.
        RaydeltError: what the run itself would be refused for.
    """
    from raydelt.pipeline import STAGES
    from raydelt.precheck import check

    if not seconds > 0:
        raise SpecError(f"--seconds {seconds:g} leaves no time to measure anything: give at least 30")
    clouds = prices.load(price_file)
    store = Store(absolute(config.output))
    check(config, STAGES[: STAGES.index(until) + 1])
    sources = items(find(config.corpus), text_unit=config.corpus.text_unit)
    job = Job(config, until, count_rows(config.corpus, sources), len(sources))
    rundir.claim(store, config)
    store.delete(FOLDER)
    try:
        trials = _trials(job, store, seconds=seconds)
    finally:
        store.delete(FOLDER)
    found = answer(job, trials, clouds)
    store.write_json(ESTIMATE, found)
    return found


def _trials(job: Job, store: Store, *, seconds: float) -> list[Trial]:
    """Trials of growing size, at least one, whose stages are those of the run."""
    config, total = job.config, job.rows
    began = time.monotonic()
    trials: list[Trial] = []

    def left() -> float:
        allowed = seconds * (PATIENCE if len(trials) < NEEDED else 1)
        return max(0.0, began + allowed - time.monotonic())

    rows = first_rows(config, total)
    while rows:
        own = trial_spec(config, rows=rows, total=total, output=f"{store.root}/{FOLDER}/{rows}")
        try:
            trial = run_trial(own, rows=rows, until=job.until, seconds=left())
        except InputError as error:
            # Too few rows for a batch or for the folds is no fault of the spec.
            if trials or rows >= total:
                raise
            log.info("%s; trying more rows", error)
            rows = min(total, rows * GROWTH)
            continue
        log.info("trial of %d rows: %.1f s%s", rows, trial.seconds, "" if trial.whole else ", ended before its end")
        if not trials and not trial.whole:
            last = list(trial.stages)[-1] if trial.stages else "none"
            raise InputError(
                f"a trial of {rows} rows did not end within {PATIENCE} times --seconds {seconds:g} (last finished "
                f"stage: {last}): give more seconds, or estimate fewer stages by --until"
            )
        if trial.stages:
            trials.append(trial)
        rows = next_rows(trials, total, left()) if trial.whole else 0
    return trials


def first_rows(config: RunConfig, total: int) -> int:
    """Rows of the first trial."""
    least = LEAST_DOCUMENTS if config.model.kind == "causal_lm" else LEAST_ROWS
    return min(total, max(least, min(FIRST_ROWS, round(total * FIRST_SHARE))))


def next_rows(trials: Sequence[Trial], total: int, left: float) -> int:
    """Rows of the next trial, 0 where it would cost too much or tell too little more."""
    last = trials[-1]
    most = max(round(total * LARGEST_SHARE), min(total, LEAST_GROWTH * trials[0].rows))
    if len(trials) == 1:
        # What starting up costs is not known yet, so at worst everything grows with the rows.
        rows = min(most, last.rows * GROWTH)
        return rows if rows > last.rows and left > last.seconds else 0
    fixed, per_row = _cost(trials)
    rows = min(most, int((left - fixed) / per_row)) if per_row > 0 else most
    return rows if rows >= LEAST_GROWTH * last.rows and left > fixed else 0


def _cost(trials: Sequence[Trial]) -> tuple[float, float]:
    """Seconds that a trial takes whatever its size, and for each row."""
    low, high = trials[-2], trials[-1]
    slope = max(0.0, (high.seconds - low.seconds) / max(1, high.rows - low.rows))
    return max(0.0, high.seconds - slope * high.rows), slope


def answer(job: Job, trials: Sequence[Trial], clouds: dict[str, prices.Cloud]) -> dict[str, Any]:
    """The estimate as plain data, from at least one trial that came to its end."""
    config = job.config
    n, measured = whole_sizes(config, trials, job.rows), Capacity.of(trials[-1].record["cluster"])
    stages = forecast(config, trials, n, measured, measured)
    return {
        "name": config.name,
        "spec": identity(config.resolved()),
        "until": job.until,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rows": job.rows,
        "sizes": asdict(n),
        "measured_on": asdict(measured),
        "trials": [
            {
                "rows": trial.rows,
                "seconds": trial.seconds,
                "whole": trial.whole,
                "stages": {name: own["seconds"] for name, own in trial.stages.items()},
            }
            for trial in trials
        ],
        "scorers": rates(trials[-1]),
        "stages": {name: _stage(name, own) for name, own in stages.items()},
        "clusters": [_cluster(job, trials, n, measured, k, clouds) for k in TIMES],
    }


def _stage(name: str, own: StageForecast) -> dict[str, Any]:
    law = law_of(name)
    return {
        "seconds": own.seconds,
        "fixed_seconds": own.fixed,
        "shared_seconds": own.shared,
        "hands": own.hands,
        "grows_with": law.follows,
        "shared_up_to": law.limit,
        "disk_bytes": own.bytes,
        "files": own.files,
    }


def _cluster(
    job: Job, trials: Sequence[Trial], n: Sizes, measured: Capacity, k: int, clouds: dict[str, prices.Cloud]
) -> dict[str, Any]:
    """The run on k times as many machines."""
    config, there = job.config, measured.times(k)
    stages = forecast(config, trials, n, measured, there)
    held = memory(config, trials, n, measured, there)
    seconds, disk = sum(own.seconds for own in stages.values()), sum(own.bytes for own in stages.values())
    files = {name: own.files for name, own in stages.items() if name != "start"}
    asked = requests(
        files,
        sources=job.sources,
        remote_source=any(_is_remote(source) for source in config.corpus.sources),
        remote_output=_is_remote(config.output),
    )
    bill = prices.price(
        clouds, cpus=there.cpus, gpus=there.gpus, memory=held.total, seconds=seconds, disk=disk, requests=asked
    )
    serial = sum(own.fixed + (own.shared if own.hands <= 1 else 0.0) for own in stages.values())
    return {
        "times": k,
        "actors": there.hands(config).actors,
        "cpus": there.cpus,
        "gpus": there.gpus,
        "machines": there.machines,
        "seconds": seconds,
        "serial_seconds": serial,
        "cpu_hours": there.cpus * seconds / 3600,
        "gpu_hours": there.gpus * seconds / 3600,
        "memory_bytes": held.total,
        "object_store_bytes": held.shared,
        "disk_bytes": disk,
        "requests": asked,
        "prices": bill,
        "limits": limits(config, measured, k),
    }


def _is_remote(place: str) -> bool:
    return "://" in place and not place.startswith(("builtin://", "file://"))
