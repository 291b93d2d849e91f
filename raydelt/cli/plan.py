"""Commands of planning: how much to keep at each budget, before anyone pays."""

from __future__ import annotations

import difflib
import enum
import json
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raydelt.cli.app import PLAN, Json, Override, Spec, app


class DefaultCommand(TyperGroup):
    """A group that runs its command `advise` where the first argument names no command: `raydelt plan SPEC`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *self.get_help_option_names(ctx)}
        if args and args[0] not in known and not self._mistyped(args[0]):
            args = ["advise", *args]
        return super().parse_args(ctx, args)

    def _mistyped(self, word: str) -> bool:
        """Whether a word is a command with a slip in it, and no spec."""
        return not os.path.exists(word) and bool(difflib.get_close_matches(word, list(self.commands), 1, 0.7))


class Unit(enum.StrEnum):
    """What budgets are counted in."""

    examples = "examples"
    tokens = "tokens"
    flops = "flops"
    gpu_hours = "gpu_hours"
    cpu_hours = "cpu_hours"


class Law(enum.StrEnum):
    """Laws of data that are seen again."""

    utility = "utility"
    effective_data = "effective_data"


class Metric(enum.StrEnum):
    """What is predicted."""

    loss = "loss"
    error = "error"


plan_app = typer.Typer(
    cls=DefaultCommand,
    no_args_is_help=True,
    help="How much to keep at each budget: `raydelt plan SPEC` measures, fits scaling laws and advises.",
)
app.add_typer(plan_app, name="plan", rich_help_panel=PLAN)


@plan_app.command("advise")
def advise(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Say what to keep of the ranking at each budget; this is what `raydelt plan SPEC` runs."""
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt import pipeline, precheck

    precheck.check_planning(config)
    run = pipeline.execute(config, until="ranking", then=pipeline.plan)
    made = run.manifests["plan"]
    part = made.parts[0] if as_json else made.sides["text"][0]
    typer.echo(run.store.read_bytes(part.file).decode().rstrip())


@plan_app.command("probe")
def probe(spec: Spec, override: Override = None, as_json: Json = False) -> None:
    """Make the short trainings, on every ratio or bucket, that a plan is fitted to."""
    from raydelt.specfile import load

    config = load(spec, override)
    from raydelt import pipeline, precheck
    from raydelt.report import console

    precheck.check_planning(config, made=False)
    run = pipeline.execute(config, until="ranking", then=pipeline.probe)
    points = run.store.read_table(run.manifests["probes"].parts[0].file)
    if as_json:
        typer.echo(json.dumps(points.to_pylist(), indent=2))
    else:
        console.show_probes(points.to_pydict())


@plan_app.command("table")
def table(
    points: Annotated[str, typer.Argument(help="Measured points: .parquet, .csv, .json or .jsonl.", metavar="POINTS")],
    budget: Annotated[list[float], typer.Option("--budget", help="What may be spent; repeatable.")],
    unit: Annotated[Unit | None, typer.Option(help="The unit of the budgets, by default that of the points.")] = None,
    per_seen: Annotated[float | None, typer.Option(help="What one example or token seen costs in that unit.")] = None,
    scoring: Annotated[float | None, typer.Option(help="What scoring the corpus costs in that unit.")] = None,
    size: Annotated[
        list[float] | None, typer.Option("--size", help="Examples or tokens of a bucket, best first; for each one.")
    ] = None,
    metric: Annotated[Metric | None, typer.Option(help="Where a table has both.")] = None,
    law: Annotated[Law, typer.Option(help="How repeats count.")] = Law.utility,
    gamma: Annotated[float, typer.Option(help="Half-lives grow with the pool to this power.")] = 1.0,
    floor: Annotated[
        float | None, typer.Option(help="The loss that no data can take away, where it is known.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the bootstrap.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 7,
    chart: Annotated[str | None, typer.Option(help="Also draw it, as .svg or .png.")] = None,
    as_json: Json = False,
) -> None:
    """Plan from a table of measured points, without a run."""
    from raydelt.plan.alone import plan_table

    given = {
        "budgets": budget,
        "unit": unit and unit.value,
        "per_seen": per_seen,
        "scoring": scoring,
        "metric": metric and metric.value,
        "law": law.value,
        "gamma": gamma,
        "floor": floor,
        "draws": draws,
    }
    made = plan_table(points, given, sizes=size, seed=seed, chart=chart)
    typer.echo(json.dumps(made.to_dict(), indent=2) if as_json else made.text().rstrip())
