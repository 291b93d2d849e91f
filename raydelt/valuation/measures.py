"""The OpenDataVal protocol on a run's own components: how well each finds the flips, and what its order is worth.

Every component is turned so that high values are good. Flips (`corpus.noise`) are looked for by `detection` and the
discovery curve; a logistic regression that is trained on what is left (`remove_*`) or added (`add_*`) is measured on
the test split. Areas are mean heights: for `remove_high` and `add_low` lower is better, for `remove_low` and
`add_high` higher. Cost: four curves of about twenty fits per component, one task per curve; memory of a task: the
features of corpus and test split.

Caution: the curves look at the test split, so what is chosen by them has no unseen test left.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from raydelt import cluster
from raydelt.config import HeldOut, RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import FEATURES, LABEL, column_of
from raydelt.report.detection import LOW_IS_SUSPICIOUS
from raydelt.report.parts import ScoredParts, component_columns
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Stage
from raydelt.valuation.problem import Problem
from raydelt.valuation.protocol import addition_curve, area, detection, discovery_curve, removal_curve
from raydelt.valuation.stage import features_and_labels, standardised_alike

CURVES = {
    "remove_high": functools.partial(removal_curve, highest_first=True),
    "remove_low": functools.partial(removal_curve, highest_first=False),
    "add_high": functools.partial(addition_curve, highest_first=True),
    "add_low": functools.partial(addition_curve, highest_first=False),
}


def check(config: RunConfig) -> None:
    """Refuse a spec without what the protocol measures by, before anything is read.

    Raises:
        SpecError: the corpus has no labels, or the spec no test split.
    """
    if not config.corpus.labelled:
        raise SpecError("the protocol measures by labels: set corpus.label_column")
    if config.corpus.test == HeldOut():
        raise SpecError("the protocol needs a test split: set corpus.test.fraction or corpus.test.source")


def measure(corpus: Manifest, scores: Manifest, stage: Stage) -> Manifest:
    """Publish, as facts, what the protocol says of every component.

    Raises:
        InputError: the test split is empty.
    """
    if not corpus.sides.get("test"):
        raise InputError(
            "corpus.test leaves no example that can be used, and the protocol measures by it: look at quarantine/"
        )
    parts, names = ScoredParts.of(stage.run, corpus, scores), component_columns(scores)
    problem = cluster.shared(_problem, parts, corpus, label="protocol: examples")
    values = cluster.shared(_values, parts, names, label="protocol: values")
    noisy = cluster.shared(_flips, parts, label="protocol: flips")
    calls = [(problem, values, name, kind) for name in names for kind in CURVES]
    curves = iter(cluster.parallel(_curve, calls, label="protocol: curves"))
    flipped = bool(corpus.facts["flipped"])
    found = cluster.parallel(_found, [(values, noisy, name) for name in names] if flipped else [], label="protocol")
    rows = []
    for index, name in enumerate(names):
        own: dict[str, Any] = {"component": name, **(found[index] if flipped else {})}
        rows.append(own | {"curves": {kind: next(curves) for kind in CURVES}})
    return stage.publish([], {"protocol": "opendataval", "components": rows, "rows_processed": scores.rows})


def _values(parts: ScoredParts, names: Sequence[str]) -> dict[str, Array]:
    """Every component [n], high where an example is good."""
    tables = [parts.scores_of(index, names) for index in range(len(parts))]
    found = {name: np.concatenate([column_of(table, name) for table in tables]).astype(np.float64) for name in names}
    return {name: values if name in LOW_IS_SUSPICIOUS else -values for name, values in found.items()}


def _flips(parts: ScoredParts) -> Array:
    return np.concatenate([parts.flipped(index) for index in range(len(parts))])


def _problem(parts: ScoredParts, corpus: Manifest) -> Problem:
    """The scored examples, standardised, with the test split in the place of the validation split."""
    tables = [parts.examples_of(index, [FEATURES, LABEL]) for index in range(len(parts))]
    x, y = features_and_labels(tables)
    held = [parts.run.read_table(part.file, [FEATURES, LABEL]) for part in corpus.sides["test"]]
    test_x, test_y = features_and_labels(held)
    x, test_x = standardised_alike(x, test_x, corpus.facts)
    return Problem(x, y, test_x, test_y, classes=len(corpus.facts["classes"]))


def _found(values: dict[str, Array], noisy: Array, name: str) -> dict[str, float]:
    """F1, AUROC and average precision, and the area under the discovery curve."""
    return {**detection(values[name], noisy).__dict__, "discovery": area(discovery_curve(values[name], noisy))}


def _curve(problem: Problem, values: dict[str, Array], name: str, kind: str) -> dict[str, Any]:
    """A curve of test accuracies, with its area."""
    from raydelt.models.classifier import one_thread
    from raydelt.valuation.data_oob import fitted

    one_thread()

    def accuracy(rows: Array) -> float:
        return float((fitted(problem, rows).predict(problem.val_x) == problem.val_y).mean())

    shares, heights = CURVES[kind](values[name], accuracy)
    return {"shares": shares.tolist(), "accuracy": heights.tolist(), "area": area((shares, heights))}
