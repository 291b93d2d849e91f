"""The errors a user can cause, each with the exit code that the command line returns for it."""

from __future__ import annotations


class RaydeltError(Exception):
    """An error that is told to the user in one sentence, without a traceback."""

    exit_code = 1


class SpecError(RaydeltError):
    """The spec is wrong: the message names the field, its value and the cure."""

    exit_code = 2


class InputError(RaydeltError):
    """The input or the output place is wrong: the message names the file, the fault and the cure."""

    exit_code = 2


class ErrorBudgetExceeded(RaydeltError):
    """More rows or files were quarantined than the spec allows."""

    exit_code = 3
