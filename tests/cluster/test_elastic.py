"""A training whose cluster shrinks and grows leaves the same certificate. Slow: Ray sees new nodes once a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raydelt.train.certificate import load
from tests.flow import spec, write_digits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAIN: dict[str, Any] = {
    "recipe": {"steps": 200_000, "batch_size": 12},
    "seeds": [0],
    "baselines": [],
    "checkpoint_every": 2000,
    "max_failures": 10,
}
CHEAP: dict[str, Any] = {
    "score": [{"kind": "tests.plugins:HashConfig"}],
    "rank": {"combine": {"weights": {"hash": 1.0}, "gate": None}},
}
# In a process of its own, since a simulated cluster takes Ray over. Writes the number of workers seen at each change.
SHRINK_AND_GROW = """
import json, sys, threading, time
from ray.cluster_utils import Cluster
from raydelt import pipeline
from raydelt.specfile import validate
import ray

config = validate(json.loads(sys.argv[1]))
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
spare = nodes.add_node(num_cpus=1)
ray.init(address=nodes.address, runtime_env={"env_vars": {"PYTHONPATH": ":".join(p for p in sys.path if p)}})
seen, over = [], threading.Event()

def workers():
    import psutil
    found = 0
    for process in psutil.Process().children(recursive=True):
        try:
            found += "RayTrainWorker" in " ".join(process.cmdline())
        except psutil.Error:
            pass
    return found

def wait_for(count, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over.is_set():
        if workers() == count:
            seen.append(count)
            return
        time.sleep(0.2)

def change():
    wait_for(2, 120)
    time.sleep(5)
    nodes.remove_node(spare)
    wait_for(1, 120)
    time.sleep(5)
    nodes.add_node(num_cpus=1)
    wait_for(2, 240)

thread = threading.Thread(target=change, daemon=True)
thread.start()
pipeline.execute(config, until="model")
over.set()
thread.join(5)
print(json.dumps(seen))
ray.shutdown()
nodes.shutdown()
"""


def test_a_cluster_that_shrinks_and_grows_leaves_the_same_certificate(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    heads = []
    for name, workers in (("still", 1), ("elastic", [1, 2])):
        config = spec(source, tmp_path / name, train=TRAIN | {"workers": workers}, **CHEAP)
        if name == "still":
            code = "import json, sys\nfrom raydelt import pipeline\nfrom raydelt.specfile import validate\n"
            code += "pipeline.execute(validate(json.loads(sys.argv[1])), until='model')\nprint('[]')"
        else:
            code = SHRINK_AND_GROW
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(config.resolved())],
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        seen = json.loads(done.stdout.splitlines()[-1])
        certificate = load(json.loads((tmp_path / name / "model" / "order-certificate.json").read_text()))
        heads.append([(chain.head, chain.checkpoints) for chain in certificate.chains])
    assert seen == [2, 1, 2]
    assert heads[0] == heads[1]
