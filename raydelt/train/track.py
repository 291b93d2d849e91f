"""Metrics while a training runs: TensorBoard files below the run directory, or an MLflow server or database.

The first worker writes them. A training that goes on from a checkpoint writes the steps since then once more, under
the same numbers, so nothing is counted twice. Cost: a few numbers every `steps / 20` steps. A tracker that fails while
a training runs is left out from then on, and the run says so: metrics are not worth a training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from raydelt import environment
from raydelt.config import Track
from raydelt.errors import SpecError
from raydelt.storage import Stage
from raydelt.storage.places import masked

FOLDER = "tensorboard"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
# MLflow waits twice as long each time: its own seven retries would hold up a training for minutes.
RETRIES_WITHIN = "3"


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
        os.environ.setdefault(RETRIES, RETRIES_WITHIN)
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


class Tracking:
    """The trackers of one training, from a step on; `lost` tells of those that failed."""

    def __init__(self, makers: Sequence[Callable[[], Tracker]], step: int) -> None:
        self.lost: list[str] = []
        self._live: list[Tracker] = []
        for make in makers:
            self._try(partial(self._begin, make), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep these values of a step."""
        for tracker in list(self._live):
            if not self._try(partial(tracker.log, step, values), step):
                self._live.remove(tracker)

    def close(self, step: int) -> None:
        """Write out what is left."""
        for tracker in self._live:
            self._try(tracker.close, step)

    def _begin(self, make: Callable[[], Tracker]) -> None:
        self._live.append(make())

    def _try(self, act: Callable[[], object], step: int) -> bool:
        try:
            act()
        except Exception as error:
            # Servers, databases, disks and their libraries raise classes of their own.
            self.lost.append(f"from step {step} on ({_reason(error)})")
            return False
        return True


def tracking(track: Track, stage: Stage, experiment: str, name: str, step: int) -> Tracking:
    """Whatever the spec asks for."""
    makers: list[Callable[[], Tracker]] = []
    if track.tensorboard:
        makers.append(partial(TensorBoard, stage, name, step))
    if track.mlflow is not None:
        makers.append(partial(MLflow, track.mlflow, experiment, name, f"{stage.fingerprint[:10]}-{name}"))
    return Tracking(makers, step)


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
    try:
        with environment.having(**{RETRIES: "1"}):
            client_of(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:
        # Databases, servers and their libraries raise classes of their own.
        raise SpecError(
            f"train.track.mlflow {masked(uri)!r} cannot be used ({_reason(error)}): give the address of an MLflow "
            "server that runs, or a database, such as sqlite:///mlflow.db"
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of an error, without credentials."""
    return masked((str(error) or type(error).__name__).splitlines()[0].partition(". ")[0])


def _mlflow() -> Any:
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise SpecError("train.track.mlflow needs MLflow: pip install 'raydelt[mlflow]'") from None
    return MlflowClient
