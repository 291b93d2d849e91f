"""The command that searches for settings."""

from __future__ import annotations

import json

import typer

from raydelt.cli.app import Json, Override, Spec
from raydelt.cli.plan import plan_app


@plan_app.command("tune")
def tune(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Search weights, gate, folds, ratio and layers, and tell whether the winner beats the spec beyond noise."""
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt.tune import search, telling

    found = search.tune(config)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    rows = [*telling.lines(found), ("best", f"{config.output.rstrip('/')}/tune/{telling.BEST}")]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}")
