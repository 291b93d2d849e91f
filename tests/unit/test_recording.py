"""Metrics count every row once, and never end a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from raydelt import metrics


class Kept:
    """Stands for one of Ray's metrics, and adds up what it is given by its labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def inc(self, value: float, tags: dict[str, str]) -> None:
        key = tuple(tags.values())
        self.values[key] = self.values.get(key, 0.0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[tuple(tags.values())] = value

    observe = inc


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Kept]]:
    made: dict[str, Kept] = {}
    monkeypatch.setattr(metrics, "_recorder", metrics._Recorder())
    monkeypatch.setattr(metrics, "_make", lambda definition: made.setdefault(definition.name, Kept()))
    return made


def test_rows_of_parts_and_of_the_stage_add_up_to_the_stage(kept: dict[str, Kept]) -> None:
    def work() -> str:
        metrics.queued(2)
        metrics.part_done(40, 1.5, 1)
        metrics.part_done(30, 2.5, 0)
        return "done"

    assert metrics.measured("scores", work, lambda done: (100, 7)) == "done"
    assert kept["raydelt_rows_total"].values == {("", "scores"): 100}
    assert kept["raydelt_quarantined_total"].values == {("", "scores"): 7}
    assert kept["raydelt_actor_busy_seconds_total"].values == {("", "scores"): 4}
    assert kept["raydelt_queue_parts"].values == {("", "scores"): 0}
    # Quarantined rows have been worked on too, though the stage no longer has them.
    metrics.measured("scores", work, lambda done: (60, 10))
    assert kept["raydelt_rows_total"].values == {("", "scores"): 170}


def test_a_metric_that_cannot_be_recorded_is_told_of_once_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(definition: metrics.Definition) -> Any:
        raise RuntimeError("no agent")

    monkeypatch.setattr(metrics, "_recorder", metrics._Recorder())
    monkeypatch.setattr(metrics, "_make", broken)
    with caplog.at_level(logging.WARNING):
        assert metrics.measured("scores", lambda: 5, lambda done: (done, 0)) == 5
        metrics.part_done(1, 1.0, 0)
    assert len(caplog.records) == 1


def test_an_error_of_the_work_comes_through(kept: dict[str, Kept]) -> None:
    def work() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        metrics.measured("scores", work, lambda done: (done, 0))
    assert "raydelt_rows_total" not in kept


def test_labels_are_those_that_the_definition_names() -> None:
    assert set(metrics.labels()) == set(metrics.ROWS.labels) == set(metrics.ACTORS.labels)
