"""What a run found, as a short table on the terminal and as plain data."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from raydelt.errors import InputError
from raydelt.rundir import RECORD
from raydelt.storage import Store, read_manifest


def result(store: Store) -> dict[str, Any]:
    """The record of a run, with its summary where the report stands.

    Raises:
        InputError: the place holds no finished stage.
    """
    if not store.exists(RECORD):
        raise InputError(f"{store.root!r} holds no raydelt run (no {RECORD}): check the path, or finish the run")
    record: dict[str, Any] = store.read_json(RECORD)
    report = read_manifest(store, "report")
    return record | {"summary": report.facts["summary"] if report else None}


def show(store: Store, *, unchanged: bool = False) -> None:
    """Print the result of a run."""
    console = Console()
    found = result(store)
    if unchanged:
        console.print(f"nothing to do: every stage of {store.root} is up to date")
    if found["summary"] is None:
        for name, stage in found["stages"].items():
            console.print(f"{name:10} {stage['rows']:>10} rows   {store.path(name)}")
        return
    console.print(_table(found["summary"]))
    console.print(f"report: {store.path('report/index.html')}")


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=summary["name"], show_header=False)
    selection, training = summary["selection"], summary["training"]
    table.add_row("kept", f"{selection['kept']} of {selection['of']} examples")
    detection = summary["detection"]
    if detection:
        table.add_row(
            "flipped labels",
            f"{detection['flipped']} in the corpus, {detection['kept_flipped']} in the selection; by "
            f"{detection['component']}: AUROC {detection['auroc']:.4f}, precision at k {detection['precision_at_k']:.3f}",
        )
    for arm, values in training["accuracy"].items():
        table.add_row(f"accuracy, {arm}", f"{100 * sum(values) / len(values):.2f} % (mean of {len(values)} seeds)")
    for arm, d in training["differences"].items():
        interval = "" if d["low"] is None else f" [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]"
        table.add_row(f"selected - {arm}", f"{100 * d['mean']:+.2f} points{interval}: {d['verdict']}")
    table.add_row("steps per training", str(training["steps"]))
    return table
