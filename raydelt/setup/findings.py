"""Checks side by side, each under its own deadline, and what they found.

A check runs in a thread of its own, which is left behind when its time is up: a store that never answers costs its own
deadline and nothing else. Cost: the slowest check.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from raydelt.errors import RaydeltError

State = Literal["ok", "warn", "fail"]
SECONDS = 60.0


@dataclass(frozen=True)
class Finding:
    """What one check found, and what helps where it is not well."""

    check: str
    state: State
    found: str
    cure: str = ""


def parted(error: RaydeltError | str) -> tuple[str, str]:
    """What an error's sentence says is wrong, and what helps: what follows its last colon, "" without one."""
    found, _, cure = str(error).rpartition(": ")
    return (found, cure) if found else (cure, "")


@dataclass(frozen=True)
class Check:
    """A question with a deadline in seconds; it answers with one finding or several."""

    name: str
    ask: Callable[[], Finding | list[Finding]]
    seconds: float = SECONDS
    late: str = "see whether what it asks is up and reachable"


def answered(checks: Sequence[Check]) -> tuple[list[Finding], bool]:
    """The findings of all checks, in their order, each no later than its deadline; whether one was late."""
    asked = [(check, *_started(check)) for check in checks]
    began = time.monotonic()
    findings: list[Finding] = []
    late = False
    for check, thread, held in asked:
        thread.join(max(0.0, began + check.seconds - time.monotonic()))
        if thread.is_alive():
            late = True
            findings.append(Finding(check.name, "fail", f"no answer within {check.seconds:g} s", check.late))
        else:
            findings += held
    return findings, late


def _started(check: Check) -> tuple[threading.Thread, list[Finding]]:
    held: list[Finding] = []

    def ask() -> None:
        try:
            found = check.ask()
        except RaydeltError as error:
            found = Finding(check.name, "fail", *parted(error))
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            found = Finding(check.name, "fail", f"{type(error).__name__}: {text}", "mend what it names")
        held.extend(found if isinstance(found, list) else [found])

    thread = threading.Thread(target=ask, name=f"doctor {check.name}", daemon=True)
    thread.start()
    return thread, held
