"""What a run found, as a short table on the terminal, as aligned lines elsewhere, and as plain data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raydelt.errors import InputError
from raydelt.estimate.beside import TOTAL
from raydelt.report.wording import METRICS, MINUS, duration, mean, percent, planned, quantity, steps_of
from raydelt.rundir import RECORD, foreign
from raydelt.storage import Store, read_manifest
from raydelt.storage.near import near

if TYPE_CHECKING:
    from raydelt.train.verify import Verdict


# What is shown of a summary, which one of another version may lack.
SHOWN = (
    *("name", "detection", "selection.kept", "selection.of", "selection.noise"),
    *("training.steps", "training.results", "training.metric", "training.values", "training.differences"),
    *("cost.scoring", "cost.training", "cost.trainings", "cost.one_training"),
)


def result(store: Store) -> dict[str, Any]:
    """The record of a run, with its summary where the report stands and belongs to this record.

    Raises:
        InputError: the place holds no finished stage, or another version of raydelt wrote it.
    """
    if not store.exists(RECORD):
        cure = near(store.root, otherwise="check the path, or finish the run")
        raise InputError(f"{store.root!r} holds no raydelt run (no {RECORD}): {cure}")
    record: dict[str, Any] = store.read_json(RECORD)
    if not _holds(record, "stages"):
        raise foreign(store, RECORD, " (no stages)")
    report = read_manifest(store, "report")
    recorded = record["stages"].get("report", {}).get("fingerprint")
    current = report is not None and report.fingerprint == recorded
    return record | {"summary": report.facts.get("summary", {}) if report is not None and current else None}


def _holds(found: Any, name: str) -> bool:
    """Whether plain data has a key, or a key of a key."""
    for key in name.split("."):
        if not isinstance(found, dict) or key not in found:
            return False
        found = found[key]
    return True


def show(store: Store, *, unchanged: bool = False) -> None:
    """Print the result of a run."""
    found = result(store)
    if unchanged:
        print(f"nothing to do: every stage of {store.root} is up to date")
    if found["summary"] is None:
        for name, stage in found["stages"].items():
            print(f"{name:10} {stage.get('rows', ''):>10} rows   {store.path(name)}")
        _print_estimated(found.get("estimated", []))
        return
    lacking = [name for name in SHOWN if not _holds(found["summary"], name)]
    if lacking:
        raise foreign(store, "report/summary.json", f" (no {lacking[0]})")
    rows = lines(found["summary"])
    rows += [("estimate", told) for told in estimated_lines(found.get("estimated", []))]
    _print(store, found["summary"]["name"], rows)


def show_report(store: Store) -> None:
    """Print what a report that was just written says, and where it is."""
    summary = store.read_json("report/summary.json")
    _print(store, summary["name"], lines(summary))


def _print(store: Store, name: str, rows: list[tuple[str, str]]) -> None:
    page = f"{store.root}/report/index.html"
    rows.append(("report", page if store.exists("report/index.html") else store.path("report/summary.json")))
    if sys.stdout.isatty():
        _print_table(name, rows)
        return
    print(name)
    width = max(len(own) for own, _ in rows)
    for own, text in rows:
        print(f"  {own:{width}}  {text}")


def estimated_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was estimated beside what was measured, but for single stages; empty without an estimate."""
    return [
        f"{row['what']} {quantity(row['actual'], row['unit'])}, {quantity(row['estimated'], row['unit'])} estimated"
        + (f" (ratio {row['ratio']:.2f})" if row["ratio"] is not None else "")
        for row in rows
        if row["what"] == TOTAL or row["unit"] == "bytes"
    ]


