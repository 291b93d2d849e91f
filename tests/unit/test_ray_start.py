"""A Ray of one's own that is slow to come up is tried again, and given up in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from raydelt.cluster import connect
from raydelt.errors import InputError

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


def failing(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[Any]:
    """Let the first starts of Ray end in these errors; returns what was asked for each time."""
    asked: list[Any] = []

    def init(**options: Any) -> None:
        asked.append(options)
        if len(asked) <= len(errors):
            raise errors[len(asked) - 1]

    monkeypatch.setattr(ray, "init", init)
    return asked


def test_a_slow_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = failing(
        monkeypatch, [Exception(SLOW), RuntimeError(b"Timed out while waiting for GCS to become available.")]
    )
    connect._start({"num_cpus": 1}, 3)
    assert [options["num_cpus"] for options in asked] == [1, 1, 1]


def test_it_is_given_up_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = failing(monkeypatch, [Exception(SLOW)] * 3)
    with pytest.raises(InputError, match="did not start on this machine within half a minute, 3 times"):
        connect._start({}, 3)
    assert len(asked) == 3


def test_another_fault_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = failing(monkeypatch, [ValueError("no such option")])
    with pytest.raises(ValueError, match="no such option"):
        connect._start({}, 3)
    assert len(asked) == 1
