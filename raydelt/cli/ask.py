"""Commands that ask a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from raydelt.cli.app import ASK, Json, app

Asked = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, RUN@3 for its version 3.")]


def _tell(found: dict[str, Any], lines: Iterator[str], *, as_json: bool) -> None:
    from raydelt.ask.told import show_lines

    if as_json:
        typer.echo(json.dumps(found, indent=2, default=str))
    else:
        show_lines(lines)


@app.command(rich_help_panel=ASK)
def show(
    output: Asked,
    top: Annotated[int, typer.Option(help="Show so many of the highest examples.")] = 0,
    bottom: Annotated[int, typer.Option(help="Show so many of the lowest examples.")] = 0,
    borderline: Annotated[int, typer.Option(help="Show so many of the examples nearest to the cut.")] = 0,
    as_json: Json = False,
) -> None:
    """Print what a run found, or its top, bottom and borderline examples."""
    from raydelt.ask.run import Run
    from raydelt.report import console

    run = Run.open(output)
    if top or bottom or borderline:
        from raydelt.ask.examples import listed
        from raydelt.ask.told import examples_lines

        found = listed(run, top=top, bottom=bottom, borderline=borderline)
        _tell(found, examples_lines(found), as_json=as_json)
        return
    if as_json:
        typer.echo(json.dumps(console.result(run.store), indent=2))
    else:
        console.show(run.store)


@app.command(rich_help_panel=ASK)
def why(
    output: Asked,
    example: Annotated[str, typer.Argument(metavar="ID", help="The id of an example, or how it begins.")],
    as_json: Json = False,
) -> None:
    """Tell why an example was kept or left: its components, rank, rule, steps, history and neighbours."""
    from raydelt.ask.run import Run
    from raydelt.ask.told import why_lines

    found = Run.open(output).why(example)
    _tell(found, why_lines(found), as_json=as_json)


@app.command(rich_help_panel=ASK)
def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run directory, or RUN@3.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another, or another version of it.")],
    as_json: Json = False,
) -> None:
    """Compare two runs, or two versions of one: what is kept, what moved and why, specs and versions."""
    from raydelt.ask.diff import diff as compare
    from raydelt.ask.run import Run
    from raydelt.ask.told import diff_lines

    found = compare(Run.open(run_a), Run.open(run_b))
    _tell(found, diff_lines(found), as_json=as_json)


@app.command(rich_help_panel=ASK)
def export(
    output: Asked,
    to: Annotated[str, typer.Option(help="parquet, jsonl, hf or webdataset.")],
    out: Annotated[str, typer.Option(help="Where it goes: a folder, or a file for jsonl; local or s3.")],
    what: Annotated[str, typer.Option(help="selection (in training order), corpus or scores.")] = "selection",
    everything: Annotated[
        bool, typer.Option("--all", help="Every scored example: the same as --what corpus.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what stands there.")] = False,
    as_json: Json = False,
) -> None:
    """Write examples with their scores for other programs."""
    from raydelt.ask.export import export as write
    from raydelt.ask.run import Run
    from raydelt.ask.told import export_lines

    found = write(Run.open(output), to, out, what="corpus" if everything else what, force=force)
    _tell(found, export_lines(found), as_json=as_json)


@app.command(rich_help_panel=ASK)
def verify(output: Asked, as_json: Json = False) -> None:
    """Replay the training order of a run, and check that every training was fed exactly that."""
    from raydelt import cluster
    from raydelt.ask.run import Run
    from raydelt.errors import InputError
    from raydelt.report import console
    from raydelt.train.verify import verify as replay

    run = Run.open(output)
    config = run.spec
    run.manifest("model")
    with cluster.connected(config.cluster):
        verdicts = replay(config, run.store)
    if as_json:
        typer.echo(json.dumps([verdict.__dict__ | {"accepted": verdict.accepted} for verdict in verdicts], indent=2))
    else:
        console.show_verdicts(verdicts)
    refused = [verdict for verdict in verdicts if not verdict.accepted]
    if refused:
        first = refused[0]
        raise InputError(f"the training of {first.arm} (seed {first.seed}) is refused: {first.problem}")
