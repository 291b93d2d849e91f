"""Commands before the first run: a spec for one's own data, and whether a run would start here."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from raydelt.cli.app import BEGIN, Json, Override, app


@app.command(rich_help_panel=BEGIN)
def init(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Your data: a file, folder, glob or URL.")],
    to: Annotated[str, typer.Option(help="Where the spec goes.")] = "spec.yaml",
    label: Annotated[str | None, typer.Option(help="The column of classes.")] = None,
    test: Annotated[str | None, typer.Option(help="A source of its own for the test split.")] = None,
    model: Annotated[str | None, typer.Option(help="A language model's or sentence encoder's folder.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a spec that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Look at the first rows of your data, and write a commented spec for it that runs as it is."""
    from raydelt.setup import begin, told

    if not force:
        begin.refuse_existing(to)
    begun = begin.begin(begin.Wish(source, label, test, name, model), file=to)
    begin.write(begun.text, to, force=force)
    for note in begun.draft.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(json.dumps({"spec": to, **begun.found}, indent=2, default=str) if as_json else told.begun(begun, to))


@app.command(rich_help_panel=BEGIN)
def doctor(
    spec: Annotated[str | None, typer.Argument(metavar="[SPEC]", help="The YAML spec of the run.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray to join in place of the spec's.")] = None,
    ray: Annotated[bool, typer.Option(help="Start or join a Ray, too.")] = True,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Check the machine, Ray, GPUs, storage and a spec before a run, and say what to do. Exit code 2 if one failed."""
    from raydelt.errors import RaydeltError
    from raydelt.setup import doctor as checks
    from raydelt.setup import told
    from raydelt.setup.findings import Finding
    from raydelt.specfile import load

    config, findings = None, []
    try:
        config = load(spec, override) if spec is not None else None
    except RaydeltError as error:
        findings.append(Finding("spec", "fail", str(error)))
    found, late = checks.examine(config, address=address, with_ray=ray)
    findings += found
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"failed": failed, "checks": [vars(finding) for finding in findings]}, indent=2))
    else:
        typer.echo(told.findings(findings))
    if late:
        # Threads that wait for a store would be waited for.
        sys.stdout.flush()
        os._exit(2)
    if failed:
        raise typer.Exit(2)
