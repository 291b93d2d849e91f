"""The command line: every command is a few lines that call the package. Heavy imports happen inside the commands."""

from __future__ import annotations

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
