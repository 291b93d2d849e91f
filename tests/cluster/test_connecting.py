"""What the workers of an embedded Ray get from the process that starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, ray
from raydelt import cluster
from raydelt.config import Cluster

def look():
    import only_the_driver_knows
    return only_the_driver_knows.COLOUR, dict(ray.get_runtime_context().runtime_env)

with cluster.connected(Cluster(address="local", num_cpus=1)):
    colour, environment = ray.get(ray.remote(look).remote())
print(json.dumps([colour, environment, os.environ.get("PYTHONPATH")]))
"""


def test_workers_import_what_the_driver_can_and_start_without_an_environment_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "only_the_driver_knows.py").write_text("COLOUR = 'mauve'")
    script = f"import sys; sys.path.append({str(tmp_path)!r})\n{SCRIPT}"
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    ended = subprocess.run([sys.executable, "-c", script], env=inherited, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout.splitlines()[-1]) == ["mauve", {}, None]
