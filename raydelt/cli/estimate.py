"""The command that says what a run will take, before it runs."""

from __future__ import annotations

import enum
import json
from typing import Annotated

import typer

from raydelt.cli.app import PLAN, Json, Override, Spec, app


class Until(enum.StrEnum):
    """The commands of the flow that an estimate can be for."""

    score = "score"
    rank = "rank"
    select = "select"
    order = "order"
    train = "train"
    run = "run"


@app.command(rich_help_panel=PLAN)
def estimate(
    spec: Spec,
    until: Annotated[Until, typer.Option(help="The command that is to be estimated.")] = Until.run,
    seconds: Annotated[float, typer.Option(help="How long the trials may take together.")] = 60.0,
    prices: Annotated[str | None, typer.Option(help="A YAML file of prices in place of the built-in list.")] = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Say what a run will take: time, CPU- and GPU-hours, memory, disk, requests and money, by trials on a part."""
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt.estimate import answer, table
    from raydelt.estimate.trial import COMMANDS

    stage = {command: stage for stage, command in COMMANDS.items()}[until.value]
    found = answer.estimate(config, until=stage, seconds=seconds, price_file=prices)
    typer.echo(json.dumps(found, indent=2) if as_json else table.text(found))
