"""A Ray Train job: its workers, and checkpoints below the run directory that a killed job goes on from.

What a job reports comes back only with a checkpoint, so `commit` always writes one.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer

from raydelt import cluster
from raydelt.models.device import assigned_device
from raydelt.storage import Stage

SCRATCH = ".training"
STATE = "state.pt"


def run_job(
    worker: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    stage: Stage,
    *,
    workers: int | tuple[int, int],
    max_failures: int,
    num_gpus: float = 0.0,
    resize_every: float = 60.0,
) -> dict[str, Any]:
    """Run `worker(config)` on a group of workers, or on as many of a range as the cluster carries; the metrics that
    they committed last. A range is looked at again every `resize_every` seconds.

    Checkpoints lie under the stage's fingerprint until `forget_job`.
    """
    least, most = (workers, workers) if isinstance(workers, int) else workers
    gpus = gpus_of_worker(num_gpus, most)
    cluster.wait_for_free("CPU", least)
    resources = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
    with cluster.plain_errors():
        trainer = TorchTrainer(
            _in_the_drivers_folder,
            train_loop_config={"worker": worker, "config": config, "folder": os.getcwd()},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=resize_every,
            ),
            run_config=_run_config(stage, max_failures),
        )
        return dict(trainer.fit().metrics or {})


def gpus_of_worker(num_gpus: float, workers: int) -> float:
    """The GPUs that one of several workers takes: whole ones, since NCCL refuses two workers on one."""
    return num_gpus if workers == 1 else float(math.ceil(num_gpus))


def device_of_worker(num_gpus: float) -> str:
    """The device of this worker; Ray Train shows the workers of a machine all of their GPUs."""
    device = assigned_device(num_gpus)
    return device if device == "cpu" else str(ray.train.torch.get_device())


def forget_job(stage: Stage) -> None:
    """Delete the checkpoints of a job whose result is published."""
    stage.run.delete(f"{SCRATCH}/{stage.fingerprint}")


def commit(state: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Called by all workers: report metrics, and let the first one write a state that the job can go on from."""
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / STATE)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def committed() -> dict[str, Any] | None:
    """The last committed state, its tensors on the CPU; None at the start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu"))


def _in_the_drivers_folder(options: dict[str, Any]) -> None:
    """Ray Train gives workers a folder of their own, where the spec's relative paths lead nowhere."""
    if os.path.isdir(options["folder"]):
        os.chdir(options["folder"])
    options["worker"](options["config"])


def _run_config(stage: Stage, max_failures: int) -> ray.train.RunConfig:
    store = stage.run.at(SCRATCH)
    options: dict[str, Any] = {"storage_path": store.path()}
    if store.is_local:
        os.makedirs(store.path(), exist_ok=True)
    else:
        options["storage_filesystem"] = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.fs))
    return ray.train.RunConfig(
        name=stage.fingerprint,
        failure_config=ray.train.FailureConfig(max_failures=max_failures),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        **options,
    )
