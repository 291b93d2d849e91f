"""Commands that score a run again: now, or by the clock."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict
from typing import Annotated

import typer

from raydelt import __version__
from raydelt.cli.app import SERVICE, Json, Override, RunOrSpec, Spec, app

# The service of the head in cluster/kubernetes.
HEAD = "http://raydelt-head-svc:8265"


class Until(enum.StrEnum):
    """The stages that a run can be scored again up to."""

    ranking = "ranking"
    selection = "selection"
    ordered = "ordered"
    model = "model"
    report = "report"


UntilOption = Annotated[Until, typer.Option(help="The stage to go to.")]


@app.command(rich_help_panel=SERVICE)
def rescore(
    run: RunOrSpec,
    until: UntilOption = Until.selection,
    refit: Annotated[bool | None, typer.Option("--refit/--keep", help="In place of rescore.fitted.")] = None,
    restart: Annotated[bool, typer.Option(help="Throw an unfinished version away.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Open only files changed since: 2026-01-31, or 12h, 7d. Default: all.")
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Score a run for the first time where it never was.")] = False,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Score what is new, changed or stale, and publish the next version of the run."""
    import time

    from raydelt.rescore import since as times
    from raydelt.rescore.rescore import rescore as score_again
    from raydelt.specfile import load_or_resume

    moment = None if since is None else times.since(since, now=time.time())
    config = load_or_resume(run, override)
    found = score_again(config, until=until.value, refit=refit, restart=restart, since=moment, first=first)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    if not found.published:
        typer.echo(f"nothing changed: version {found.version} stays, {found.examples} examples")
        return
    typer.echo(f"version {found.version}: {found.examples} examples, {found.before} before")
    if found.unopened:
        typer.echo(f"  {found.unopened} files older than --since were not opened")
    for name, rows in found.computed.items():
        typer.echo(f"  {name}: {rows} of {found.examples} computed")


@app.command(rich_help_panel=SERVICE)
def schedule(
    spec: Spec,
    cron: Annotated[str, typer.Option(help='When: a cron line, such as "0 3 * * *".')],
    timezone: Annotated[str, typer.Option(help="The zone of the cron line.")] = "UTC",
    until: UntilOption = Until.selection,
    manifest: Annotated[str | None, typer.Option(help="Write a Kubernetes CronJob to this file instead.")] = None,
    image: Annotated[str, typer.Option(help="The image of the CronJob.")] = f"raydelt-cpu:{__version__}",
    address: Annotated[str, typer.Option(help="The dashboard that the CronJob submits to.")] = HEAD,
    override: Override = None,
) -> None:
    """Score a run again by the clock: in this process, or as a CronJob of Kubernetes."""
    from raydelt.errors import SpecError
    from raydelt.rescore.schedule import Cron
    from raydelt.specfile import load

    if manifest is not None and until is not Until.selection:
        raise SpecError(f"--until {until} is not for --manifest, whose job goes to {Until.selection}: drop one")
    times, config = Cron(cron, timezone), load(spec, override)
    if manifest is not None:
        from raydelt.rescore.kubernetes import write

        write(manifest, config, times, image=image, address=address)
        typer.echo(f"wrote {manifest}: kubectl -n raydelt apply -f {manifest}")
        return
    from raydelt.rescore.rescore import keep_scored

    keep_scored(config, times, until=until.value)
