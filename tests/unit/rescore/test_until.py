"""The command offers the stages that a run can be scored again up to, and no others."""

from __future__ import annotations

from raydelt.cli.rescore import Until
from raydelt.rescore.rescore import UNTIL


def test_the_command_offers_what_the_library_takes() -> None:
    assert tuple(Until) == UNTIL
