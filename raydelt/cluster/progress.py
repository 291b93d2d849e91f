"""Bars on a terminal, and nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray


@contextlib.contextmanager
def counted(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    with _bar(label, total) as bar:
        yield lambda: bar(1.0)


@contextlib.contextmanager
def remote_progress(label: str, total: int) -> Iterator[Any]:
    """An actor whose `advance.remote(amount)` moves a bar on the driver's terminal; None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    counter = ray.remote(_Counter).options(num_cpus=0).remote()
    ended = threading.Event()

    def follow(bar: Callable[[float], None]) -> None:
        while not ended.wait(0.5):
            bar(ray.get(counter.taken.remote()))

    with _bar(label, total) as bar:
        thread = threading.Thread(target=follow, args=(bar,), daemon=True)
        thread.start()
        try:
            yield counter
        finally:
            ended.set()
            thread.join()
            ray.kill(counter)


class _Counter:
    """Counts up from anywhere; the driver takes what has come together."""

    def __init__(self) -> None:
        self.count = 0.0

    def advance(self, amount: float) -> None:
        self.count += amount

    def taken(self) -> float:
        count, self.count = self.count, 0.0
        return count


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[float], None]]:
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda amount: progress.advance(task, amount)
