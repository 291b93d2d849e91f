"""Peak memory of a run: the PSS of all its processes on this machine, looked at about once a second by a thread.

PSS (proportional set size) shares out pages that several processes map, so the sum counts the object store once; of
it, `shared` are pages of shared memory, which is where Ray's object store lies. A process whose smaps cannot be read
counts with its resident set. Cost: a look takes 5 to 20 ms for each process, and never more than a twentieth of the
time. Source: proc(5), smaps_rollup.

Caution: a cluster's other machines are not seen, and where several drivers share a Ray, its workers count for each.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil

SECONDS = 1.0
SHARE = 0.05
START = "start"


@dataclass(frozen=True)
class Usage:
    """Bytes of memory, and how many of them are shared memory."""

    memory: int = 0
    shared: int = 0

    def most(self, other: Usage) -> Usage:
        """The greater of each."""
        return Usage(max(self.memory, other.memory), max(self.shared, other.shared))


@dataclass
class Watch:
    """The greatest usage seen in every stage; whoever runs the stages names the one that is on."""

    stage: str = START
    peaks: dict[str, Usage] = field(default_factory=dict)

    def look(self, processes: Sequence[psutil.Process]) -> None:
        """Take one look at processes."""
        found = usage(processes)
        self.peaks[self.stage] = found.most(self.peaks.get(self.stage, Usage()))


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch this process, its descendants and the Ray that they talk to for as long as the context lasts."""
    watch, ended = Watch(), threading.Event()

    def follow() -> None:
        pause = 0.0
        while not ended.wait(pause):
            started = time.perf_counter()
            watch.look(of_this_run())
            pause = max(SECONDS, (time.perf_counter() - started) / SHARE)

    thread = threading.Thread(target=follow, name="raydelt memory", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def of_this_run() -> list[psutil.Process]:
    """This process, its descendants, and those of the raylets of its Ray on this machine."""
    from raydelt.cluster import session

    roots, name = [psutil.Process()], session()
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter() if name else ():
        with contextlib.suppress(psutil.Error):
            if process.name() in ("raylet", "gcs_server") and any(name in word for word in process.cmdline()):
                roots.append(process)
    for root in roots:
        with contextlib.suppress(psutil.Error):
            found |= {process.pid: process for process in [root, *root.children(recursive=True)]}
    return list(found.values())


def usage(processes: Sequence[psutil.Process]) -> Usage:
    """What processes hold together; those that have ended hold nothing."""
    memory = shared = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError, FileNotFoundError):
            own = _proportional(process.pid) or Usage(process.memory_info().rss)
            memory, shared = memory + own.memory, shared + own.shared
    return Usage(memory, shared)


def _proportional(pid: int) -> Usage | None:
    """A process's share of what it maps; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            sizes = dict(line.split(":", 1) for line in file if line.startswith("Pss"))
        return Usage(_bytes(sizes["Pss"]), _bytes(sizes.get("Pss_Shmem", "0 kB")))
    except (PermissionError, FileNotFoundError, KeyError):
        return None


def _bytes(text: str) -> int:
    return int(text.split()[0]) << 10
