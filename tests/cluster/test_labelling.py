"""Rounds of labelling on a real pool: from nothing to a model, whatever the files of the pool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from raydelt import pipeline
from raydelt.active import queue, session
from raydelt.active.phases import Phase
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.specfile import validate

pytestmark = pytest.mark.usefixtures("ray_session")

POOL = 500


def write_pool(folder: Path, *, files: int = 1, shuffle: int | None = None) -> Path:
    """Digits without labels, under keys that tell their row, and a labelled test file beside them."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.arange(POOL) if shuffle is None else np.random.default_rng(shuffle).permutation(POOL)
    (folder / "pool").mkdir(parents=True)
    for index, own in enumerate(np.array_split(order, files)):
        table = pa.table({"key": [f"d{i}" for i in own], "pixels": pixels[own].astype(np.float32).tolist()})
        pq.write_table(table, folder / "pool" / f"{index}.parquet")
    rows = np.arange(1000, 1300)
    held = {"key": [f"d{i}" for i in rows], "pixels": pixels[rows].astype(np.float32).tolist(), "label": labels[rows]}
    pq.write_table(pa.table(held), folder / "held.parquet")
    return folder


def config(folder: Path, output: Path, **label: Any) -> RunConfig:
    return validate(
        {
            "name": "labelling",
            "corpus": {
                "source": [],
                "pool": str(folder / "pool"),
                "classes": list(range(10)),
                "id_column": "key",
                "feature_columns": ["pixels"],
                "label_column": "label",
                "test": {"fraction": 0},
                "validation": {"source": str(folder / "held.parquet")},
            },
            "model": {"network": "logistic"},
            "rank": {"folds": 2, "rounds": 1, "proxy": {"epochs": 3}},
            "label": {"batch": 60, "committee": 2, "recipe": {"epochs": 20}} | label,
            "output": str(output),
        }
    )


def asked(spec: RunConfig, *, phase: Phase | None = None) -> session.Batch:
    held: list[session.Batch] = []
    pipeline.execute(spec, until="corpus", then=lambda run: held.append(pipeline.ask(run, phase=phase)))
    return held[0]


def answer(spec: RunConfig, batch: session.Batch, file: Path) -> dict[str, Any]:
    """Label a batch truly, as a person would in the exported file."""
    truth = load_digits(return_X_y=True)[1]
    queue.export(batch.rows, str(file))
    table = pd.read_csv(file, dtype=str)
    table["label"] = [str(truth[int(key[1:])]) for key in table["example_id"]]
    table.to_csv(file, index=False)
    return session.absorb(spec, str(file), annotator="one", overwrite=False)


def test_labels_grow_from_nothing_and_feed_the_flow(tmp_path: Path) -> None:
    spec = config(write_pool(tmp_path / "data"), tmp_path / "run")
    with pytest.raises(InputError, match="raydelt label next"):
        pipeline.execute(spec, until="scores")
    first = asked(spec)
    assert (first.entry.phase, first.rows.num_rows) == ("cold", 60)
    again = asked(spec)
    assert again.waited
    assert set(again.rows["example_id"].to_pylist()) == set(first.rows["example_id"].to_pylist())
    assert answer(spec, first, tmp_path / "1.csv")["labelled"] == 60
    second = asked(spec)
    assert second.entry.phase == "iterate"
    assert second.entry.labels == 60
    assert second.entry.accuracy is not None
    assert second.entry.accuracy > 0.5
    assert not set(second.rows["example_id"].to_pylist()) & set(first.rows["example_id"].to_pylist())
    answer(spec, second, tmp_path / "2.csv")
    run = pipeline.execute(spec, until="selection")
    facts = run.manifests["corpus"].facts
    assert (facts["corpus"], facts["pool"], facts["validation"]) == (120, POOL - 120, 300)
    assert facts["read"] == POOL + 300
    told = session.status_of(spec)
    assert [entry["asked"] for entry in told["rounds"]] == [60, 60]
    assert told["queue"]["labelled"] == 120
    json.dumps(told)


def test_the_same_examples_are_asked_for_from_any_files(tmp_path: Path) -> None:
    batches = []
    for name, layout in {"one": {}, "three": {"files": 3, "shuffle": 1}}.items():
        spec = config(write_pool(tmp_path / name, **layout), tmp_path / f"run-{name}", diversify="badge")
        cold = asked(spec)
        answer(spec, cold, tmp_path / f"{name}.csv")
        batches.append([cold.rows["example_id"].to_pylist(), asked(spec).rows["example_id"].to_pylist()])
    assert batches[0] == batches[1]


def test_a_spent_budget_ends_it_and_a_phase_can_be_set_by_hand(tmp_path: Path) -> None:
    spec = config(write_pool(tmp_path / "data"), tmp_path / "run", stop={"budget": 75}, utility="bald")
    answer(spec, asked(spec), tmp_path / "1.csv")
    last = asked(spec)
    assert (last.entry.phase, last.rows.num_rows) == ("iterate", 15)
    answer(spec, last, tmp_path / "2.csv")
    done = asked(spec)
    assert (done.entry.phase, done.rows.num_rows) == ("converged", 0)
    assert "budget" in done.entry.reason
    still = asked(spec)
    assert still.entry.adversarial is not None
    assert still.entry.phase == "converged"
    more = asked(spec, phase=Phase.ITERATE)
    assert (more.entry.phase, more.rows.num_rows) == ("iterate", 1)


def test_wrong_answers_are_put_aside(tmp_path: Path) -> None:
    spec = config(write_pool(tmp_path / "data"), tmp_path / "run")
    batch = asked(spec)
    first, second = batch.rows["example_id"].to_pylist()[:2]
    file = tmp_path / "answers.csv"
    file.write_text(f"example_id,label\n{first},3\n{first},4\nnobody,1\n{second},eleven\n{second},\n")
    told = session.absorb(spec, str(file), annotator="one", overwrite=False)
    assert (told["labelled"], told["abstained"]) == (1, 1)
    reasons = [row["reason"] for row in told["quarantined"]]
    assert ["conflicts" in reasons[0], "never queried" in reasons[1], "no class" in reasons[2]] == [True] * 3
    assert session.absorb(spec, str(file), annotator="one", overwrite=False)["repeated"] == 2


def test_labelling_without_a_pool_is_refused(tmp_path: Path) -> None:
    spec = validate({"name": "x", "corpus": {"source": "builtin://digits"}, "output": str(tmp_path / "x")})
    with pytest.raises(SpecError, match=r"set corpus\.pool"):
        session.status_of(spec)
