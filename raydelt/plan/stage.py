"""The plan stage: what to keep of a run's ranking at each budget, as JSON, text, charts and the points behind them.

Scoring costs the seconds of all stages before the selection, as `run.json` has them, times the devices of the cluster.
A plan says what it was made of, so that `select.plan` can refuse one of another corpus or ranking. Cost: see `make`.

Caution: seconds times devices is what the cluster was held for, not what it worked.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.plan import plot
from raydelt.plan.buckets import HOLDOUT, Bucket, published, slices
from raydelt.plan.make import Columns, Ground, Made, make
from raydelt.plan.points import columns_of
from raydelt.report.cost import CHOOSING
from raydelt.storage import Manifest, Part, Stage, Store, fingerprint

# Of the ranking's section, what does not change which example comes before which.
NO_MATTER = {"refine", "extent", "max_proxy_examples"}


@dataclass(frozen=True)
class Before:
    """What a plan is made of: its points and the holdout's, where they come from, and the corpus they stand for."""

    columns: Columns
    holdout: Columns | None
    source: str
    ground: Ground

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.columns, self.holdout, asdict(self.ground)])


def definition(config: RunConfig, corpus: Manifest) -> dict[str, str]:
    """What a plan holds for, a digest each; the training's are not refused where they differ."""
    c = config.model_dump(mode="json")
    ranked = {name: value for name, value in c["rank"].items() if name not in NO_MATTER}
    recipe = {name: value for name, value in c["train"]["recipe"].items() if name not in ("steps", "epochs")}
    return {
        "corpus": fingerprint([corpus.facts[name] for name in ("content", "classes")]),
        "score": fingerprint([c["score"], c["encoder"]]),
        "rank": fingerprint(ranked),
        "select.quotas": fingerprint(c["select"]["quotas"]),
        "model": fingerprint(c["model"]),
        "train.recipe": fingerprint(recipe),
    }


def before(
    config: RunConfig,
    manifests: Mapping[str, Manifest],
    seconds: Mapping[str, float | None],
    store: Store,
) -> Before:
    """What a plan of a run is made of: its probes, or the table that the spec names.

    Raises:
        InputError: the table cannot be read.
    """
    if config.plan.points is not None:
        columns = columns_of(config.plan.points)
        return Before(columns, None, config.plan.points, _ground_of_table(columns, manifests))
    probes, held = manifests["probes"], published(manifests["buckets"])
    columns = store.read_table(probes.parts[0].file).to_pydict()
    apart = probes.sides.get("holdout", [])
    ground = _ground([bucket for bucket, _ in held if bucket.name != HOLDOUT], manifests, columns, seconds)
    return Before(
        columns,
        store.read_table(apart[0].file).to_pydict() if apart else None,
        store.path(probes.parts[0].file),
        ground,
    )


def publish_plan(config: RunConfig, before: Before, held_for: dict[str, str], stage: Stage) -> Manifest:
    """Make the plan and publish it.

    Raises:
        InputError: no law can be fitted to the points.
        SpecError: a budget or price makes no sense.
    """
    made = make(
        before.columns,
        config.plan,
        ground=before.ground,
        holdout=before.holdout,
        seed=config.seed,
        source=before.source,
    )
    document = made.to_dict() | {"made_of": held_for, "name": config.name}
    text = json.dumps(document, indent=2) + "\n"
    points = json.dumps({name: list(values) for name, values in before.columns.items()}) + "\n"
    plans = [stage.run.put(stage.file("plan", 0, "json"), text.encode())]
    sides = {
        "points": [stage.run.put(stage.file("points", 0, "json"), points.encode())],
        "text": [stage.run.put(stage.file("plan", 0, "txt"), made.text().encode())],
        "chart": _charts(made, config.plan.budgets, stage),
    }
    facts = {
        "rows_processed": len(next(iter(before.columns.values()))),
        "advice": [
            {"budget": one.budget, "recommended": one.recommended, "pays": one.pays, "verdict": one.verdict}
            for one in made.plan.advice
        ],
    }
    return stage.publish(plans, facts, sides)


def _charts(made: Made, budgets: list[float], stage: Stage) -> list[Part]:
    ground = made.ground
    canvas = plot.figure(made.fitted, made.drawn, budgets, price=made.price, sizes=ground.sizes, whole=ground.whole)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("svg", "png"):
            file = Path(folder) / f"plan.{suffix}"
            plot.save(canvas, file)
            parts.append(stage.run.put(stage.file("plan", 0, suffix), file.read_bytes()))
    return parts


def _ground(
    buckets: list[Bucket], manifests: Mapping[str, Manifest], columns: Columns, seconds: Mapping[str, float | None]
) -> Ground:
    facts, in_tokens = manifests["probes"].facts, "tokens" in columns["unit"]
    sizes = tuple(bucket.seen(bucket.rows, in_tokens=in_tokens) for bucket in buckets)
    rows = tuple(bucket.rows for bucket in buckets)
    if "ratio" in columns["pool"]:
        sizes, rows = (tuple(np.diff(held, prepend=0).tolist()) for held in (sizes, rows))
    spent = [seconds.get(name) for name in CHOOSING if name in manifests]
    known = [value for value in spent if value is not None]
    return Ground(
        sizes,
        rows,
        manifests["ranking"].facts["excluded"] == 0,
        sum(known) * facts["devices"] if len(known) == len(spent) else None,
        facts["device"],
        sum(sizes) / sum(rows) if in_tokens else None,
    )


def _ground_of_table(columns: Columns, manifests: Mapping[str, Manifest]) -> Ground:
    """The corpus in as many slices as a table has buckets."""
    if "bucket" not in columns:
        return Ground()
    ranking, tokens = manifests["ranking"], manifests.get("tokens")
    count = len(dict.fromkeys(map(str, columns["bucket"])))
    facts, in_tokens = ranking.facts, "tokens" in columns.get("unit", ())
    rows = tuple(bucket.rows for bucket in slices([facts["rows"] - facts["excluded"]], count))
    if in_tokens and tokens is None:
        raise InputError("the table of plan.points counts tokens, and this corpus has none: count examples")
    mean = tokens.facts["tokens"] / facts["rows"] if in_tokens and tokens else None
    sizes = tuple(own * (mean or 1.0) for own in rows)
    return Ground(sizes, rows, facts["excluded"] == 0, per_example=mean)
