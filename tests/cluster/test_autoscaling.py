"""Scoring actors and nodes grow under load and go again, and the job is done."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.manifests import ROOT

SPACE = ["unshare", "-n", "-p", "-f", "--mount-proc"]
# Ray notes its latest address under /tmp/ray, where other Rays of this machine look.
READY = "mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && ip link set lo up"
ACTORS = 3


def own_space() -> None:
    """Skip where no namespace may be made: fake nodes would meet whatever else runs on this machine."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed")
    done = subprocess.run([*SPACE, "sh", "-c", READY], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no namespace may be made here: {done.stderr.strip()}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_actors_grow_to_the_most_and_nodes_go_again(tmp_path: Path) -> None:
    own_space()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    script = READY + ' && exec "$0" -m tests.autoscaled "$1"'
    done = subprocess.run(
        [*SPACE, "sh", "-c", script, sys.executable, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | token,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    seen: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    *moments, end = seen
    nodes = [moment["nodes"] for moment in moments]
    actors = [moment["actors"] for moment in moments]
    assert nodes[0] == 0
    first = next((number for number in actors if number > 0), None)
    assert first == 1, done.stdout
    assert max(actors) == ACTORS, actors
    assert max(nodes) >= ACTORS, nodes
    assert end["code"] == 0, done.stderr[-5000:]
    # Once the job is done the cluster is as small as it was, and no row is missing.
    assert (end["nodes"], end["actors"]) == (0, 0)
    assert end["rows"]["corpus"] == end["rows"]["scores"] == end["rows"]["ranking"] > 0
