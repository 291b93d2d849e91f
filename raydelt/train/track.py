"""Metrics while a training runs: TensorBoard files below the run directory, or an MLflow server or database.

The first worker writes them. A training that goes on from a checkpoint writes the steps since then once more, under
the same numbers, so nothing is counted twice. Cost: a few numbers every `steps / 20` steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from raydelt.config import Track
from raydelt.errors import SpecError
from raydelt.storage import Stage
from raydelt.storage.places import masked

FOLDER = "tensorboard"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


class Tracker(Protocol):
    """Takes the metrics of one training."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep these values of a step."""
        ...

    def close(self) -> None:
        """Write out what is left."""
        ...


class TensorBoard:
    """Event files in `RUN/tensorboard/ARM-SEED`."""

    def __init__(self, stage: Stage, name: str, step: int) -> None:
        from tensorboardX import SummaryWriter

        folder = stage.run.path(f"{FOLDER}/{name}")
        self.writer = SummaryWriter(logdir=folder, purge_step=step or None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """One MLflow run per training, found again by its name."""

    def __init__(self, uri: str, experiment: str, name: str, key: str) -> None:
        client_of = _mlflow()
        self.client = client_of(tracking_uri=uri)
        found = self.client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self.client.create_experiment(experiment)
        known = self.client.search_runs([place], filter_string=f"tags.raydelt_training = '{key}'")
        tags = {"raydelt_training": key}
        run = known[0] if known else self.client.create_run(place, run_name=name, tags=tags)
        self.run = run.info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)


def trackers(track: Track, stage: Stage, experiment: str, name: str, step: int) -> list[Tracker]:
    """Whatever the spec asks for."""
    found: list[Tracker] = []
    if track.tensorboard:
        found.append(TensorBoard(stage, name, step))
    if track.mlflow is not None:
        found.append(MLflow(track.mlflow, experiment, name, f"{stage.fingerprint[:10]}-{name}"))
    return found


def check(track: Track, *, local: bool) -> None:
    """Refuse what could not be written.

    Raises:
        SpecError: MLflow is not installed or does not answer, or TensorBoard files are asked for in an object store.
    """
    if track.tensorboard and not local:
        raise SpecError("train.track.tensorboard needs a local output: set train.track.mlflow, or a local `output`")
    if track.mlflow is not None:
        _ask(track.mlflow)


def _ask(uri: str) -> None:
    """Find out in seconds what MLflow would try for minutes, or would find out only when the training begins."""
    client_of = _mlflow()
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "1"
    try:
        client_of(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:
        # Databases, servers and their libraries raise classes of their own.
        told = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise SpecError(
            f"train.track.mlflow {masked(uri)!r} cannot be used ({masked(told)}): give the address of an MLflow "
            "server that runs, or a database, such as sqlite:///mlflow.db"
        ) from error
    finally:
        os.environ.pop(RETRIES)
        if before is not None:
            os.environ[RETRIES] = before


def _mlflow() -> Any:
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise SpecError("train.track.mlflow needs MLflow: pip install 'raydelt[mlflow]'") from None
    return MlflowClient
