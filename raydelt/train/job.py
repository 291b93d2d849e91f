"""A Ray Train job: its workers, and checkpoints below the run directory that a killed job goes on from.

What a job reports comes back only with a checkpoint, so `commit` always writes one.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer

from raydelt import cluster
from raydelt.errors import InputError, RaydeltError
from raydelt.models.device import assigned_device
from raydelt.storage import Stage, Store, of_store, told

SCRATCH = ".training"
STATE = "state.pt"
# How Ray Train says that the file is gone by which it tells a storage that all nodes share.
MARK_GONE = "Unable to set up cluster storage"
# Where the checkpoints of this worker's job lie; a worker has one job.
_job: Store | None = None


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
    job = stage.run.at(SCRATCH).at(stage.fingerprint)
    with cluster.plain_errors(), plain_checkpoints(job.root):
        trainer = TorchTrainer(
            _in_the_drivers_folder,
            train_loop_config={"worker": worker, "config": config, "folder": os.getcwd(), "job": job},
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
        own = None if _job is None or _job.is_local else functools.partial(upload, _job)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_upload_fn=own)


def upload(job: Store, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Put a state into the store that holds a job's checkpoints.

    Ray Train copies by pyarrow, which loses the failure of a Python file system to close a file: a checkpoint that the
    store refused would count as written.
    """
    place = job.at(name)
    place.write_bytes(STATE, (Path(checkpoint.path) / STATE).read_bytes())
    return ray.train.Checkpoint(place.path(), filesystem=_arrow(place))


def committed() -> dict[str, Any] | None:
    """The last committed state, its tensors on the CPU; None at the start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    if _job is not None and not _job.is_local:
        data = _job.at(Path(checkpoint.path).name).read_bytes(STATE)
        return dict(torch.load(io.BytesIO(data), weights_only=True, map_location="cpu"))
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu"))


def _arrow(store: Store) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.fs))


def _in_the_drivers_folder(options: dict[str, Any]) -> None:
    """Ray Train gives workers a folder of their own, where the spec's relative paths lead nowhere."""
    if os.path.isdir(options["folder"]):
        os.chdir(options["folder"])
    global _job
    _job = options["job"]
    options["worker"](options["config"])


@contextlib.contextmanager
def plain_checkpoints(place: str) -> Iterator[None]:
    """Tell in one sentence what a store does to what Ray Train itself keeps beside the checkpoints of a job."""
    try:
        yield
    except RaydeltError:
        raise
    except Exception as error:
        found = _of_checkpoints(error, place)
        if found is None:
            raise
        raise found from None


def _of_checkpoints(error: Exception, place: str) -> RaydeltError | None:
    """The sentence for a failure of the driver or of the controller; None where no store is at fault.

    Workers ask stores in our own ways, which tell it themselves.
    """
    for one in (error, getattr(error, "controller_failure", None)):
        if one is not None and of_store(one):
            return told(one, place, "used for checkpoints")
        if one is not None and MARK_GONE in str(one):
            return InputError(
                f"{place} cannot be used for checkpoints: what was written there is gone, or not every node sees the "
                "place: if something emptied it, run again"
            )
    return None


def _run_config(stage: Stage, max_failures: int) -> ray.train.RunConfig:
    store = stage.run.at(SCRATCH)
    options: dict[str, Any] = {"storage_path": store.path()}
    if store.is_local:
        os.makedirs(store.path(), exist_ok=True)
    else:
        options["storage_filesystem"] = _arrow(store)
    return ray.train.RunConfig(
        name=stage.fingerprint,
        failure_config=ray.train.FailureConfig(max_failures=max_failures),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        **options,
    )
