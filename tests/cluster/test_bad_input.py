"""Faults that show up during a run: a quarantine entry or one clear sentence, never a silently smaller result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt import pipeline
from raydelt.errors import ErrorBudgetExceeded, InputError, SpecError
from raydelt.precheck import require
from raydelt.storage import Store, read_manifest
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")
BY_HASH = {"combine": {"weights": {"hash": 1.0}, "gate": None}}


def test_a_nan_score_goes_to_quarantine_and_the_counts_reconcile(tmp_path: Path) -> None:
    config = spec(
        write_digits(tmp_path / "in"), tmp_path / "out", score=[{"kind": "tests.plugins:NanConfig"}], rank=BY_HASH
    )
    pipeline.execute(config, until="ordered")
    store = Store(str(tmp_path / "out"))
    scores = read_manifest(store, "scores")
    assert scores is not None
    quarantined = pa.concat_tables([store.read_table(p.file) for p in scores.sides["quarantine"]])
    corpus = table(tmp_path / "out", "corpus")
    assert 0 < quarantined.num_rows < corpus.num_rows * 0.05
    assert scores.rows + quarantined.num_rows == corpus.num_rows
    assert set(quarantined["reason"].to_pylist()) == {"score not finite: hash = nan"}
    kept = {row["example_id"] for row in table(tmp_path / "out", "ranking").to_pylist()}
    assert kept.isdisjoint(quarantined["payload_digest"].to_pylist())
    features = {row["example_id"]: row["x"] for row in corpus.to_pylist()}
    for row in table(tmp_path / "out", "ordered").to_pylist():
        assert row["x"] == features[row["example_id"]]


def test_too_many_nan_scores_stop_the_run(tmp_path: Path) -> None:
    score = [{"kind": "tests.plugins:NanConfig", "share": 0.5}]
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", score=score, rank=BY_HASH)
    with pytest.raises(ErrorBudgetExceeded, match=r"scores are not finite, more than corpus\.error_budget 0\.05"):
        pipeline.execute(config, until="scores")


def test_a_class_with_fewer_examples_than_folds_is_named(tmp_path: Path) -> None:
    rows = pq.read_table(write_digits(tmp_path / "in") / "digits-0.parquet")
    rare = rows.slice(0, 2).set_column(1, "label", pa.array([77, 77]))
    pq.write_table(pa.concat_tables([rows, rare]), tmp_path / "in" / "digits-0.parquet")
    config = spec(
        tmp_path / "in", tmp_path / "out", rank={"folds": 5}, corpus__noise=None, corpus__test={"fraction": 0}
    )
    with pytest.raises(SpecError, match=r"class .77. has 2 distinct examples but rank\.folds is 5"):
        pipeline.execute(config, until="proxies")


def test_a_diverging_proxy_is_named(tmp_path: Path) -> None:
    rank = {"folds": 2, "rounds": 1, "proxy": {"epochs": 2, "lr": 1e38, "optimizer": "sgd"}}
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", rank=rank)
    with pytest.raises(InputError, match=r"diverged .*lower the learning rate"):
        pipeline.execute(config, until="proxies")


def test_a_faulty_third_party_scorer_fails_the_run_at_once(tmp_path: Path) -> None:
    score = [{"kind": "tests.plugins:BrokenConfig"}]
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", score=score, rank=BY_HASH)
    with pytest.raises(Exception, match="the third party's own fault"):
        pipeline.execute(config, until="scores")


def test_more_gpus_than_the_cluster_has_are_refused_at_once(tmp_path: Path) -> None:
    cluster = {"actors": {"num_gpus": 4}}
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", cluster=cluster)
    with pytest.raises(SpecError, match=r"cluster\.actors \(num_gpus x min\) asks for 4 GPU but the cluster has 1"):
        pipeline.execute(config, until="scores")


BY_LQS = {"score": [{"kind": "lqs", "workers": 2}], "rank": {"combine": {"weights": {"lqs": 1.0}, "gate": None}}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"workers": 2}}, "train.workers (with cluster.actors.num_gpus) asks for 2 x (1 CPU and 1 GPU)"),
        (BY_LQS, "score.lqs.workers (with cluster.actors.num_gpus) asks for 2 x (1 CPU and 1 GPU)"),
    ],
)
def test_workers_that_take_a_gpu_each_are_refused_where_they_would_wait_for_ever(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    cluster = {"actors": {"num_gpus": 0.5}}
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", cluster=cluster, **changes)
    with pytest.raises(SpecError) as caught:
        require(config)
    assert told in str(caught.value)


def test_what_a_training_needs_is_not_asked_of_a_run_without_one(tmp_path: Path) -> None:
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", train={"workers": 30})
    require(config, training=False)
    with pytest.raises(SpecError, match=r"train\.workers asks for 30 CPU"):
        require(config)


def test_a_threshold_that_nothing_reaches_is_refused(tmp_path: Path) -> None:
    config = spec(
        write_digits(tmp_path / "in"),
        tmp_path / "out",
        score=[{"kind": "tests.plugins:HashConfig"}],
        rank=BY_HASH,
        select={"method": "threshold", "value": 2.0},
    )
    with pytest.raises(SpecError, match=r"no example has a score that high: lower the threshold"):
        pipeline.execute(config, until="selection")
