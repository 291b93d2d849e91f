"""The order certificate is the same however a training was carried out, and verification accepts what was planned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from raydelt import pipeline
from raydelt.errors import InputError
from raydelt.storage import Store
from raydelt.train.certificate import Certificate, load
from raydelt.train.verify import verify
from tests.faults import kill_when, worker_called
from tests.flow import spec, write_digits

TRAIN: dict[str, Any] = {
    "recipe": {"steps": 120, "batch_size": 12},
    "seeds": [0, 3],
    "baselines": ["random"],
    "checkpoint_every": 25,
    "precision": "float64",
}
CHEAP: dict[str, Any] = {
    "score": [{"kind": "tests.plugins:HashConfig"}],
    "rank": {"combine": {"weights": {"hash": 1.0}, "gate": None}},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), rows=300)


@pytest.fixture(scope="module")
def alone(ray_session: None, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one worker that nothing happened to."""
    output = tmp_path_factory.mktemp("alone")
    pipeline.execute(spec(source, output, train=TRAIN, **CHEAP), until="model")
    return output


def certificate(output: Path) -> Certificate:
    return load(json.loads((output / "model" / "order-certificate.json").read_text()))


def heads(output: Path) -> list[tuple[Any, ...]]:
    return [(c.arm, c.seed, c.plan, c.steps, c.head, c.checkpoints) for c in certificate(output).chains]


def command(output: Path, source: Path, **changes: Any) -> list[str]:
    """`raydelt train` in a process and a Ray of its own."""
    config = spec(source, output, train=TRAIN | changes, **CHEAP, cluster={"num_cpus": 4}).resolved()
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "raydelt", "train", str(path)]


def losses(output: Path) -> list[list[float]]:
    lines = (output / "model" / "training-log.jsonl").read_text().splitlines()
    return [[loss for _, loss in json.loads(line)["curve"]] for line in lines]


def test_two_workers_leave_the_same_certificate_and_the_same_losses(alone: Path, source: Path, tmp_path: Path) -> None:
    pipeline.execute(spec(source, tmp_path / "two", train=TRAIN | {"workers": 2}, **CHEAP), until="model")
    assert heads(tmp_path / "two") == heads(alone)
    for one, two in zip(losses(alone), losses(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-9)


def test_four_workers_leave_the_same_certificate(alone: Path, source: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "four", source, workers=4), env=_own_ray(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert heads(tmp_path / "four") == heads(alone)


def test_a_killed_worker_leaves_the_same_certificate(alone: Path, source: Path, tmp_path: Path) -> None:
    output, killed = tmp_path / "killed", []

    def training() -> int | None:
        begun = list((output / ".training").glob("*/checkpoint_*/state.pt"))
        return worker_called("RayTrainWorker") if begun else None

    watcher = kill_when(training, killed)
    config = spec(source, output, train=TRAIN | {"workers": 2}, **CHEAP)
    pipeline.execute(config, until="model")
    watcher.join(timeout=5)
    assert killed, "no worker was killed: the test proved nothing"
    assert heads(output) == heads(alone)
    assert all(verdict.accepted for verdict in verify(config, Store(str(output))))


def test_a_killed_job_goes_on_with_another_number_of_workers(alone: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "job"
    first = subprocess.Popen(
        command(output, source, workers=1), env=_own_ray(), start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not list((output / ".training").glob("*/checkpoint_*/state.pt")) and time.monotonic() < deadline:
        assert first.poll() is None, "the job ended before it could be killed"
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (output / "model" / "manifest.json").exists()
    done = subprocess.run(
        command(output, source, workers=2), env=_own_ray(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert heads(output) == heads(alone)


def _own_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}


def test_verify_accepts_on_the_command_line_and_refuses_what_was_tampered_with(
    alone: Path, source: Path, tmp_path: Path
) -> None:
    config = spec(source, alone, train=TRAIN, **CHEAP)
    verdicts = verify(config, Store(str(alone)))
    assert [(v.arm, v.seed, v.steps) for v in verdicts] == [
        (arm, seed, 120) for arm in ("selected", "random") for seed in (0, 3)
    ]
    assert all(verdict.accepted for verdict in verdicts)
    # Two digests change places, as if two batches had.
    file = alone / certificate(alone).chains[1].file
    whole = file.read_bytes()
    table = pq.read_table(file)
    pq.write_table(table.take([*range(70), 71, 70, *range(72, 120)]), file)
    try:
        refused = [verdict for verdict in verify(config, Store(str(alone))) if not verdict.accepted]
    finally:
        file.write_bytes(whole)
    assert [(v.arm, v.seed, v.step) for v in refused] == [("selected", 3, 70)]


def test_a_run_without_a_model_or_of_another_spec_is_told(alone: Path, source: Path, tmp_path: Path) -> None:
    config = spec(source, tmp_path / "out", train=TRAIN, **CHEAP)
    pipeline.execute(config, until="ordered")
    with pytest.raises(InputError, match="has no trained model to verify: finish it with"):
        verify(config, Store(str(tmp_path / "out")))
    other = spec(source, alone, train=TRAIN | {"seeds": [0]}, **CHEAP)
    with pytest.raises(InputError, match="was written for another spec or order than the run's: train again"):
        verify(other, Store(str(alone)))
