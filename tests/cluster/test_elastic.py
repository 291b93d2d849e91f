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
    "recipe": {"steps": 80_000, "batch_size": 12},
    "seeds": [0],
    "baselines": [],
    "checkpoint_every": 2000,
    "max_failures": 10,
    "resize_every": 2.0,
}
CHEAP: dict[str, Any] = {
    "score": [{"kind": "tests.plugins:HashConfig"}],
    "rank": {"combine": {"weights": {"hash": 1.0}, "gate": None}},
}
TRAIN_IT = """
import json, sys
from raydelt import pipeline
from raydelt.specfile import validate

pipeline.execute(validate(json.loads(sys.argv[1])), until="model")
"""
# In a process of its own, since a simulated cluster takes Ray over; the training is another process, because nodes can
# only be added by the main thread. Prints the numbers of workers that trained for a while.
SHRINK_AND_GROW = """
import json, subprocess, sys, time
import psutil
from ray.cluster_utils import Cluster

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
spare = nodes.add_node(num_cpus=1)
config = json.loads(sys.argv[1]) | {"cluster": {"address": nodes.address}}
training = subprocess.Popen([sys.executable, "-c", sys.argv[2], json.dumps(config)])
seen = []

def workers():
    found = 0
    for process in psutil.Process().children(recursive=True):
        try:
            found += "RayTrainWorker" in " ".join(process.cmdline())
        except psutil.Error:
            pass
    return found

def wait_for(count):
    held = 0
    while held < 20 and training.poll() is None:
        held = held + 1 if workers() == count else 0
        time.sleep(0.2)
    seen.extend([count] if held == 20 else [])

wait_for(2)
nodes.remove_node(spare)
wait_for(1)
nodes.add_node(num_cpus=1)
wait_for(2)
code = training.wait()
nodes.shutdown()
print(json.dumps(seen))
sys.exit(code)
"""


def test_a_cluster_that_shrinks_and_grows_leaves_the_same_certificate(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    heads = []
    for name, workers in (("still", 1), ("elastic", [1, 2])):
        config = spec(source, tmp_path / name, train=TRAIN | {"workers": workers}, **CHEAP)
        code = TRAIN_IT if name == "still" else SHRINK_AND_GROW
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(config.resolved()), TRAIN_IT],
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        seen = json.loads(done.stdout.splitlines()[-1]) if name == "elastic" else []
        certificate = load(json.loads((tmp_path / name / "model" / "order-certificate.json").read_text()))
        heads.append([(chain.head, chain.checkpoints) for chain in certificate.chains])
    assert seen == [2, 1, 2]
    assert heads[0] == heads[1]
