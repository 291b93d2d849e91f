"""The command line: every command is a few lines that call the package. Heavy imports happen inside the commands."""

from __future__ import annotations

import enum
import json
import logging
import os
import sys
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Score training data, rank it, select and order the best part, train on it, and measure whether it helped.",
)
INTERRUPTED = 130
Spec = Annotated[str, typer.Argument(help="The YAML spec of the run.", metavar="SPEC")]
Override = Annotated[list[str] | None, typer.Option("-o", "--override", help="section.field=value; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Protocol(enum.StrEnum):
    """Published ways to measure data values."""

    opendataval = "opendataval"


def _execute(spec: str, override: list[str] | None, until: str, as_json: bool) -> None:
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt import pipeline
    from raydelt.report import console

    run = pipeline.execute(config, until=until)
    if as_json:
        typer.echo(json.dumps(console.result(run.store), indent=2))
    else:
        console.show(run.store, unchanged=not any(run.fresh.values()))


@app.command()
def run(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the whole flow, going on from whatever already stands in the run directory."""
    _execute(spec, override, "report", as_json)


@app.command()
def score(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the scores."""
    _execute(spec, override, "scores", as_json)


@app.command()
def rank(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the ranking."""
    _execute(spec, override, "ranking", as_json)


@app.command()
def select(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the selection."""
    _execute(spec, override, "selection", as_json)


@app.command()
def order(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the examples in training order."""
    _execute(spec, override, "ordered", as_json)


@app.command()
def train(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the trained model and its baselines."""
    _execute(spec, override, "model", as_json)


@app.command()
def report(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the report."""
    _execute(spec, override, "report", as_json)


@app.command()
def show(
    output: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")], as_json: Json = False
) -> None:
    """Print what a run found."""
    from raydelt.report import console
    from raydelt.storage import Store, absolute

    store = Store(absolute(output))
    if as_json:
        typer.echo(json.dumps(console.result(store), indent=2))
    else:
        console.show(store)


@app.command()
def verify(
    output: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")], as_json: Json = False
) -> None:
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


@app.command()
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

    run = pipeline.execute(config, until="scores", then=pipeline.measure_values)
    facts = run.manifests["protocol"].facts
    if as_json:
        typer.echo(json.dumps({"protocol": protocol.value, "components": facts["components"]}, indent=2))
    else:
        console.show_values(facts["components"])


label_app = typer.Typer(no_args_is_help=True, help="Ask people for the labels that help most, and read them back.")
app.add_typer(label_app, name="label")


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
    from raydelt.active import queue, session

    held: list[session.Batch] = []
    chosen = session.phase_named(phase)
    pipeline.execute(config, until="corpus", then=lambda run: held.append(pipeline.ask(run, phase=chosen)))
    batch = held[0]
    count = queue.export(batch.rows, out) if batch.rows.num_rows else 0
    if as_json:
        typer.echo(json.dumps({"asked": count, "file": out if count else None, **batch.entry.__dict__}, indent=2))
        return
    typer.echo(f"phase {batch.entry.phase}: {batch.entry.reason}")
    told = "still wait for labels, as in" if batch.waited else "to label, in"
    typer.echo(f"{count} examples {told} {out}" if count else "nothing to label")


@label_app.command("absorb")
def label_absorb(
    spec: Spec,
    file: Annotated[str, typer.Argument(help="The file that came back.", metavar="FILE")],
    annotator: Annotated[str, typer.Option(help="Who labelled it.")] = "unknown",
    overwrite: Annotated[bool, typer.Option(help="Let a label replace an earlier, different one.")] = False,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Read labels back; an empty label abstains, and what cannot be used is put aside with its reason."""
    from raydelt.active import session
    from raydelt.specfile import load

    told = session.absorb(load(spec, override), file, annotator=annotator, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    counts = ", ".join(f"{told[name]} {name}" for name in ("labelled", "abstained", "overwritten", "repeated"))
    typer.echo(f"{counts}, {len(told['quarantined'])} put aside")
    for row in told["quarantined"]:
        typer.echo(f"  row {row['row']}: {row['reason']}")


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


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors."""
    from raydelt.specfile import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


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


if __name__ == "__main__":
    main()
