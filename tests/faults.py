"""Killing the processes of a run while it works."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import psutil


def kill_when(find: Callable[[], int | None], killed: list[int]) -> threading.Thread:
    """A thread that waits for `find` to name a process, and kills it."""

    def watch() -> None:
        while not killed:
            pid = find()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def worker_called(name: str) -> int | None:
    """The number of a process that this one started whose command line holds a name; None where there is none."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(process.cmdline()):
                return int(process.pid)
    return None
