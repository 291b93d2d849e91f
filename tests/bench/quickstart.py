"""The quickstart in a process of its own: wall-clock seconds, and peak memory as the sum of PSS over all processes.

PSS (proportional set size) shares out pages that several processes map, so the sum counts shared memory once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import psutil

POLL_SECONDS = 0.25


def tree_pss(root: psutil.Process) -> int:
    """Bytes of PSS of a process and all its descendants."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "raydelt", "run", "jobs/quickstart.yaml", "-o", f"output={folder}/run"]
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        root, peak = psutil.Process(child.pid), 0
        while child.poll() is None:
            try:
                peak = max(peak, tree_pss(root))
            except psutil.NoSuchProcess:
                break
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        assert child.stdout is not None
        print(child.stdout.read())
    print(f"exit code {child.wait()}; {seconds:.1f} s; peak PSS of all processes {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
