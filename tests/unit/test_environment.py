"""Variables of the environment are set for a block, and as they were before after it."""

from __future__ import annotations

import contextlib
import os

import pytest

from raydelt import environment


def test_variables_are_taken_back_also_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/before")
    monkeypatch.delenv("COLOUR", raising=False)
    with contextlib.suppress(ValueError), environment.having(PYTHONPATH="/now", COLOUR="mauve"):
        assert (os.environ["PYTHONPATH"], os.environ["COLOUR"]) == ("/now", "mauve")
        raise ValueError("no such option")
    assert os.environ["PYTHONPATH"] == "/before"
    assert "COLOUR" not in os.environ
