"""Commands of labelling: what to ask people next, and their answers."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raydelt.cli.app import VALUE, Json, Override, Spec, app

SHOWN = 20
label_app = typer.Typer(no_args_is_help=True, help="Ask people for the labels that help most, and read them back.")
app.add_typer(label_app, name="label", rich_help_panel=VALUE)


@label_app.command("next")
def label_next(
    spec: Spec,
    out: Annotated[str, typer.Option(help="Where the batch goes: .csv or .parquet, local or s3.")],
    phase: Annotated[str | None, typer.Option(help="cold, iterate or converged, in place of what is due.")] = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Choose the next examples to label, and write them to a file with an empty column `label`."""
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt import pipeline
    from raydelt.active import session, sheets

    held: list[session.Batch] = []
    chosen = session.phase_named(phase)
    session.check(config)
    sheets.check_place(out)
    pipeline.execute(config, until="corpus", then=lambda run: held.append(pipeline.ask(run, phase=chosen)))
    batch = held[0]
    count = sheets.export(batch.rows, out) if batch.rows.num_rows else 0
    if as_json:
        told = {**batch.entry.__dict__, "examples": count, "file": out if count else None, "waited": batch.waited}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"phase {batch.entry.phase}: {batch.entry.reason}")
    where = "still wait for labels, as in" if batch.waited else "to label, in"
    typer.echo(f"{count} examples {where} {out}" if count else "nothing to label")
    if batch.waited and chosen is not None:
        typer.echo(f"--phase {chosen.value} is for the next round: absorb these labels, or `raydelt label expire`")


@label_app.command("absorb")
def label_absorb(
    spec: Spec,
    file: Annotated[str, typer.Argument(help="The file that came back.", metavar="FILE")],
    annotator: Annotated[str, typer.Option(help="Who labelled it.")] = "unknown",
    overwrite: Annotated[bool, typer.Option(help="Let a label replace an earlier, different one.")] = False,
    abstain: Annotated[bool, typer.Option(help="Take a file without any label: all of it abstains.")] = False,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Read labels back; an empty label abstains, and what cannot be used is put aside with its reason.

    The exit code is 2 where no row of the file can be used.
    """
    from raydelt.active import session
    from raydelt.specfile import load

    told = session.absorb(load(spec, override), file, annotator=annotator, overwrite=overwrite, abstain=abstain)
    used = {name: told[name] for name in ("labelled", "abstained", "overwritten", "repeated")}
    bad = told["quarantined"]
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        typer.echo(", ".join(f"{count} {name}" for name, count in used.items()) + f", {len(bad)} put aside")
        for row in bad[:SHOWN]:
            typer.echo(f"  row {row['row']}: {row['reason']}")
        if bad:
            typer.echo(f"  {len(bad) - SHOWN} more and these are" if len(bad) > SHOWN else "  these are", nl=False)
            typer.echo(f" in {told['quarantine']}")
    if bad and not any(used.values()):
        raise typer.Exit(2)


@label_app.command("expire")
def label_expire(
    spec: Spec,
    days: Annotated[float, typer.Option(min=0, help="Give up on what was asked for longer ago than this.")],
    override: Override = None,
) -> None:
    """Give up on examples that nobody answered for; they may be asked about again."""
    from raydelt.active import session
    from raydelt.specfile import load

    typer.echo(f"{len(session.expire(load(spec, override), days))} expired")


@label_app.command("status")
def label_status(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Tell where labelling stands."""
    from raydelt.active import session
    from raydelt.report import console
    from raydelt.specfile import load

    found = session.status_of(load(spec, override))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.show_labelling(found)
