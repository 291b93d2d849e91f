"""What only one may hold at a time: a lease with an owner, an end, a renewal, a take-over, and a fencing token.

    leases/NAME/00000007         the seventh holder, created by one writer only (see `exclusive`)
    leases/NAME/00000007.beat    put again every third of the term: its age is the time since the last renewal
    leases/NAME/00000007.done    the holder gave it back

Who wants the lease looks at the highest number. If that was given back, or its beat is older than its term, the next
number is created, and whoever creates it holds the lease; the numbers are the fencing tokens, and only grow. Ages are
by the clock of the store or file server, as a file shows that is put beside the others, so the clocks of machines may
differ. A holder that cannot renew in time has lost the lease by its own monotonic clock before anyone else may take
it. Cost: about six requests to take it, ten where somebody held it last, two to renew it.

Caution: a holder that is stopped between `check` and a write can write after the next holder did. What it writes must
carry the token, and readers must prefer the higher one.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydelt.errors import InputError
from raydelt.storage.store import Store

FOLDER = "leases"
DIGITS = 8
NUMBER = re.compile(rf"\d{{{DIGITS}}}")
RENEWALS = 3
# Stores give times in whole seconds, and the last request takes its time.
GRACE_SECONDS = 3.0


@dataclass
class Fence:
    """A lease that is held: `token` grows from holder to holder."""

    store: Store
    name: str
    token: int
    seconds: float
    _renewed: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Fail if the lease is lost: call it before every write that others must not see from a late holder.

        Raises:
            InputError: it was not renewed in time, or somebody else took it.
        """
        late = time.monotonic() - self._renewed > self.seconds
        if late or not self.store.exists(_slot(self.token)) or self.store.exists(_slot(self.token + 1)):
            why = "was not renewed in time" if late else "was taken over"
            raise InputError(f"the lease {self.name!r} of {self.store.root} {why}: nothing was published, run again")

    def renew(self) -> None:
        """Hold it for another term from now on."""
        self.check()
        started = time.monotonic()
        self.store.write_bytes(f"{_slot(self.token)}.beat", b"")
        self._renewed = started

    def release(self) -> None:
        """Give it back."""
        self.store.write_bytes(f"{_slot(self.token)}.done", b"")


@contextlib.contextmanager
def held(store: Store, name: str, *, owner: str, seconds: float) -> Iterator[Fence]:
    """Hold the lease `name` of a run while the body works, renewing it in the background.

    Raises:
        InputError: somebody else holds it: who, and until when.
    """
    fence = acquire(store, name, owner=owner, seconds=seconds)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(seconds / RENEWALS):
            # What stays broken shows in `check`, when the term is over.
            with contextlib.suppress(Exception):
                fence.renew()

    thread = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        yield fence
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(InputError):
            fence.check()
            fence.release()


def acquire(store: Store, name: str, *, owner: str, seconds: float) -> Fence:
    """Take a lease that is free, was given back, or has run out.

    Raises:
        InputError: somebody else holds it: who, and until when.
    """
    place = store.at(f"{FOLDER}/{name}")
    last = max(_numbers(place.names()), default=0)
    if last:
        _refuse_if_held(place, name, last)
    token, started = last + 1, time.monotonic()
    told = {"owner": owner, "seconds": seconds, "nonce": uuid.uuid4().hex}
    if not place.create_only(_slot(token), json.dumps(told).encode()):
        _refuse(place, name, token)
    names = place.names()
    highest = max(_numbers(names))
    if highest != token:
        # A slow taker of a number that was already given up: the holder's is higher.
        place.remove([_slot(token)])
        _refuse(place, name, highest)
    stale = [file for file in names if NUMBER.match(file) and int(file[:DIGITS]) < token]
    for slot in sorted(filter(NUMBER.fullmatch, stale)):
        place.remove([slot])
    place.remove(stale)
    return Fence(place, name, token, seconds, started)


def _slot(token: int) -> str:
    return f"{token:0{DIGITS}d}"


def _numbers(names: Sequence[str]) -> list[int]:
    return [int(file) for file in names if NUMBER.fullmatch(file)]


def _refuse_if_held(place: Store, name: str, token: int) -> None:
    if place.exists(f"{_slot(token)}.done"):
        return
    if _left(place, token) > -GRACE_SECONDS:
        _refuse(place, name, token)


def _refuse(place: Store, name: str, token: int) -> None:
    told, left = _told(place, token), _left(place, token)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + max(left, 0)))
    raise InputError(
        f"the lease {name!r} of {place.root} is held by {told.get('owner', 'another')} until {until}, longer if it is "
        "renewed: wait for it to end, or stop it"
    )


def _told(place: Store, token: int) -> dict[str, Any]:
    """What the holder wrote; empty where it is gone."""
    found: dict[str, Any] = place.read_json(_slot(token)) if place.exists(_slot(token)) else {}
    return found


def _left(place: Store, token: int) -> float:
    """Seconds that a holder's term still runs, by the store's clock; below 0 once it is over."""
    puts = [s.put for n in (_slot(token), f"{_slot(token)}.beat") if (s := place.standing(n)) is not None]
    return float(_told(place, token).get("seconds", 0.0)) - (_now(place) - max(puts, default=float("-inf")))


def _now(place: Store) -> float:
    """The time by the clock that the files of a place have theirs from."""
    probe = f".probe-{uuid.uuid4().hex}"
    place.write_bytes(probe, b"")
    try:
        standing = place.standing(probe)
    finally:
        place.remove([probe])
    if standing is None:
        raise InputError(f"{place.url(probe)} is gone while it is looked at: let nothing else write there")
    return standing.put
