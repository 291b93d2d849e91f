"""What a run costs and claims, how the terminal shows it, and that the stage publishes what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raydelt.report import console, wording
from raydelt.report.cost import cost, stage_seconds
from raydelt.report.page import render
from raydelt.report.stage import write_report
from raydelt.storage import Stage, Store
from tests.unit.report.conftest import HandMade, without_ray

SECONDS = {"proxies": 6.0, "scores": 3.0, "ranking": 0.5, "selection": 0.5, "model": 30.0}


def test_cost_counts_all_that_choosing_took() -> None:
    found = cost(SECONDS, trainings=15, kept=50, corpus=100)
    assert found["scoring"] == 10.0
    assert found["one_training"] == 2.0
    assert found["saved_per_training"] == pytest.approx(2.0)
    assert found["breaks_even"] == 5
    assert cost(SECONDS, trainings=15, kept=100, corpus=100)["breaks_even"] is None
    unknown = cost(SECONDS | {"proxies": None}, trainings=15, kept=50, corpus=100)  # type: ignore[dict-item]
    assert unknown["scoring"] is unknown["breaks_even"] is None
    assert "not known" in wording.price(unknown, {"steps": 1, "results": []})[0]


def test_seconds_of_earlier_executions_count_where_the_fingerprint_is_the_same() -> None:
    earlier = {
        "stages": {
            "scores": {"fingerprint": "a", "seconds": 5.0},
            "ranking": {"fingerprint": "old", "seconds": 9.0},
            "selection": {"fingerprint": "c", "seconds": None},
        }
    }
    now = {"scores": 0.001, "ranking": 2.0, "selection": None}
    fingerprints = {"scores": "a", "ranking": "b", "selection": "c", "model": "d"}
    found = stage_seconds(now, fingerprints, earlier)
    assert found == {"scores": 5.0, "ranking": 2.0, "selection": None, "model": None}
    assert stage_seconds(now, {"scores": "a"}, None) == {"scores": 0.001}


def test_the_steps_that_are_claimed_are_those_that_were_taken(
    finished: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished()
    same = "All arms train for the same"
    page = render(run.summary())
    assert f"{same} 100 optimiser steps" in page
    assert f"{same} number of steps" in page
    for place, result in enumerate(run.manifests["model"].facts["results"]):
        result["steps"] = 100 - 10 * (place % 5)
    summary = run.summary()
    page = render(summary)
    assert same not in page
    assert "stop early, after 60 to 100 optimiser steps" in page
    assert "Trainings stopped early, after 60 to 100 steps" in page
    assert "on the selection for 80 to 100 steps reaches" in wording.claim(summary)
    console.show(published(run))
    assert "9 trainings of 60 to 100 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "not known"),
        (0.354, "0.35 s"),
        (12.34, "12.3 s"),
        (250.0, "4 min 10 s"),
        (7199.9, "119 min 59 s"),
        (11100.0, "3 h 5 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


def test_a_difference_that_rounds_to_zero_has_no_sign() -> None:
    accuracy, loss = wording.METRICS["accuracy"], wording.METRICS["loss"]
    assert [accuracy.change(x) for x in (0.0035, -0.012, -0.00001)] == ["+0.35", "−1.20", "0.00"]
    assert [loss.change(x) for x in (0.0035, -0.012, -0.00001)] == ["+0.0035", "−0.0120", "0.0000"]
    assert (accuracy.value(0.9564), loss.value(3.14159)) == ("95.64 %", "3.1416 nats")


def published(run: Any) -> Store:
    """The report of a hand-made run, and the record that a run would leave."""
    stage = Stage(run.store, "report", "9" * 32)
    seconds: dict[str, float | None] = dict(SECONDS)
    manifest = write_report(run.config, run.manifests, seconds, stage)
    stages = {"report": {"fingerprint": manifest.fingerprint, "rows": 0}}
    run.store.write_json("run.json", {"name": "hand-made", "stages": stages})
    return Store(run.store.root)


def test_the_stage_publishes_summary_and_page(finished: Callable[..., Any]) -> None:
    run = finished()
    store = published(run)
    summary = store.read_json("report/summary.json")
    assert summary == console.result(store)["summary"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert store.read_bytes("report/index.html").startswith(b"<!doctype html>")
    assert Stage(run.store, "report", "9" * 32).published() is not None


def test_no_page_where_the_spec_wants_none(finished: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    store = published(finished(spec={"report": {"html": False}}))
    assert not store.exists("report/index.html")
    console.show(store)
    assert "summary.json" in capsys.readouterr().out


def test_plain_output_is_aligned_lines(finished: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    store = published(finished())
    console.show(store, unchanged=True)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("nothing to do")
    assert lines[1] == "hand-made"
    assert lines[2].split() == ["kept", "120", "of", "240", "examples", "(50.0", "%)"]
    assert {line.index(line[2:].split("  ")[-1].strip()) for line in lines[2:]} == {lines[2].index("120")}
    for word in ("flipped labels", "AUROC", "accuracy, selected", "selected - full", "choosing", "training", "report"):
        assert word in out
    assert out.isascii()
    assert "\x1b" not in out
    assert lines[-1].endswith(store.path("report/index.html"))


def test_who_rests_is_counted_only_where_anybody_may(finished: Callable[..., Any]) -> None:
    summary = finished().summary()
    assert "left out" not in dict(console.lines(summary))
    assert "the monitor retired" not in render(summary)
    summary["selection"]["left_out"] = {"retired": 1200}
    assert dict(console.lines(summary))["left out"] == "1200 examples that the monitor retired"
    assert "left out: 1,200 that the monitor retired" in render(summary)


def test_a_terminal_gets_a_table(
    finished: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = published(finished(baselines=(), seeds=(0,), flips=False))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    console.show(store)
    out = capsys.readouterr().out
    assert "kept" in out
    assert "one seed" in out
    assert store.path("report/index.html") in out


def test_the_report_of_another_spec_is_not_shown(
    finished: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = published(finished())
    store.write_json("run.json", {"stages": {"ranking": {"fingerprint": "b", "rows": 240}}})
    assert console.result(store)["summary"] is None
    console.show(store)
    assert capsys.readouterr().out.split()[:3] == ["ranking", "240", "rows"]


def test_the_summary_is_the_same_through_ray(ray_session: Iterator[None], tmp_path: Path) -> None:
    run = HandMade().make(tmp_path)
    through_ray = run.summary()
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        assert run.summary() == through_ray
