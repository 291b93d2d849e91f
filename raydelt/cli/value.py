"""The command that values data."""

from __future__ import annotations

import enum
import json
from typing import Annotated

import typer

from raydelt.cli.app import VALUE, Json, Override, Spec, app


class Protocol(enum.StrEnum):
    """Published ways to measure data values."""

    opendataval = "opendataval"


@app.command(rich_help_panel=VALUE)
def value(
    spec: Spec,
    protocol: Annotated[Protocol, typer.Option(help="What the values are held to.")] = Protocol.opendataval,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Value the training data, and measure how well every component finds bad labels and good examples."""
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt import pipeline
    from raydelt.report import console
    from raydelt.valuation import measures

    measures.check(config)
    run = pipeline.execute(config, until="scores", then=pipeline.measure_values)
    facts = run.manifests["protocol"].facts
    if as_json:
        typer.echo(json.dumps({"protocol": protocol.value, "components": facts["components"]}, indent=2))
    else:
        console.show_values(facts["components"])
