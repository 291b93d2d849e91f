"""The versions of a run: whole run directories, one of which is current.

    RUN/                        version 0, as `raydelt run` leaves it
    RUN/versions/v000003/       version 3, a run directory like any other
    RUN/current.json            which version readers see; one put changes it

So a reader that asks once which version is current sees that one whole, whatever is written meanwhile. Cost: a request
to find it.

A version refers to no other: what it took over of an earlier one it holds itself, so any but the current one can go.
Version 0 is the run directory, and stays.

Caution: a reader that takes longer than it takes for `keep` newer versions to be made loses its files to `prune`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from raydelt.storage import Store
from raydelt.storage.lease import Fence

CURRENT = "current.json"
FOLDER = "versions"
NAME = re.compile(r"v(\d{6})")


@dataclass(frozen=True)
class Version:
    """One version of a run: its number, its directory, and when it was published (seconds since 1970; 0: unknown)."""

    number: int
    store: Store
    published: float = 0.0
    token: int = 0


def current(run: Store) -> Version:
    """The version that readers see: the run directory itself until it was scored again."""
    if not run.exists(CURRENT):
        return Version(0, run)
    told = run.read_json(CURRENT)
    return Version(told["version"], run.at(told["place"]), told["published"], told["token"])


def begin(run: Store, number: int) -> Store:
    """The directory of a version that is not published yet."""
    return run.at(place(number))


def publish(run: Store, number: int, fence: Fence) -> Version:
    """Let readers see a version from now on, if the lease that it was made under still holds.

    Raises:
        InputError: the lease is lost.
    """
    fence.check()
    version = Version(number, begin(run, number), time.time(), fence.token)
    told = {"version": number, "place": place(number), "published": version.published, "token": fence.token}
    run.write_json(CURRENT, told)
    return version


def known(run: Store) -> list[int]:
    """The numbers of the versions that stand, version 0 aside, an unfinished one among them."""
    return sorted(int(found[1]) for name in run.at(FOLDER).names() if (found := NAME.fullmatch(name)))


def prune(run: Store, *, keep: int) -> list[int]:
    """Delete all but the newest `keep` versions up to the current one; what was deleted."""
    newest = current(run).number
    gone = [number for number in known(run) if number <= newest - keep]
    for number in gone:
        run.delete(place(number))
    return gone


def place(number: int) -> str:
    """Name of a version's directory below the run."""
    return f"{FOLDER}/v{number:06d}"
