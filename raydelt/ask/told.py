"""What `why`, `diff`, `show` and `export` found, as lines on the terminal. Nothing is computed here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from raydelt.ask.spec_diff import ABSENT
from raydelt.ask.text import padded, plain, snippet, told

LISTED = 12
IDS = 16
COMPONENTS = 4


def show_lines(lines: Iterator[str]) -> None:
    """Print lines as the terminal can take them."""
    for line in lines:
        print(told(line.rstrip()))


def why_lines(found: dict[str, Any]) -> Iterator[str]:
    """Everything that is known of one example."""
    yield f"{plain(found['id'])}: {_state(found)}"
    if found["quarantine"] is not None:
        entry = found["quarantine"]
        row = "" if entry["row"] is None else f" row {entry['row']}"
        yield f"  {plain(str(entry['source_file']))}{row}: {plain(str(entry['reason']))}"
    if found["example"] is not None:
        yield from _example(found["example"])
    if found["components"] is not None:
        yield from _components(found["components"], found["percentiles"])
    if found["combined"] is not None:
        own = found["combined"]
        share = "" if own["percentile"] is None else f", percentile {own['percentile']:.2f}"
        yield f"  score {_number(own['score'])}{_error(own['score_se'])}, rank {own['rank']} of {own['of']}{share}"
    if found["rule"] is not None:
        yield from _rule(found["rule"])
    if found["order"] is not None:
        yield from _order(found["order"])
    yield from _history(found["history"] or [])
    if found["neighbours"] is not None:
        yield from _neighbours(found["neighbours"])


def _state(found: dict[str, Any]) -> str:
    held = {"held out": f"held out ({found.get('split')}), never scored", "pool": "in the pool, without a label yet"}
    state: str = held.get(found["state"], found["state"])
    return state


def _example(example: dict[str, Any]) -> Iterator[str]:
    if example["label"] is not None:
        before = example["label_before_noise"]
        yield f"  label {plain(example['label'])}" + (f" (before noise {plain(before)})" if before else "")
    yield f"  from {plain(str(example['source_file']))} row {example['row']}"
    if example["text"] is not None:
        yield f"  text ({example['text_characters']} characters) {snippet(example['text'], _width() - 30)}"
    if example["features"] is not None:
        own = example["features"]
        yield (
            f"  {own['width']} features from {own['least']:.4g} to {own['greatest']:.4g}, mean {own['mean']:.4g}, "
            f"{own['not_zero']:.0%} not zero"
        )


def _components(components: Sequence[dict[str, Any]], beside: dict[str, Any]) -> Iterator[str]:
    wide = max(len(own["name"]) for own in components)
    yield f"  {'component':{wide}} {'value':>12} {'error':>10} {'percentile':>10} {'weight':>8}"
    for own in components:
        error = "" if own["se"] is None else f"{own['se']:.4g}"
        weight = f"{own['weight']:.3g}" if own["weight"] else ""
        yield f"  {own['name']:{wide}} {own['value']:>12.5g} {error:>10} {own['percentile']:>10.2f} {weight:>8}"
    if not beside["exact"]:
        yield f"  percentiles are of {beside['rows']} of {beside['of']} examples, +- {beside['error']:.2f}"


def _rule(rule: dict[str, Any]) -> Iterator[str]:
    yield f"  {plain(rule['text'])}"
    if rule["distance"] is not None:
        side = "above" if rule["distance"] >= 0 else "below"
        line = f"  {_number(abs(rule['distance']))} {side} the cut at {_number(rule['cut'])}"
        if rule["within_noise"] is not None:
            away = "" if rule["distance_in_se"] is None else f" ({abs(rule['distance_in_se']):.1f} standard errors)"
            line += f"{away}: {'within' if rule['within_noise'] else 'outside'} its own noise"
        yield line
    if rule["probability"] is not None:
        yield f"  drawn with probability {rule['probability']:.4g}, weight {rule['weight']:.4g}"
    if rule["plan"] is not None:
        yield "  the ratio is that of a plan: " + ", ".join(f"{k} {v}" for k, v in rule["plan"].items())


def _order(order: dict[str, Any]) -> Iterator[str]:
    yield f"  position {order['position']} of {order['of']} in training ({order['order']['method']})"
    for one in order["trainings"]:
        steps = ", ".join(str(step) for step in one["steps"][:LISTED])
        more = f", … ({len(one['steps'])} in all)" if len(one["steps"]) > LISTED else ""
        yield f"  seed {one['seed']}: of {one['of_steps']} steps, {steps or 'none'}{more}"
    if not order["trainings"]:
        yield "  no training has seen it yet"


def _history(versions: Sequence[dict[str, Any]]) -> Iterator[str]:
    for entry in versions:
        values = ", ".join(f"{k} {_number(v)}" for k, v in entry["components"].items() if v is not None)
        yield f"  version {entry['version']}: {values if entry['there'] else 'not there'}"


def _neighbours(found: dict[str, Any]) -> Iterator[str]:
    if found["near"]:
        yield f"  nearest by {found['by']}"
        for own in found["near"]:
            label = "" if own["label"] is None else f"  label {plain(own['label'])}"
            yield f"    {plain(own['id'])}  cosine {own['cosine']:.4f}{label}"
    if found["skipped"]:
        yield f"  no nearest neighbours: {found['skipped']}"
    if found["earlier"] is not None and found["earlier"]["id"] is not None:
        own = found["earlier"]
        yield f"  nearest before it: {plain(own['id'])}  cosine {own['cosine']:.4f}"


def examples_lines(found: dict[str, Any]) -> Iterator[str]:
    """Tables of examples."""
    names = found["components"]
    for kind in ("top", "borderline", "bottom"):
        if not found[kind]:
            continue
        cut = ""
        if kind == "borderline" and found["cut"]:
            cut = ", cut at " + ", ".join(_number(value) for value in found["cut"].values())
        yield f"{kind} ({len(found[kind])}{cut})"
        yield from _table(found[kind], names)
        yield ""
    if found["note"]:
        yield f"no borderline: {found['note']}"


def _table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Iterator[str]:
    shown = list(names[:COMPONENTS])
    wide = max(IDS, max(len(plain(row["id"])[:32]) for row in rows))
    heads = f"  {padded('id', wide)} {'rank':>9} {'score':>10} {'kept':>4} {'label':<12}"
    yield heads + "".join(f" {name[:12]:>12}" for name in shown) + "  text or source"
    for row in rows:
        kept = {True: "yes", False: "no", None: ""}[row["kept"]]
        label = padded(snippet(row["label"], 12), 12)
        name, score = padded(snippet(row["id"], wide), wide), _number(row["score"])
        line = f"  {name} {row['rank']:>9} {score:>10} {kept:>4} {label}"
        line += "".join(f" {_number(row['components'][name]):>12}" for name in shown)
        source = f"{row['source_file']} row {row['row']}"
        yield f"{line}  {snippet(row['text'] or source, max(20, _width() - len(line) - 2))}"


def diff_lines(found: dict[str, Any]) -> Iterator[str]:
    """What differs between two runs."""
    for name in ("a", "b"):
        own = found[name]
        kept = "no selection" if own["kept"] is None else f"{own['kept']} kept"
        yield f"{name}: {own['run']}, version {own['version']}: {own['ranked']} ranked, {kept}"
    own = found["selection"]
    rho = "" if found["spearman"] is None else f", rank correlation {found['spearman']:.4f}"
    yield f"{found['common']} examples in common{rho}"
    jaccard = "" if own["jaccard"] is None else f" (Jaccard {own['jaccard']:.4f})"
    yield f"kept by both {own['both']}{jaccard}, dropped {own['dropped']}, new {own['new']}"
    for kind in ("classes", "sources"):
        changed = {name: n for name, n in found[kind].items() if n["dropped"] or n["new"]}
        for name, n in list(changed.items())[:LISTED]:
            one = "class" if kind == "classes" else "source"
            yield f"  {one} {snippet(name, 60)}: +{n['new']} -{n['dropped']}"
    yield from _movers(found)
    both = [entry for entry in found["spec"] if ABSENT not in (entry["a"], entry["b"])]
    for entry in both:
        yield f"spec {entry['field']}: {_short(entry['a'])} -> {_short(entry['b'])}"
    if len(both) < len(found["spec"]):
        yield f"fields that only one of the specs has: {len(found['spec']) - len(both)} (--json lists them)"
    for name, (one, two) in found["versions"].items():
        yield f"version of {name}: {one} -> {two}"
    differ = [name for name, own in found["stages"].items() if not own["same_rows"] and name != "model"]
    yield f"stages with other rows: {', '.join(differ) or 'none'}"


def _movers(found: dict[str, Any]) -> Iterator[str]:
    if found["moved_by"] is not None:
        yield f"moved most by {found['moved_by']}"
    for own in found["components"]:
        if own["changed"] and (own["weight_a"] or own["weight_b"]):
            yield (
                f"  {own['name']}: {own['changed']} of {own['rows']} values changed, "
                f"{own['percentile_change']:.2f} points in the mean"
            )
    for own in found["moved"]:
        kept = f"{'kept' if own['kept_a'] else 'left'} -> {'kept' if own['kept_b'] else 'left'}"
        by = f", by {own['moved_by']}" if own["moved_by"] else ""
        yield f"  {plain(own['id'])}: {own['percentile_change']:+.2f} points{by}, {kept}"


def export_lines(found: dict[str, Any]) -> Iterator[str]:
    """What was written."""
    count = len(found["files"])
    yield f"{found['rows']} examples ({found['what']}) in {count} {'file' if count == 1 else 'files'}: {found['out']}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _error(value: float | None) -> str:
    return "" if value is None else f" +- {value:.2g}"


def _short(value: Any) -> str:
    text = plain(str(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _width() -> int:
    return max(80, shutil.get_terminal_size((160, 24)).columns)
