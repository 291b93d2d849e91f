"""The entry point: one sentence and an exit code for what a user can mend, a traceback only for our own faults."""

from __future__ import annotations

import logging
import os
import sys

import typer

from raydelt.cli.app import app

INTERRUPTED = 130


def _keep_stderr_to_ourselves() -> None:
    """Send what Ray's C++ core writes to file descriptor 2 away; Python's stderr stays. RAYDELT_DEBUG keeps both."""
    if os.environ.get("RAYDELT_DEBUG"):
        return
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def main() -> None:
    """Entry point: one sentence and an exit code for what a user can mend, a traceback only for our own faults."""
    from raydelt.errors import RaydeltError

    _keep_stderr_to_ourselves()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("raydelt").setLevel(logging.INFO)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        app()
    except RaydeltError as error:
        typer.echo(f"raydelt: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo("raydelt: interrupted; run the same command again to go on from the finished stages", err=True)
        raise
