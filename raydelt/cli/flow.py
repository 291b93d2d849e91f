"""Commands of the flow: the whole run, or up to one of its stages; the schema of a spec."""

from __future__ import annotations

import json

import typer

from raydelt.cli.app import FLOW, Json, Override, RunOrSpec, Spec, app


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


@app.command(rich_help_panel=FLOW)
def run(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the whole flow, going on from whatever already stands in the run directory."""
    _execute(spec, override, "report", as_json)


@app.command(rich_help_panel=FLOW)
def score(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the scores."""
    _execute(spec, override, "scores", as_json)


@app.command(rich_help_panel=FLOW)
def rank(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the ranking."""
    _execute(spec, override, "ranking", as_json)


@app.command(rich_help_panel=FLOW)
def select(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the selection."""
    _execute(spec, override, "selection", as_json)


@app.command(rich_help_panel=FLOW)
def order(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the examples in training order."""
    _execute(spec, override, "ordered", as_json)


@app.command(rich_help_panel=FLOW)
def train(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Run the flow up to the trained model and its baselines."""
    _execute(spec, override, "model", as_json)


@app.command(rich_help_panel=FLOW)
def report(run: RunOrSpec, override: Override = None, as_json: Json = False) -> None:
    """Write the report of a finished run again, or run the flow of a spec up to it."""
    from raydelt.specfile import is_spec

    if is_spec(run):
        _execute(run, override, "report", as_json)
        return
    from raydelt.errors import SpecError

    if override:
        raise SpecError(f"-o changes a spec, and {run!r} is a run: give the spec's .yaml file")
    from raydelt.report import console
    from raydelt.report.again import write_again

    written = write_again(run)
    if as_json:
        typer.echo(json.dumps(written.store.read_json("report/summary.json"), indent=2))
    else:
        console.show_report(written.store)


@app.command(rich_help_panel=FLOW)
def schema() -> None:
    """Print the JSON schema of a spec, for editors."""
    from raydelt.specfile import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