def _print_estimated(rows: Sequence[dict[str, Any]]) -> None:
    for told in estimated_lines(rows):
        print(f"{'estimate':10} {told}")


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print what the replay of every training found."""
    for verdict in verdicts:
        told = "accepted" if verdict.accepted else f"refused: {verdict.problem}"
        print(f"{verdict.arm:10} seed {verdict.seed:<6} {verdict.steps:>8} steps   {told}")


def show_values(components: Sequence[dict[str, Any]]) -> None:
    """Print what the protocol of data valuation says of every component."""
    found = "f1" in components[0]
    heads = ["F1", "AUROC", "avg. precision", "discovery"] if found else []
    keys = ["f1", "auroc", "average_precision", "discovery"] if found else []
    kinds = list(components[0]["curves"])
    wide = max(len(own["component"]) for own in components)
    print(f"{'component':{wide}}" + "".join(f"{head:>16}" for head in [*heads, *(k.replace("_", " ") for k in kinds)]))
    for own in components:
        values = [own[key] for key in keys] + [own["curves"][kind]["area"] for kind in kinds]
        print(f"{own['component']:{wide}}" + "".join(f"{value:>16.4f}" for value in values))
    print("\nareas are mean accuracies: lower is better for remove high and add low, higher for the other two")


def show_probes(points: dict[str, list[Any]]) -> None:
    """Print the mean of every bucket's probes at each number seen."""
    metric = "loss" if "loss" in points else "error"
    cells: dict[tuple[str, float], list[float]] = {}
    for name, seen, value in zip(points["bucket"], points["seen"], points[metric], strict=True):
        cells.setdefault((name, seen), []).append(value)
    print(f"{'bucket':>12} {points['unit'][0] + ' seen':>16} {metric:>10}")
    for (name, seen), values in cells.items():
        print(f"{name:>12} {seen:>16,.0f} {mean(values):>10.4f}   ({_seeds(len(values))})")


def show_labelling(found: dict[str, Any]) -> None:
    """Print where labelling stands, a line for every round."""
    print(f"phase {found['phase']}: {found['reason']}")
    print("queue: " + ", ".join(f"{number} {state}" for state, number in found["queue"].items()))
    for own in found["rounds"]:
        accuracy = "" if own["accuracy"] is None else f", validation accuracy {percent(own['accuracy'])}"
        print(f"round {own['round']}: {own['phase']}, {own['labels']} labels, asked for {own['asked']}{accuracy}")


def lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What matters of a summary, as names and texts."""
    selection, training, cost = summary["selection"], summary["training"], summary["cost"]
    share = percent(selection["kept"] / selection["of"], 1)
    rows = [("kept", f"{selection['kept']} of {selection['of']} examples ({share})")]
    if "plan" in selection:
        rows.append(("ratio", planned(selection["plan"])))
    if "left_out" in selection:
        rows.append(("left out", f"{selection['left_out']['retired']} examples that the monitor retired"))
    if selection["noise"] is not None:
        noise = selection["noise"]
        told = f"{percent(noise['share'], 1)} of what is kept lies within its own standard error of the cut"
        rows.append(("at the cut", f"{told}; about {noise['expected_wrong']:.0f} are kept by chance"))
    rows += _found(summary["detection"])
    metric = METRICS[training["metric"]]
    for arm, values in training["values"].items():
        rows.append((f"{training['metric']}, {arm}", f"{metric.value(mean(values))} ({_seeds(len(values))})"))
    for arm, d in training["differences"].items():
        told = f"{metric.change(d['mean'])} {metric.of_differences}, {metric.interval(d)}: {d['verdict']}"
        rows.append((f"selected - {arm}", told))
    rows.append(("choosing", f"{duration(cost['scoring'])} (everything between corpus and selection)"))
    count = f"{cost['trainings']} trainings of {steps_of(training)} steps"
    rows.append(("training", f"{duration(cost['training'])} ({count}, {duration(cost['one_training'])} each)"))
    # A terminal or a log that is not UTF-8 takes these lines too.
    return [(name, text.replace(MINUS, "-")) for name, text in rows]


def _found(detection: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The line on flipped labels, where the spec flipped any."""
    if detection is None:
        return []
    text = f"{detection['flipped']} in the corpus, {detection['kept_flipped']} left in the selection"
    if detection["auroc"] is not None:
        text += (
            f"; by {detection['component']}: AUROC {detection['auroc']:.4f}, "
            f"precision at k {detection['precision_at_k']:.3f}"
        )
    return [("flipped labels", text)]


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"mean of {number} seeds"


def _print_table(title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, text in rows[:-1]:
        table.add_row(Text(name), Text(text))
    console = Console()
    console.print(table)
    name, place = rows[-1]
    # A path that is broken into lines cannot be opened by a click.
    console.print(Text(f"{name}: {place}"), soft_wrap=True)
