"""Every question is of the current version unless another is named; what it lacks or cannot read is one sentence."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raydelt import cluster, rundir
from raydelt.ask.diff import diff
from raydelt.ask.export import export
from raydelt.ask.run import Run
from raydelt.cli.app import app
from raydelt.errors import InputError
from raydelt.report.again import standing
from raydelt.storage import Store
from raydelt.train.certificate import FILE
from tests.asked import Asked, Made


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture
def twice(tmp_path: Path) -> Made:
    """A run that was scored again as far as its selection, as `raydelt rescore` does unless it is told otherwise."""
    made = Asked(rows=200).make(tmp_path / "run")
    place = Path(made.store.root) / "versions/v000001"
    later = Asked(rows=200, seed=1).make(place)
    for stage in ("ordered", "model"):
        later.store.delete(stage)
        del later.manifests[stage]
    later.store.delete("run.json")
    rundir.record(later.store, later.config, later.manifests, {}, {"peaks": {}, "cluster": {}, "start": 0.0})
    current = {"version": 1, "place": "versions/v000001", "published": 1.0, "token": 0}
    (Path(made.store.root) / "current.json").write_text(json.dumps(current))
    return made


def test_what_a_version_does_not_reach_names_what_goes_further(twice: Made, tmp_path: Path) -> None:
    run = Run.open(twice.store.root)
    further = r"version 1 of '.*run' has no ordered yet: `raydelt rescore RUN --until ordered` makes it, and RUN@0"
    with pytest.raises(InputError, match=further):
        run.ordered()
    with pytest.raises(InputError, match=further):
        export(run, "jsonl", str(tmp_path / "out.jsonl"))
    cure = r"is not finished \(it has no ordered\): go on with `raydelt rescore RUN --until report`, or .* of RUN@0"
    with pytest.raises(InputError, match=rf"version 1 of '.*run' {cure}"):
        standing(run)
    assert len(list(Run.open(f"{twice.store.root}@0").ordered())) == twice.selection.num_rows


def test_show_is_of_the_current_version(twice: Made) -> None:
    root = twice.store.root
    recorded = {number: json.loads(told("show", f"{root}@{number}", "--json")) for number in (0, 1)}
    assert "model" in recorded[0]["stages"]
    assert "model" not in recorded[1]["stages"]
    assert json.loads(told("show", root, "--json")) == recorded[1]
    assert "versions/v000001/ranking" in told("show", root)


def test_show_takes_a_run_that_is_not_finished(tmp_path: Path) -> None:
    made = Asked(rows=200, trained=False).make(tmp_path / "half")
    assert "ordered" in told("show", made.store.root)


def test_verify_is_of_the_current_version(twice: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def here(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(cluster, "connected", here)
    root = twice.store.root
    with pytest.raises(InputError, match=r"version 1 of .* has no model yet: `raydelt rescore RUN --until model`"):
        told("verify", root)
    with pytest.raises(InputError, match=f"{root}/model/{FILE} is missing"):
        told("verify", f"{root}@0")


def without(store: Store, stage: str, fact: str) -> None:
    raw = store.read_json(f"{stage}/manifest.json")
    del raw["facts"][fact]
    store.write_json(f"{stage}/manifest.json", raw)


FOREIGN: dict[str, tuple[str, str, Callable[[Run], Any]]] = {
    "why": ("ranking", "weights", lambda run: run.why(run.ranking()["example_id"][0].as_py())),
    "diff": ("ranking", "weights", lambda run: diff(run, run)),
    "components": ("scores", "columns", lambda run: run.components),
    "steps": ("model", "results", lambda run: run.why(run.selection()["example_id"][0].as_py())),
}


@pytest.mark.parametrize("question", FOREIGN)
def test_a_fact_that_is_missing_is_of_another_version(question: str, tmp_path: Path) -> None:
    made = Asked(rows=200).make(tmp_path / "run")
    stage, fact, ask = FOREIGN[question]
    without(made.store, stage, fact)
    run = Run.open(made.store.root)
    for _ in range(2):
        with pytest.raises(
            InputError, match=rf"{stage}/manifest.json was written by raydelt .* \(no {fact}\): run the"
        ):
            ask(run)


def test_a_spec_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    made = Asked(rows=200).make(tmp_path / "run")
    spec = made.store.read_json("spec.json")
    made.store.write_json("spec.json", spec | {"forgotten": 1})
    for ask in (rundir.config_of, lambda store: Run.open(store.root).spec):
        with pytest.raises(InputError, match=r"spec.json was written by raydelt .* \(forgotten: .*run the spec again"):
            ask(made.store)
    made.store.write_json("spec.json", {name: spec[name] for name in spec if name != "name"})
    with pytest.raises(InputError, match=r"spec.json does not say whose run it is \('name'\)"):
        rundir.claim(made.store, made.config)


def test_a_record_or_summary_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    made = Asked(rows=200).make(tmp_path / "run")
    record = made.store.read_json("run.json")
    made.store.write_json("run.json", {name: record[name] for name in record if name != "stages"})
    with pytest.raises(InputError, match=r"run.json was written by raydelt \S+, and .* \(no stages\): run the spec"):
        told("show", made.store.root)
    made._publish("report", [], {"summary": {"name": "asked", "selection": {"kept": 1}}})
    report = {"fingerprint": made.manifests["report"].fingerprint, "rows": 0}
    made.store.write_json("run.json", record | {"stages": record["stages"] | {"report": report}})
    with pytest.raises(InputError, match=r"report/summary.json was written by raydelt .* \(no detection\)"):
        told("show", made.store.root)
