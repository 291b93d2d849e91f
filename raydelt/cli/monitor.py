"""The command that watches a run over its versions."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raydelt.cli.app import SERVICE, Json, Override, RunOrSpec, app


@app.command(rich_help_panel=SERVICE)
def monitor(
    run: RunOrSpec,
    against: Annotated[str | None, typer.Option(help="Another run, or a Parquet file of scores.")] = None,
    export: Annotated[str | None, typer.Option(help="Where the examples' own numbers go: .csv or .parquet.")] = None,
    restore: Annotated[list[str] | None, typer.Option(help="Bring this resting example back; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, and remember nothing.")] = False,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Tell what decayed, drifted and rests, and whether it is time to score again."""
    import time

    from raydelt.monitor import told
    from raydelt.monitor import watch as watching
    from raydelt.specfile import load_or_resume
    from raydelt.storage import Store, absolute

    config = load_or_resume(run, override)
    store = Store(absolute(config.output))
    if restore and not dry_run:
        watching.restore(store, restore)
    found = watching.watch(store, config, now=time.time(), against=absolute(against) if against else None)
    if export:
        told.export(found, export)
    if not dry_run:
        found.keep()
    typer.echo(json.dumps(told.plain(found), indent=2) if as_json else "\n".join(told.lines(found)))
