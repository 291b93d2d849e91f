"""raydelt's scores as data evaluators of OpenDataVal, so that its own benchmark code measures them.

    from raydelt.valuation.opendataval import evaluator
    mediator.compute_data_values([evaluator("lossval"), evaluator("difficulty", {"kind": "difficulty"})])

A valuation is computed in this process. Any other component comes out of the flow: training and validation rows are
written to a folder for the time being, and the stages up to the scores run there on Ray. High values are good, so
components whose high end is suspicious are turned. Categorical labels are one-hot there and classes here.

Cost: that of the scorer, and for the flow some seconds to start Ray unless it runs. OpenDataVal is imported by the
first call and not required otherwise (`pip install opendataval`). Source: Jiang et al. 2023.

Caution: OpenDataVal swallows exceptions unless `raise_error=True`, and its own table then lacks a row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydelt.corpus.canonical import fixed_lists
from raydelt.errors import SpecError
from raydelt.scorers.protocol import Array
from raydelt.scorers.registry import parse_scorer
from raydelt.valuation.methods import Valuation
from raydelt.valuation.problem import Problem, Values

SEEDS = 2**31


def evaluator(component: str, scorer: Mapping[str, Any] | None = None, **spec: Any) -> Any:
    """A data evaluator that gives this component; `scorer` and `spec` are sections of a run's spec.

    Without `scorer` the component is that of the scorer of the same name.

    Raises:
        SpecError: OpenDataVal is not installed, or no such scorer gives the component.
    """
    config = parse_scorer(dict(scorer or {"kind": component}))
    if component not in config.build().columns:
        given = ", ".join(config.build().columns)
        raise SpecError(
            f"scorer {config.kind!r} gives {given}, and not the component {component!r}: choose one of them"
        )
    return _class()(component, config, spec)


def _class() -> Any:
    """The subclass of OpenDataVal's evaluator, which registers itself there by its name."""
    try:
        from opendataval.dataval import DataEvaluator
    except ImportError as error:
        raise SpecError(f"OpenDataVal cannot be imported ({error}): install opendataval") from error
    known = DataEvaluator.Evaluators.get("raydeltevaluator")
    if known is not None:
        return known

    class RaydeltEvaluator(DataEvaluator):  # type: ignore[misc]
        """One component of raydelt."""

        def __init__(self, component: str, scorer: Any, spec: Mapping[str, Any], random_state: Any = None) -> None:
            super().__init__(random_state)
            self.component, self.scorer, self.spec = component, scorer, spec

        def train_data_values(self, *args: Any, **kwargs: Any) -> RaydeltEvaluator:
            seed = int(self.random_state.randint(SEEDS - 1))
            problem = problem_of(self.x_train, self.y_train, self.x_valid, self.y_valid)
            self.found = value(problem, self.component, self.scorer, self.spec, seed=seed)
            return self

        def evaluate_data_values(self) -> Array:
            return self.found

    return RaydeltEvaluator


def problem_of(x: Any, y: Any, val_x: Any, val_y: Any) -> Problem:
    """OpenDataVal's tensors, or data sets of them, as a problem."""
    sides = [(_matrix(own), np.asarray(labels, np.float64)) for own, labels in ((x, y), (val_x, val_y))]
    (x, y), (val_x, val_y) = sides
    if y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0.0, 1.0)).all():
        return Problem(x, y.argmax(axis=1), val_x, val_y.argmax(axis=1), classes=y.shape[1])
    return Problem(x, y, val_x, val_y)


def _matrix(x: Any) -> Array:
    rows = x if hasattr(x, "shape") else np.stack([np.asarray(x[i]) for i in range(len(x))])
    found: Array = np.asarray(rows, np.float32).reshape(len(rows), -1)
    return found


def value(problem: Problem, component: str, scorer: Any, spec: Mapping[str, Any], *, seed: int) -> Array:
    """Values [n] of a problem by one component, higher is better."""
    if isinstance(scorer, Valuation):
        total = sum(scorer.piece(problem, i, seed=seed) for i in range(scorer.pieces(len(problem.val_x))))
        own: Values = scorer.finish(np.asarray(total), len(problem.val_x))
        return own.values
    if problem.classes is None:
        raise SpecError(f"{component} needs classes, and the labels are numbers: take a valuation such as lossval")
    return _through_the_flow(problem, component, scorer, spec, seed=seed)


def _through_the_flow(problem: Problem, component: str, scorer: Any, spec: Mapping[str, Any], *, seed: int) -> Array:
    from raydelt import pipeline
    from raydelt.report.detection import LOW_IS_SUSPICIOUS
    from raydelt.specfile import validate

    with tempfile.TemporaryDirectory() as folder:
        for name, x, y in (("train", problem.x, problem.y), ("validation", problem.val_x, problem.val_y)):
            rows = {"key": [f"{name}-{i}" for i in range(len(x))], "x": fixed_lists(np.asarray(x, np.float32))}
            pq.write_table(pa.table(rows | {"label": np.asarray(y, np.int64)}), Path(folder) / f"{name}.parquet")
        corpus = {
            "source": f"{folder}/train.parquet",
            "validation": {"source": f"{folder}/validation.parquet"},
            "test": {"fraction": 0},
            "id_column": "key",
            "feature_columns": ["x"],
            "label_column": "label",
        }
        rank = {"combine": {"weights": {component: 1.0}, "gate": None}}
        raw = {"name": "opendataval", "seed": seed, "corpus": corpus, "rank": rank, "output": f"{folder}/run"}
        config = validate(raw | dict(spec) | {"score": [scorer.model_dump(mode="json")]})
        run = pipeline.execute(config, until="scores")
        parts = [run.store.read_table(part.file, ["example_id", component]) for part in run.manifests["scores"].parts]
    table = pa.concat_tables(parts)
    found = np.full(len(problem.x), np.nan)
    found[[int(key.removeprefix("train-")) for key in table["example_id"].to_pylist()]] = table[component].to_numpy()
    return found if component in LOW_IS_SUSPICIOUS else -found
