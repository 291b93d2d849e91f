"""What the values of a spec depend on."""

from __future__ import annotations

import pytest

from raydelt.valuation.methods import LossValConfig


def test_values_follow_the_version_of_their_method_and_not_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = LossValConfig(shards=2, workers=2).lasting()
    assert before == LossValConfig(shards=2).lasting()
    assert before != LossValConfig(shards=1).lasting()
    monkeypatch.setattr(LossValConfig, "version", "next")
    assert LossValConfig(shards=2).lasting() != before
    assert LossValConfig().build().version == "next"
