"""Commands that ask a finished run."""

from __future__ import annotations

import json

import typer

from raydelt.cli.app import ASK, Json, RunPlace, app


@app.command(rich_help_panel=ASK)
def show(output: RunPlace, as_json: Json = False) -> None:
    """Print what a run found."""
    from raydelt.report import console
    from raydelt.storage import Store, absolute

    store = Store(absolute(output))
    if as_json:
        typer.echo(json.dumps(console.result(store), indent=2))
    else:
        console.show(store)


@app.command(rich_help_panel=ASK)
def verify(output: RunPlace, as_json: Json = False) -> None:
    """Replay the training order of a run, and check that every training was fed exactly that."""
    from raydelt import cluster
    from raydelt.errors import InputError
    from raydelt.report import console
    from raydelt.rundir import config_of
    from raydelt.storage import Store, absolute
    from raydelt.train.verify import verify as replay

    store = Store(absolute(output))
    config = config_of(store)
    with cluster.connected(config.cluster):
        verdicts = replay(config, store)
    if as_json:
        typer.echo(json.dumps([verdict.__dict__ | {"accepted": verdict.accepted} for verdict in verdicts], indent=2))
    else:
        console.show_verdicts(verdicts)
    refused = [verdict for verdict in verdicts if not verdict.accepted]
    if refused:
        first = refused[0]
        raise InputError(f"the training of {first.arm} (seed {first.seed}) is refused: {first.problem}")
