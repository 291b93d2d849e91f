"""The data scorer's training: what it is judged by, when it stops, and that a kill changes nothing. Without Ray."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.train
import safetensors.torch
import torch
from numpy.typing import NDArray

from raydelt.errors import InputError
from raydelt.examples import draw_keys, features_of
from raydelt.lqs import distil
from raydelt.scorers.lqs import Distil, LqsConfig
from raydelt.storage import Manifest, Stage, Store
from raydelt.train.job import STATE
from tests.flow import spec
from tests.unit.lqs.test_data_scorer import FACTS, feature_rows


def test_agreement_is_the_rank_correlation_and_the_shared_top() -> None:
    ids = np.array([f"{i:02d}" for i in range(20)], object)
    exact = np.arange(20.0)
    assert distil.agreement(exact**3, exact, ids) == {"spearman": 1.0, "top30_overlap": 1.0, "random_overlap": 0.3}
    opposite = distil.agreement(-exact, exact, ids)
    assert (opposite["spearman"], opposite["top30_overlap"]) == (-1.0, 0.0)
    half = exact.copy()
    half[[14, 15, 16]] = -1.0
    assert distil.agreement(half, exact, ids)["top30_overlap"] == 0.5
    # Without any order, ids decide: the first six against the last six.
    constant = distil.agreement(np.zeros(20), exact, ids)
    assert (constant["spearman"], constant["top30_overlap"]) == (0.0, 0.0)
    assert distil.agreement(np.zeros(20), -exact, ids)["top30_overlap"] == 1.0


def test_the_split_is_a_function_of_seed_and_key() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 5000, np.uint64)
    held_out = distil.is_held_out(keys, 7, 0.1)
    assert held_out.mean() == pytest.approx(0.1, abs=0.02)
    np.testing.assert_array_equal(distil.is_held_out(keys[::-1], 7, 0.1)[::-1], held_out)
    assert (distil.is_held_out(keys, 8, 0.1) != held_out).any()


def test_the_rate_rises_and_falls_to_a_thousandth() -> None:
    rates = [distil.learning_rate(step, 200, 2.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(2e-3, rel=0.2)
    assert distil.learning_rate(0, 1, 2.0) == 2.0


# The training, in a group of one worker without Ray


class Killed(Exception):
    """What stands for a killed process."""


@dataclass
class Group:
    """What Ray Train is to a worker: it keeps the checkpoints, kills the worker at a report, and starts it again."""

    folder: Path
    fatal: int = -1
    reports: list[dict[str, Any]] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    published: Manifest | None = None

    def get_context(self) -> Any:
        return SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)

    def get_checkpoint(self) -> Any:
        return ray.train.Checkpoint.from_directory(self.kept[-1]) if self.kept else None

    def report(self, metrics: dict[str, Any], checkpoint: Any, checkpoint_upload_fn: None) -> None:
        self.reports.append(metrics)
        if len(self.reports) == self.fatal:
            raise Killed
        self.kept.append(self.folder / str(len(self.reports)))
        shutil.copytree(checkpoint.path, self.kept[-1])

    def run_job(self, worker: Callable[[Any], None], config: Any, stage: Stage, **limits: Any) -> dict[str, Any]:
        try:
            worker(config)
        except Killed:
            worker(config)
        return self.reports[-1]


@dataclass(frozen=True)
class Training:
    """A classifier's data scorer, trained on 60 examples in steps of eight, with a checkpoint at every second."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def run(self, name: str, scores: NDArray[Any] | None = None, *, fatal: int = -1, **changes: Any) -> Group:
        run, batch, group = Store(str(self.folder)), feature_rows(64), Group(self.folder / f"{name}-group", fatal)
        for method in ("get_context", "get_checkpoint", "report"):
            self.monkeypatch.setattr(ray.train, method, getattr(group, method))
        self.monkeypatch.setattr(distil, "run_job", group.run_job)
        ids = [f"{i:03d}" for i in range(64)]
        corpus = pa.Table.from_batches([batch]).append_column("example_id", pa.array(ids))
        corpus = corpus.append_column("draw_key", pa.array(draw_keys(ids)))
        values = features_of(batch)[:, 0] if scores is None else scores
        parts = [
            run.write_table("corpus.parquet", corpus),
            run.write_table("scores.parquet", pa.table({"example_id": ids, "lqs": values}).slice(0, 60)),
        ]
        manifests = [Manifest("", "", [part], {}, FACTS) for part in parts]
        settings = {"epochs": 5, "batch_size": 8, "lr": 0.1, "validation": 0.3} | changes
        config = spec("in", Path("out"), model={"network": "logistic"}, train={"checkpoint_every": 2})
        own = LqsConfig(annotate=Distil(**settings))
        group.published = distil.distil(config, own, *manifests, Stage(run, name, name * 8))
        return group

    def weights(self, group: Group) -> bytes:
        assert group.published is not None
        return Store(str(self.folder)).read_bytes(group.published.sides["scorer"][0].file)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setattr(distil.cluster, "parallel", lambda function, calls, label: [function(*one) for one in calls])
    monkeypatch.setattr(distil.cluster, "require", lambda *_: None)
    monkeypatch.setattr(distil.cluster, "remote_progress", lambda *_: contextlib.nullcontext())
    return Training(tmp_path, monkeypatch)


