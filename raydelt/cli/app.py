"""The application that every command is registered with, and the arguments that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Score training data, rank it, select and order the best part, train on it, and measure whether it helped.",
)
BEGIN = "Begin"
FLOW = "The flow"
PLAN = "Before a run"
ASK = "Ask a run"
VALUE = "Values and labels"
SERVICE = "A service"
Spec = Annotated[str, typer.Argument(help="The YAML spec of the run.", metavar="SPEC")]
RunOrSpec = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or the YAML spec of a run.")]
Override = Annotated[list[str] | None, typer.Option("-o", "--override", help="section.field=value; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
