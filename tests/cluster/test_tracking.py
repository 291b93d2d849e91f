"""Metrics of a training go to a real MLflow server, and one that cannot be used is told before anything runs."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from raydelt import pipeline
from raydelt.config import Track
from raydelt.errors import SpecError
from raydelt.train import track
from tests.flow import spec, write_digits
from tests.s3server import free_port

TRAIN: dict[str, Any] = {"recipe": {"steps": 40}, "seeds": [0], "baselines": ["random"], "evaluate_every": 20}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server on loopback."""
    port = free_port()
    place = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "server", *place, "--workers", "1"]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/health", process, tmp_path / "said")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(address: str, process: subprocess.Popen[bytes], said: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the MLflow server did not come up: {said.read_text()[-2000:]}")


def test_every_training_is_a_run_of_its_own_on_the_server(ray_session: None, server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    source = write_digits(tmp_path / "in", rows=300)
    config = spec(
        source,
        tmp_path / "out",
        corpus__validation={"fraction": 0.2},
        score=[{"kind": "tests.plugins:HashConfig"}],
        rank={"combine": {"weights": {"hash": 1.0}, "gate": None}},
        train=TRAIN | {"track": {"mlflow": server}},
    )
    results = pipeline.execute(config, until="model").manifests["model"].facts["results"]
    client = MlflowClient(tracking_uri=server)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["random-0", "selected-0"]
    for run in runs:
        [result] = [one for one in results if f"{one['arm']}-{one['seed']}" == run.info.run_name]
        assert run.info.status == "FINISHED"
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(point.step, point.value) for point in losses] == [tuple(point) for point in result["curve"]]
        accuracies = client.get_metric_history(run.info.run_id, "validation/accuracy")
        assert [(p.step, p.value) for p in accuracies] == [
            (s, found["accuracy"]) for s, found in result["evaluations"]
        ]


@pytest.mark.parametrize("place", ["http://127.0.0.1:9", "nowhere://x", "sqlite:////proc/none/mlflow.db"])
def test_a_place_that_cannot_be_used_is_told_at_once(place: str) -> None:
    with pytest.raises(SpecError, match=r"train.track.mlflow '.*' cannot be used \(.*\): give the address of"):
        track.check(Track(mlflow=place), local=True)


def test_what_a_place_holds_of_credentials_is_not_told() -> None:
    with pytest.raises(SpecError, match="cannot be used") as raised:
        track.check(Track(mlflow="http://somebody:hunter2@127.0.0.1:9"), local=True)
    assert "hunter2" not in str(raised.value)


def test_mlflow_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SpecError, match="needs MLflow: pip install"):
        track.check(Track(mlflow="http://127.0.0.1:9"), local=True)
