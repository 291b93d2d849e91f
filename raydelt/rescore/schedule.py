"""Scoring a run again by the clock: a cron line, within one process.

    due      the times of the cron line, in a time zone
    missed   however many passed while nobody looked, the run is scored once, and then waits for the next
    fenced   who finds the run being scored by somebody else leaves it, and waits for the next time as well

What was last due and done, at first the start, is kept in `schedule.json` of the run, so a process that starts again
goes on. A failure, of the work or of the store that keeps the file, is logged and the schedule goes on; the next time
tries again. Memory and files do not grow with the number of times.

Caution: times are of this machine's clock; on Kubernetes let a CronJob keep the time (see `kubernetes`).
"""

from __future__ import annotations

import datetime
import functools
import logging
import time
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass

from croniter import CroniterBadCronError, CroniterBadDateError, CroniterError, croniter

from raydelt.errors import InputError, RaydeltError, SpecError
from raydelt.storage import Store

log = logging.getLogger(__name__)
FILE = "schedule.json"
FIELDS = 5
LOOK_SECONDS = 60.0


class Clock:
    """The time, and waiting for it."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Cron:
    """The times that a cron line names."""

    line: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise SpecError(f"--timezone {self.zone!r} is not known: give one such as Europe/Berlin") from error
        try:
            if len(croniter.expand(self.line)[0]) != FIELDS:
                raise CroniterBadCronError(self.line)
            self.after(time.time())
        except CroniterBadDateError as error:
            raise SpecError(f"--cron {self.line!r} is never due: give a day that its months have") from error
        except CroniterError as error:
            raise SpecError(
                f"--cron {self.line!r} is no cron line: give minute, hour, day of month, month and day of week, such "
                'as "0 3 * * *" for every day at 3 o\'clock'
            ) from error

    def after(self, moment: float) -> float:
        """The first time after a moment."""
        return float(self._at(moment).get_next(float))

    def until(self, moment: float) -> float:
        """The last time up to a moment."""
        return float(self._at(moment + 1e-3).get_prev(float))

    def _at(self, moment: float) -> croniter:
        return croniter(self.line, datetime.datetime.fromtimestamp(moment, zoneinfo.ZoneInfo(self.zone)))


def serve(
    run: Store,
    cron: Cron,
    work: Callable[[], object],
    *,
    clock: Clock | None = None,
    times: int | None = None,
) -> None:
    """Do the work whenever it is due: for ever, or so many times.

    Raises:
        InputError: the schedule's file cannot be read or written at the start.
    """
    clock = clock or Clock()
    done = _begun(run, cron, clock)
    while times is None or times > 0:
        due = cron.after(done)
        while (left := due - clock.now()) > 0:
            # A clock that is set, or a machine that slept, shows at the next look.
            clock.sleep(min(left, LOOK_SECONDS))
        done = max(due, cron.until(clock.now()))
        at = datetime.datetime.fromtimestamp(due, datetime.UTC).isoformat(timespec="minutes")
        _tried(work, at)
        _tried(functools.partial(_keep, run, cron, done), at)
        times = None if times is None else times - 1


def _tried(call: Callable[[], object], due: str) -> None:
    """Log a failure: who keeps the time outlives whatever happens at one time."""
    try:
        call()
    except RaydeltError as error:
        log.error("due at %s: %s", due, error)
    except Exception:
        log.exception("due at %s: an unexpected failure", due)


def _keep(run: Store, cron: Cron, done: float) -> None:
    run.write_json(FILE, {"cron": cron.line, "timezone": cron.zone, "done": done})


def _begun(run: Store, cron: Cron, clock: Clock) -> float:
    """When the run was last scored on schedule; now, where it never was: what is missed from now on is caught up."""
    if not run.exists(FILE):
        now = clock.now()
        _keep(run, cron, now)
        return now
    told = run.read_json(FILE)
    if not isinstance(told, dict) or not isinstance(told.get("done"), int | float):
        raise InputError(f"{run.path(FILE)} does not say what was done last: delete the file and start again")
    return float(told["done"])