def test_a_training_that_is_killed_anywhere_gives_the_same_bytes(training: Training) -> None:
    quiet = training.run("quiet", epochs=2)
    assert len(quiet.reports) == 6
    for fatal in range(1, 7):
        killed = training.run(f"killed-{fatal}", epochs=2, fatal=fatal)
        assert killed.reports[-1]["epochs"] == quiet.reports[-1]["epochs"]
        assert len(killed.reports) == 7
        assert training.weights(killed) == training.weights(quiet)


def test_a_scorer_that_has_learned_is_better_than_at_the_start(training: Training) -> None:
    published = training.run("learns", epochs=15, patience=15).published
    assert published is not None
    facts = published.facts
    assert facts["spearman"] == max(facts["history"]) > max(0.8, facts["history"][0])
    assert facts["train"] + facts["validation"] == 60
    assert facts["rows_processed"] == 15 * facts["train"]
    assert [path.suffix for path in (training.folder / "learns").glob("scorer*")] == [".safetensors"]


def test_training_stops_when_no_epoch_is_better_and_keeps_the_best(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5, 0.7, 0.7, 0.6, 0.9])
    rest = {"top30_overlap": 0.5, "random_overlap": 0.3}
    monkeypatch.setattr(distil, "agreement", lambda *_: {"spearman": next(told)} | rest)
    group = training.run("patient", patience=2)
    assert group.published is not None
    assert group.published.facts["history"] == [0.5, 0.7, 0.7, 0.6]
    assert group.published.facts["best_epoch"] == 2
    # Three checkpoints an epoch, the last of them with the weights that were judged.
    state = torch.load(group.kept[5] / STATE, weights_only=True)
    tensors = safetensors.torch.load(training.weights(group))
    assert tensors.keys() == state["model"].keys()
    assert all(bool((tensors[name] == state["model"][name]).all()) for name in tensors)


def test_a_random_score_is_refused(training: Training) -> None:
    told = (
        r"does not predict the scores: validation Spearman -?0\.[01]\d, top 30 % overlap 0\.\d\d \(random 0\.\d\d\), "
        r"below score\.lqs\.annotate\.least_spearman 0\.2: annotate more \(proxy, now 20000\).* direct, or lower"
    )
    with pytest.raises(InputError, match=told):
        training.run("chance", np.random.default_rng(5).normal(size=64), validation=0.5)
    assert not (training.folder / "chance" / "manifest.json").exists()


def test_a_weak_score_is_told_of(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(4).normal(size=64)
    with caplog.at_level(logging.INFO, logger=distil.__name__):
        training.run("weak", features_of(feature_rows(64))[:, 0] + 0.8 * noise, validation=0.5)
    told, warned = (record.getMessage() for record in caplog.records)
    pattern = (
        r"data scorer: validation Spearman 0\.[234]\d, top 30 % overlap 0\.\d\d \(random 0\.\d\d\), epoch \d of \d"
    )
    assert re.fullmatch(pattern, told)
    assert warned.startswith("the data scorer predicts weakly: raise score.lqs.annotate.proxy")


def test_a_training_that_diverges_says_so(training: Training) -> None:
    told = r"^score\.lqs\.annotate\.lr 1e\+30: the training of the data scorer diverged in epoch 1: lower it$"
    with pytest.raises(InputError, match=told):
        training.run("wild", lr=1e30)


def test_annotated_rows_join_by_id_and_leave_out_what_is_no_number(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    corpus = {
        "example_id": ["a", "b", "c", "d"],
        "draw_key": pa.array([1, 2, 3, 4], pa.uint64()),
        "text": list("wxyz"),
    }
    run.write_table("corpus", pa.table(corpus))
    scores = pa.array([3.0, np.nan, None, 1.0], pa.float32())
    run.write_table("scores", pa.table({"example_id": ["c", "b", "d", "a"], "lqs": scores}))
    found = distil.annotated_rows(run, "corpus", "scores", "lqs", ("text",))
    assert found.to_pydict() == {"example_id": ["c", "a"], "draw_key": [3, 1], "text": ["y", "w"], "lqs": [3.0, 1.0]}
    run.write_table("scores", pa.table({"example_id": ["a", "e"], "lqs": [1.0, 2.0]}))
    with pytest.raises(RuntimeError, match="scores has 1 examples that are not in corpus"):
        distil.annotated_rows(run, "corpus", "scores", "lqs")
