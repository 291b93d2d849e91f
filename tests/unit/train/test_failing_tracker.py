"""A tracker that fails while a training runs costs metrics, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from raydelt.train import track
from raydelt.train.training import Training, fresh_state

Make = Callable[..., Training]


def test_a_training_outlives_its_tracker(training: Make, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    place = tmp_path / "mlflow.db"
    own = training(steps=9, track={"mlflow": f"sqlite:///{place}", "tensorboard": True})
    seen: list[int] = []

    def break_it_at_the_fourth(count: int) -> None:
        seen.append(count)
        if len(seen) == 4:
            client = MlflowClient(tracking_uri=f"sqlite:///{place}")
            [run] = client.search_runs([client.get_experiment_by_name("small").experiment_id])
            points = client.get_metric_history(run.info.run_id, "train/loss")
            assert [point.step for point in points] == [1, 2, 3]
            with sqlite3.connect(place) as database:
                database.execute("DROP TABLE metrics")

    own.advance = break_it_at_the_fourth
    state = fresh_state(0, [])
    chain = own.run(state)
    assert (chain["steps"], len(state["curve"])) == (9, 9)
    [told] = own.untracked
    assert told.startswith("from step 4 on (")
    undisturbed = training(steps=9)
    assert undisturbed.run(fresh_state(0, []))["head"] == chain["head"]
    assert undisturbed.untracked == []


def test_a_server_that_is_gone_before_a_training_begins_is_told(
    training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(track.RETRIES, "1")
    own = training(steps=3, track={"mlflow": "http://somebody:hunter2@127.0.0.1:9"})
    assert own.run(fresh_state(0, []))["steps"] == 3
    [told] = own.untracked
    assert told.startswith("from step 0 on (")
    assert "hunter2" not in told
