"""Valuations in the flow: what the functions say of the same examples, whatever the files, and the protocol on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import LABEL, column_of, features_of
from raydelt.models.moments import Moments
from raydelt.pipeline import Run
from raydelt.valuation.data_oob import data_oob
from raydelt.valuation.knn_shapley import knn_shapley
from raydelt.valuation.lava import lava
from raydelt.valuation.problem import Problem
from raydelt.valuation.self_confidence import self_confidence
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")

KINDS = [
    {"kind": "knn_shapley", "k": 5},
    {"kind": "data_oob", "bags": 40},
    {"kind": "self_confidence"},
    {"kind": "lava"},
    {"kind": "random_values"},
]


def valued(source: Path, output: Path, **changes: Any) -> RunConfig:
    held = {"validation": {"fraction": 0.2}, "test": {"fraction": 0.2}}
    corpus = {
        "source": str(source),
        "feature_columns": ["pixels"],
        "label_column": "label",
        "noise": {"fraction": 0.1},
    }
    combine = {"weights": {"knn_shapley": 1.0}, "gate": None}
    return spec(source, output, corpus=corpus | held | changes, score=KINDS, rank={"combine": combine})


def rows(run: Run, stage: str, kind: str | None = None) -> pa.Table:
    manifest = run.manifests[stage]
    parts = manifest.parts if kind is None else manifest.sides[kind]
    return pa.concat_tables([run.store.read_table(part.file) for part in parts]).combine_chunks()


def test_values_are_those_of_the_functions_on_the_same_examples(tmp_path: Path) -> None:
    run = pipeline.execute(valued(write_digits(tmp_path / "digits"), tmp_path / "run"), until="scores")
    corpus, held, scores = rows(run, "corpus"), rows(run, "corpus", "validation"), rows(run, "scores")
    mean, spread = Moments.of(features_of(corpus)).standardisation((64,))
    x, v = (((features_of(table) - mean) / spread).astype(np.float32) for table in (corpus, held))
    y, u = (column_of(table, LABEL).astype(np.int64) for table in (corpus, held))
    problem = Problem(x, y, v, u, classes=10)
    expected = {
        "knn_shapley": knn_shapley(problem, seed=5, k=5),
        "data_oob": data_oob(problem, seed=5, bags=40),
        "self_confidence": self_confidence(problem, seed=5),
        "lava": lava(problem, seed=5),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(column_of(scores, name), values.values, rtol=1e-5, atol=1e-6)
    assert expected["data_oob"].errors is not None
    np.testing.assert_allclose(column_of(scores, "data_oob_se"), expected["data_oob"].errors, rtol=1e-5, atol=1e-6)


def test_values_and_protocol_do_not_depend_on_the_files(tmp_path: Path) -> None:
    facts = []
    for name, layout in {"one": {}, "three": {"files": 3, "shuffle": 2}}.items():
        config = valued(write_digits(tmp_path / name, **layout), tmp_path / f"run-{name}")
        run = pipeline.execute(config, until="scores", then=pipeline.measure_values)
        facts.append(
            (rows(run, "scores").drop_columns("model_version"), run.manifests["protocol"].facts["components"])
        )
    assert facts[0][0].equals(facts[1][0])
    assert facts[0][1] == facts[1][1]
    found = {own["component"]: own for own in facts[0][1]}
    for name in ("knn_shapley", "data_oob", "self_confidence"):
        assert found[name]["auroc"] > 0.85 > found["random_values"]["auroc"]
        assert found[name]["curves"]["remove_low"]["area"] > found[name]["curves"]["remove_high"]["area"]
    again = pipeline.execute(config, until="scores", then=pipeline.measure_values)
    assert not any(again.fresh.values())


def test_a_valuation_without_a_validation_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="knn_shapley needs a target set"):
        pipeline.execute(
            valued(write_digits(tmp_path / "digits"), tmp_path / "run", validation={"fraction": 0.0}), until="scores"
        )


def test_validation_classes_that_the_corpus_lacks_are_refused(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", rows=200)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"pixels": [[float(i)] * 64 for i in range(40)], "label": ["zebra", "1"] * 20}), other)
    held: dict[str, Any] = {"validation": {"source": str(other)}, "noise": None}
    with pytest.raises(InputError, match=r"20 examples of corpus\.validation .*'zebra'"):
        pipeline.execute(valued(source, tmp_path / "run", **held), until="scores")


def test_validation_features_of_another_width_are_refused(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", rows=200)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"pixels": [[0.0] * 9] * 30, "label": [0, 1] * 15}), other)
    with pytest.raises(InputError, match="leaves no example that can be used"):
        pipeline.execute(
            valued(source, tmp_path / "run", validation={"source": str(other)}, error_budget=0.5), until="scores"
        )
