"""Whether Ray starts or can be joined, asked in a process of its own that can be given up.

    python -m raydelt.setup.ray_start < {"cluster": {...}, "spec": {...} or null}   prints one JSON object

An embedded Ray keeps its session in a folder that is deleted afterwards. Cost: a few seconds of start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

from raydelt.config import Cluster, RunConfig
from raydelt.errors import RaydeltError
from raydelt.report.wording import size
from raydelt.setup.findings import Finding, parted

SECONDS, GRACE_SECONDS = 120.0, 10.0
MARK = "raydelt-ray:"


def ray(cluster: Cluster, config: RunConfig | None, *, seconds: float = SECONDS) -> Finding:
    """Start or join a Ray, tell what it has, and whether it can meet what the spec asks for."""
    question = {"cluster": cluster.model_dump(mode="json"), "spec": config.resolved() if config else None}
    folder = tempfile.mkdtemp(prefix="rd-", dir=os.environ.get("RAY_TMPDIR"))
    try:
        answer = _asked(question, folder, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if answer is None:
        cure = "see whether its processes may start here (`ray start --head`), and RAYDELT_DEBUG=1 raydelt run"
        return Finding("ray", "fail", f"no Ray within {seconds:g} s", cure)
    if "error" in answer:
        told, cure = parted(answer["error"])
        return Finding("ray", "fail", told, cure or "mend what it names")
    machines = "1 machine" if answer["machines"] == 1 else f"{answer['machines']} machines"
    about = f"{machines}, {answer['cpus']} CPUs, {answer['gpus']:g} GPUs"
    how = f"joined at {answer['address']}" if answer["address"] else "starts inside the process"
    if answer["refused"]:
        told, cure = parted(answer["refused"])
        return Finding("ray", "fail", f"{how}, {about}; {told}", cure)
    return Finding("ray", "ok", f"{how}: {about}, object store {size(answer['object_store_bytes'])}")


def _asked(question: dict[str, Any], folder: str, seconds: float) -> dict[str, Any] | None:
    """The answer of the other process; None where none came in time. Its whole group is ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "raydelt.setup.ray_start"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_TMPDIR": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        out, _ = process.communicate(json.dumps(question), timeout=seconds)
    except subprocess.TimeoutExpired:
        out = ""
    finally:
        _ended(process)
    line = next((line for line in reversed(out.splitlines()) if line.startswith(MARK)), None)
    if line is None and out.strip() == "" and process.returncode not in (0, None, -signal.SIGTERM, -signal.SIGKILL):
        return {"error": f"Ray's start ended with code {process.returncode}: run with RAYDELT_DEBUG=1 to see why"}
    found: dict[str, Any] | None = None if line is None else json.loads(line.removeprefix(MARK))
    return found


def _ended(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        # Ray ends its own processes at SIGTERM; what is left of the group is killed.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Answer one question."""
    question = json.load(sys.stdin)
    spec = question["spec"]
    config = RunConfig.model_validate(spec) if spec else None
    try:
        answer = _answer(Cluster.model_validate(question["cluster"]), config)
    except RaydeltError as error:
        answer = {"error": str(error)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    print(MARK + json.dumps(answer), flush=True)


def _answer(cluster: Cluster, config: RunConfig | None) -> dict[str, Any]:
    from raydelt import cluster as rays
    from raydelt.precheck import require

    with rays.connected(cluster):
        refused = ""
        if config is not None:
            try:
                require(config)
            except RaydeltError as error:
                refused = str(error)
        return {**rays.capacity(), "address": cluster.joined, "refused": refused}


if __name__ == "__main__":
    main()
