"""Killed processes change nothing but the time a run takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydelt import pipeline
from tests.faults import kill_when, worker_called
from tests.flow import digests, spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_killed_scoring_actor_costs_no_row_and_no_byte(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=400)
    for name in ("quiet", "killed"):
        (tmp_path / name).mkdir()
    slow = {"kind": "tests.plugins:SlowConfig", "seconds": 0.3}
    rank = {"combine": {"weights": {"hash": 1.0}, "gate": None}}
    actors = {"actors": {"min": 1, "max": 1}}

    def config(name: str) -> object:
        score = [slow | {"folder": str(tmp_path / name)}]
        return spec(source, tmp_path / f"out-{name}", score=score, rank=rank, cluster=actors)

    pipeline.execute(config("quiet"), until="ordered")  # type: ignore[arg-type]
    killed: list[int] = []

    def scoring() -> int | None:
        marks = sorted((tmp_path / "killed").glob("*.pid"))
        return int(marks[1].read_text()) if len(marks) > 1 and marks[1].read_text() else None

    watcher = kill_when(scoring, killed)
    pipeline.execute(config("killed"), until="ordered")  # type: ignore[arg-type]
    watcher.join(timeout=5)
    assert killed, "no actor was killed: the test proved nothing"
    assert len({path.read_text() for path in (tmp_path / "killed").glob("*.pid")}) > 1
    ids = table(tmp_path / "out-killed", "scores")["example_id"].to_pylist()
    assert len(ids) == len(set(ids)) == table(tmp_path / "out-quiet", "scores").num_rows
    # The scorer's settings name its folder, so fingerprints differ; the rows must not.
    for stage in ("ranking", "selection", "ordered"):
        assert table(tmp_path / "out-killed", stage) == table(tmp_path / "out-quiet", stage)


def test_a_killed_training_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    changes = {
        "score": [{"kind": "tests.plugins:HashConfig"}],
        "rank": {"combine": {"weights": {"hash": 1.0}, "gate": None}},
        "train": {"recipe": {"steps": 4000}, "seeds": [0], "baselines": [], "checkpoint_every": 330},
    }
    quiet = pipeline.execute(spec(source, tmp_path / "quiet", **changes))
    killed: list[int] = []

    def training() -> int | None:
        if not list((tmp_path / "killed" / ".training").glob("*/checkpoint_*/state.pt")):
            return None
        return worker_called("RayTrainWorker")

    watcher = kill_when(training, killed)
    other = pipeline.execute(spec(source, tmp_path / "killed", **changes))
    watcher.join(timeout=5)
    assert killed, "no worker was killed: the test proved nothing"
    results = [run.manifests["model"].facts["results"] for run in (quiet, other)]
    for result in (result for found in results for result in found):
        assert result.pop("seconds") > 0
    assert results[0] == results[1]
    weights = [run.manifests["model"].sides["model"][0].digest for run in (quiet, other)]
    assert weights[0] == weights[1]
    assert digests(tmp_path / "quiet") == digests(tmp_path / "killed")


def test_parts_that_were_scored_before_a_crash_are_not_scored_again(tmp_path: Path) -> None:
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out")
    pipeline.execute(config, until="ordered")
    before = digests(tmp_path / "out")
    scores = tmp_path / "out" / "scores"
    parts = sorted(scores.glob("*.parquet"))
    assert len(parts) > 2
    (scores / "manifest.json").unlink()
    parts[1].unlink()
    # Of another part only the beginning is left: it was not written whole, so it is not done.
    parts[0].write_bytes(parts[0].read_bytes()[:-30])
    written = {path: path.stat().st_mtime_ns for path in parts[2:]}
    run = pipeline.execute(config, until="ordered")
    assert run.fresh["scores"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert digests(tmp_path / "out") == before


def test_a_truncated_file_of_a_finished_stage_is_made_again(tmp_path: Path) -> None:
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out")
    pipeline.execute(config, until="ordered")
    before = digests(tmp_path / "out")
    [ranking] = (tmp_path / "out" / "ranking").glob("*.parquet")
    ranking.write_bytes(ranking.read_bytes()[:-20])
    run = pipeline.execute(config, until="ordered")
    assert [name for name, fresh in run.fresh.items() if fresh] == ["ranking"]
    assert digests(tmp_path / "out") == before
