"""Estimates by real trials: the record of a run measures itself, and what was estimated stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, RaydeltError
from raydelt.estimate.answer import FOLDER, estimate
from raydelt.estimate.beside import ESTIMATE, identity
from raydelt.report import console
from raydelt.rundir import RECORD
from raydelt.storage import Store
from tests.flow import spec, write_digits


def record_of(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = Store(config.output).read_json(RECORD)
    return found


@pytest.mark.usefixtures("ray_session")
def test_a_run_measures_itself_and_stands_beside_its_estimate(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=400)
    config = spec(source, tmp_path / "out", corpus__limit=300)
    pipeline.execute(config, until="corpus")
    expected = {
        "spec": identity(config.resolved()),
        "until": "ranking",
        "stages": {"start": {"seconds": 1.0}, "scores": {"seconds": 2.0}},
        "clusters": [{"memory_bytes": 1e9, "object_store_bytes": 1e6, "disk_bytes": 1e5}],
    }
    Store(config.output).write_json(ESTIMATE, expected)
    pipeline.execute(config, until="ranking")
    found = record_of(config)
    stages, took = found["stages"], found["stages"]["scores"]["facts"]["took"]
    assert stages["corpus"]["facts"]["read"] == 300
    assert set(took["seconds"]) == {"difficulty", "consistency", "diversity", "prototype", "grad_norm"}
    assert took["rows"] == stages["scores"]["rows"]
    assert 0 < sum(took["seconds"].values()) < 2 * stages["scores"]["seconds"]
    assert found["cluster"]["cpus"] == 2
    assert max(peak["memory"] for peak in found["peaks"].values()) > 100 << 20
    rows = {row["what"]: row for row in found["estimated"]}
    assert rows["scores"]["ratio"] == pytest.approx(stages["scores"]["seconds"] / 2.0)
    assert rows["disk"]["actual"] == sum(stage["bytes"] for stage in stages.values())
    assert list(rows) == ["start", "scores", "total", "peak memory", "object store", "disk"]
    assert len(console.estimated_lines(found["estimated"])) == 4
    pipeline.execute(config, until="ranking")
    again = record_of(config)
    assert again["stages"] == stages
    assert again["estimated"] == found["estimated"]


def test_a_trial_that_does_not_end_in_time_says_so(tmp_path: Path) -> None:
    config = spec(write_digits(tmp_path / "in"), tmp_path / "out", cluster={"num_cpus": 2})
    with pytest.raises(InputError, match=r"a trial of 256 rows did not end within 5 times --seconds 0\.3"):
        estimate(config, until="scores", seconds=0.3)
    assert not Store(config.output).exists(FOLDER)


def test_a_sample_of_bad_rows_alone_is_told(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "", "label": None}) for _ in range(50)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    corpus = {"source": str(tmp_path / "in.jsonl"), "text_column": "text", "label_column": "label"}
    config = spec(tmp_path, tmp_path / "out", corpus=corpus, cluster={"num_cpus": 2})
    with pytest.raises(RaydeltError, match=r"a trial on 50 rows failed: .*50 of 50 rows .* are bad") as told:
        estimate(config, until="scores", seconds=120)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_two_trials_predict_a_run(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=1797)
    config = spec(source, tmp_path / "out", cluster={"num_cpus": 2})
    found = estimate(config, until="ordered", seconds=300)
    assert [trial["rows"] for trial in found["trials"]] == [256, 599]
    assert found["rows"] == 1797
    pipeline.execute(config, until="ordered")
    record = record_of(config)
    assert set(found["stages"]) == {"start", *record["stages"]}
    rows = {row["what"]: row for row in record["estimated"]}
    # Sizes are exact where times are not.
    assert found["sizes"]["rows"] == pytest.approx(record["stages"]["corpus"]["rows"], rel=0.1)
    assert rows["disk"]["ratio"] == pytest.approx(1.0, rel=0.1)
    assert not Store(config.output).exists(FOLDER)
