"""A job on Ray's own autoscaler with fake nodes, and what was seen of it meanwhile, as JSON lines on stdout.

    unshare -n -p -f --mount-proc sh -c 'mount -t tmpfs tmpfs /tmp/ray && ip link set lo up &&
      exec python -m tests.autoscaled FOLDER'

The head has no CPU, as on a cluster; worker nodes of one CPU and one logical GPU come and go. Every scoring actor
takes a GPU, and batches are slow until as many actors as there may be are seen: the load lasts until the cluster has
grown, or for four minutes. Caution: leaves its Ray running, to end with the namespace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException, ServerUnavailable

from raydelt.scorers.protocol import Array
from raydelt.scorers.registry import ScorerConfig
from tests.flow import spec, write_digits
from tests.plugins import HashScorer

NODES = 4
GONE_SECONDS = 240
STORE_BYTES = 80_000_000
GROUP = "raydelt.gpu"
ADDRESS = "127.0.0.1:6379"


class LoadConfig(ScorerConfig):
    """Takes `seconds` for each batch until the file `enough` stands, and no time afterwards."""

    kind: str = "tests.autoscaled:LoadConfig"
    enough: str
    seconds: float = 15.0

    def build(self) -> LoadScorer:
        return LoadScorer(self)


class LoadScorer(HashScorer):
    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        until = time.monotonic() + self.config.seconds
        while not Path(self.config.enough).exists() and time.monotonic() < until:
            time.sleep(0.1)
        return super().score(batch)


def fake_cluster() -> dict[str, Any]:
    """What `ray start --autoscaling-config` reads; Ray's wheel lacks the example that its own helper starts from."""
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    worker = {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES}
    return {
        "cluster_name": "fake",
        "max_workers": NODES,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "disable_node_updaters": True,
            # Nodes of one machine have one address: without this all but one pass for nodes that never start.
            "use_node_id_as_ip": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            GROUP: {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": NODES},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in lists},
    }


def start_head(folder: Path) -> None:
    """A head whose monitor grows and shrinks it, by Ray's first autoscaler."""
    config = folder / "fake.json"
    config.write_text(json.dumps(fake_cluster()))
    ray_command = str(Path(sys.executable).with_name("ray"))
    start = [ray_command, "start", "--head", "--num-cpus=0", f"--autoscaling-config={config}"]
    start += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
    own = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    subprocess.run(start, check=True, env=os.environ | own, stdout=sys.stderr)


def look() -> dict[str, int]:
    """Living worker nodes, and the scoring actors on them."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    try:
        actors = [one for one in list_actors(limit=1000) if one.state == "ALIVE" and "MapWorker" in one.class_name]
    except (ServerUnavailable, RayStateApiException):
        # The dashboard comes up after the head, and leaves out what it does not know in time.
        return {"nodes": len(nodes), "actors": -1}
    return {"nodes": len(nodes), "actors": len(actors)}


def observe(job: subprocess.Popen[bytes], enough: Path, actors: int) -> None:
    """Print what is seen whenever it changes until job and nodes are gone; lift the load once all actors are there."""
    last: dict[str, Any] = {}
    gone = None
    while gone is None or (last["nodes"] and time.monotonic() < gone):
        if job.poll() is not None and gone is None:
            gone = time.monotonic() + GONE_SECONDS
        seen = {"phase": "job" if gone is None else "after", **look()}
        if seen["actors"] >= actors:
            enough.touch()
        if seen != last:
            print(json.dumps(seen), flush=True)
        last = seen
        time.sleep(0.5)


def main(folder: Path, *, actors: int = 3) -> None:
    """Run a job on one to `actors` scoring actors, and wait until the cluster is as small as it was."""
    enough, place = folder / "enough", folder / "spec.yaml"
    config = spec(
        write_digits(folder / "in", rows=1700),
        folder / "out",
        score=[{"kind": "tests.autoscaled:LoadConfig", "enough": str(enough)}],
        rank={"combine": {"weights": {"hash": 1.0}, "gate": None}},
        cluster={
            "address": ADDRESS,
            "actors": {"min": 1, "max": actors, "num_cpus": 0.5, "num_gpus": 1},
            "most": {"cpus": NODES, "gpus": NODES},
        },
    )
    place.write_text(yaml.safe_dump(config.resolved()))
    start_head(folder)
    ray.init(address=ADDRESS, log_to_driver=False)
    job = subprocess.Popen([sys.executable, "-m", "raydelt", "rank", str(place)], stdout=sys.stderr)
    observe(job, enough, actors)
    stages = read_stages(folder / "out") if job.wait() == 0 else {}
    print(json.dumps({"code": job.returncode, "rows": stages, **look()}), flush=True)


def read_stages(output: Path) -> dict[str, int]:
    """Rows by stage, as the run's record has them."""
    record = json.loads((output / "run.json").read_text())
    return {name: stage["rows"] for name, stage in record["stages"].items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
