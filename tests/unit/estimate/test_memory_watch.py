"""Memory of a tree of processes: it counts what a child holds, shared pages once, and peaks by stage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raydelt.estimate.memory import START, Usage, Watch, of_this_run, usage, watched

HELD = 64 << 20
CHILD = """
import mmap, sys
size = {size}
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if {private} else open({file!r}, "r+b")
held = held if {private} else mmap.mmap(held.fileno(), size)
held[:] = b"x" * size
print("ready", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for child in found:
        child.communicate("")


def started(private: bool, file: Path) -> subprocess.Popen[str]:
    code = CHILD.format(size=HELD, private=private, file=str(file))
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_a_childs_memory_counts(tmp_path: Path, children: list[subprocess.Popen[str]]) -> None:
    before = usage(of_this_run())
    children.append(started(True, tmp_path / "none"))
    after = usage(of_this_run())
    assert HELD < after.memory - before.memory < HELD + (48 << 20)
    assert after.shared - before.shared < HELD / 2


def test_pages_that_two_processes_share_count_once(children: list[subprocess.Popen[str]]) -> None:
    file = Path("/dev/shm") / f"raydelt-test-{time.time_ns()}"
    file.write_bytes(bytes(HELD))
    try:
        children += [started(False, file), started(False, file)]
        own = usage([psutil.Process(child.pid) for child in children])
    finally:
        file.unlink()
    assert HELD <= own.shared < HELD * 1.1


def test_ended_processes_hold_nothing(tmp_path: Path) -> None:
    child = started(True, tmp_path / "none")
    process = psutil.Process(child.pid)
    child.communicate("")
    assert usage([process]) == Usage(0, 0)


def test_a_watch_keeps_the_peak_of_every_stage() -> None:
    watch = Watch()
    watch.look([psutil.Process()])
    first = watch.peaks[START]
    watch.look([])
    assert watch.peaks[START] == first
    watch.stage = "corpus"
    watch.look([])
    assert watch.peaks["corpus"] == Usage(0, 0)


def test_watching_sees_this_process() -> None:
    with watched() as watch:
        for _ in range(200):
            if watch.peaks:
                break
            time.sleep(0.05)
    assert watch.peaks[START].memory > 10 << 20
