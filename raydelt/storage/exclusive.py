"""Creating a file that only one of many writers may create.

On a local disk a hard link (or, where there are none, O_EXCL) decides; in a store a conditional put,
`If-None-Match: *`, where the store honours it. That is found out once: a second put of the same key must be refused.
Where it is ignored, writers elect one of themselves by the store's own clock:

    put a candidate of one's own; wait S seconds; list; the least (time by the store, name) of the live ones wins,
    looks once more whether the file stands, puts it, and takes its candidate away

A candidate that took longer than S / 2 to put withdraws, so all that can win are seen by all that list S seconds after
theirs; one older than `ABANDONED` S is that of a writer who died. This holds while listings show every finished put,
as those of S3 do, and while no writer stalls between its last look and its put; what must survive that too compares
fencing tokens (see `lease`). Cost: one request where puts are conditional, about seven and S seconds where not.

Caution: an answer can be lost after the put was done, and the put that is then tried again is refused. So where the
file holds just the bytes that were to be put, it is ours: bytes must tell writers apart.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
import uuid
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from raydelt.storage.faults import code_of

if TYPE_CHECKING:
    from raydelt.storage.store import Store

SETTLE_SECONDS = 3.0
ABANDONED = 10
CANDIDATE = ".candidate-"
REFUSED = ("PreconditionFailed", "412")


def create_only(store: Store, name: str, data: bytes) -> bool:
    """Put a file where there is none; whether the file that stands now is this one.

    Raises:
        OSError: the place cannot be written.
    """
    if store.is_local:
        return write_local(store.path(name), data, replace=False)
    if honours_conditions(store.root):
        return _put_if_none(store, store.path(name), data) or _holds(store, name, data)
    return _elected(store, name, data)


def write_local(target: str, data: bytes, *, replace: bool) -> bool:
    """Put a whole local file atomically; without `replace` only where there is none. Whether it was put."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f"{target}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, target)
            return True
        return _linked(temporary, target, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _linked(temporary: str, target: str, data: bytes) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        try:
            with open(target, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
    return True


@functools.lru_cache(maxsize=256)
def honours_conditions(root: str) -> bool:
    """Whether a second put of the same key is refused here, tried once in a process."""
    from raydelt.storage.store import Store

    store = Store(root)
    probe = f".probe-{uuid.uuid4().hex}"
    try:
        _put_if_none(store, store.path(probe), b"1")
        return not _put_if_none(store, store.path(probe), b"2")
    except (NotImplementedError, TypeError, ValueError):
        return False
    except OSError as error:
        if code_of(error) not in ("NotImplemented", "501", "InvalidArgument", "400"):
            raise
        return False
    finally:
        store.remove([probe])


def _put_if_none(store: Store, path: str, data: bytes) -> bool:
    try:
        store.fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if code_of(error) not in REFUSED:
            raise
        return False
    return True


def _holds(store: Store, name: str, data: bytes) -> bool:
    return store.exists(name) and store.read_bytes(name) == data


def _elected(store: Store, name: str, data: bytes) -> bool:
    if store.exists(name):
        return _holds(store, name, data)
    own = f"{name}{CANDIDATE}{uuid.uuid4().hex}"
    started = time.monotonic()
    store.write_bytes(own, data)
    try:
        if time.monotonic() - started > SETTLE_SECONDS / 2:
            return False
        time.sleep(SETTLE_SECONDS)
        if _least(store, name, own) != own or store.exists(name):
            return False
        if time.monotonic() - started > ABANDONED * SETTLE_SECONDS / 2:
            return False
        store.write_bytes(name, data)
        return True
    finally:
        store.remove([own])


def _least(store: Store, name: str, own: str) -> str:
    """The candidate that came first by the store's clock, those of writers who died left out."""
    prefix = store.path(f"{name}{CANDIDATE}")
    folder = prefix.rpartition("/")[0]
    found = [entry for entry in store.fs.ls(folder, detail=True, refresh=True) if entry["name"].startswith(prefix)]
    times = {entry["name"]: _time_of(entry) for entry in found}
    mine = times.get(store.path(own))
    if mine is None:
        return ""
    live = {path: when for path, when in times.items() if mine - when < ABANDONED * SETTLE_SECONDS}
    least = min(live, key=lambda path: (live[path], path))
    dead = [f"{name}{CANDIDATE}{path.removeprefix(prefix)}" for path in times if path not in live]
    store.remove(dead)
    return own if least == store.path(own) else least


def _time_of(entry: dict[str, Any]) -> float:
    found = next(entry[key] for key in ("LastModified", "mtime", "updated", "created") if entry.get(key) is not None)
    return float(found) if isinstance(found, (int, float)) else float(found.timestamp())


def date_of(answer: dict[str, Any]) -> float:
    """The time of S3's answer by the store's own clock, in seconds since 1970."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
