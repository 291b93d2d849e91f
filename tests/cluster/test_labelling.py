"""Rounds of labelling on a real pool: from nothing to a model, whatever the files of the pool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from raydelt import pipeline
from raydelt.active import queue, session, sheets
from raydelt.active.phases import Phase
from raydelt.active.pool import train_committee
from raydelt.cli.app import app
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.specfile import validate
from raydelt.storage import Manifest, Stage

pytestmark = pytest.mark.usefixtures("ray_session")

POOL = 500


def write_pool(folder: Path, *, rows: int = POOL, files: int = 1, shuffle: int | None = None) -> Path:
    """Digits without labels, under keys that tell their row, and a labelled test file beside them."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.arange(rows) if shuffle is None else np.random.default_rng(shuffle).permutation(rows)
    (folder / "pool").mkdir(parents=True)
    for index, own in enumerate(np.array_split(order, files)):
        table = pa.table({"key": [f"d{i}" for i in own], "pixels": pixels[own].astype(np.float32).tolist()})
        pq.write_table(table, folder / "pool" / f"{index}.parquet")
    test = np.arange(1000, 1300)
    held = {"key": [f"d{i}" for i in test], "pixels": pixels[test].astype(np.float32).tolist(), "label": labels[test]}
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
    sheets.export(batch.rows, str(file))
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


def least_sure(classifier: Any, x: Any, n_instances: int = 1) -> Any:
    """A query function in the manner of modAL."""
    rows = np.argsort(classifier.predict_proba(x).max(axis=1), kind="stable")[:n_instances]
    return rows, x[rows]


def test_a_small_pool_is_asked_for_as_a_whole_and_then_there_is_nothing_left(tmp_path: Path) -> None:
    spec = config(write_pool(tmp_path / "data", rows=40), tmp_path / "run", batch=300)
    first = asked(spec)
    assert (first.entry.asked, first.rows.num_rows) == (40, 40)
    file = tmp_path / "1.csv"
    sheets.export(first.rows.slice(0, 1), str(file))
    assert session.absorb(spec, str(file), annotator="one", abstain=True)["abstained"] == 1
    assert answer(spec, replace(first, rows=first.rows.slice(1)), tmp_path / "2.csv")["labelled"] == 39
    for phase in (None, Phase.ITERATE, Phase.COLD):
        done = asked(spec, phase=phase)
        assert done.rows.num_rows == done.entry.asked == 0
        assert done.entry.phase == ("converged" if phase is None else phase)
    assert "exhausted" in session.history(session.queue_of(spec))[1].reason
    answer(spec, first, tmp_path / "3.csv")
    assert asked(spec).rows.num_rows == 0, "no example of the pool is left at all"


def test_a_round_that_is_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = config(write_pool(tmp_path / "data", rows=100), tmp_path / "run", batch=12)

    def killed(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(queue.LabelQueue, "query", killed)
        with pytest.raises(KeyboardInterrupt):
            asked(spec)
    assert session.status_of(spec)["rounds"] == []
    first = asked(spec)
    assert (first.waited, first.entry.round, first.rows.num_rows) == (False, 0, 12)
    assert len(session.status_of(spec)["rounds"]) == 1


def test_two_rounds_at_once_ask_for_one_batch(tmp_path: Path) -> None:
    utility = f"{__name__}:least_sure"
    spec = config(write_pool(tmp_path / "data", rows=200), tmp_path / "run", batch=60, utility=utility)
    answer(spec, asked(spec), tmp_path / "1.csv")
    batches: list[session.Batch] = []

    def both(run: pipeline.Run) -> None:
        committee = train(run)
        other = session.Stages(spec, run.store, run.manifests["corpus"], lambda: committee)

        def meanwhile() -> Manifest:
            batches.append(session.next_batch(other))
            return committee

        batches.append(session.next_batch(replace(other, committee=meanwhile)))

    pipeline.execute(spec, until="corpus", then=both)
    assert [batch.waited for batch in batches] == [False, True]
    assert batches[0].rows.equals(batches[1].rows)
    assert [entry["asked"] for entry in session.status_of(spec)["rounds"]] == [60, 60]


def train(run: pipeline.Run) -> Manifest:
    """The committee of a round, without the round."""
    corpus, label = run.manifests["corpus"], run.config.label
    stage = Stage(run.store, "committee", "0" * 32)
    return train_committee(run.config.model, label.recipe, label.committee, corpus, stage, seed=run.config.seed)


def test_what_waits_but_left_the_pool_blocks_nothing(tmp_path: Path) -> None:
    spec = config(write_pool(tmp_path / "data", rows=30), tmp_path / "run", batch=10)
    gone = asked(spec).rows["example_id"].to_pylist()
    table = pq.read_table(tmp_path / "data" / "pool" / "0.parquet")
    kept = [key not in gone for key in table["key"].to_pylist()]
    pq.write_table(table.filter(pa.array(kept)), tmp_path / "data" / "pool" / "0.parquet")
    second = asked(spec)
    assert (second.waited, second.rows.num_rows) == (False, 10)
    assert not set(second.rows["example_id"].to_pylist()) & set(gone)


def test_commands_lose_no_labels_and_tell_what_is_wrong(tmp_path: Path) -> None:
    spec, sheet = config(write_pool(tmp_path / "data", rows=60), tmp_path / "run", batch=8), tmp_path / "batch.csv"
    file = tmp_path / "spec.json"
    file.write_text(spec.model_dump_json())
    told = call("next", file, "--out", str(sheet), "--json")
    assert json.loads(told.stdout)["examples"] == 8
    blank = call("absorb", file, str(sheet))
    assert isinstance(blank.exception, InputError)
    pd.read_csv(sheet, dtype=str).assign(label="3").to_csv(sheet, index=False, sep=";")
    over = call("next", file, "--out", str(sheet))
    assert isinstance(over.exception, InputError)
    assert "with labels in it" in str(over.exception)
    assert "8 labelled, 0 abstained" in call("absorb", file, str(sheet)).stdout
    pd.read_csv(sheet, sep=";", dtype=str).assign(label="4").to_csv(sheet, index=False)
    conflicts = call("absorb", file, str(sheet))
    assert (conflicts.exit_code, conflicts.stdout.count("conflicts with its label '3'")) == (2, 8)
    assert set(session.answers(spec).values()) == {"3"}
    assert "8 overwritten" in call("absorb", file, str(sheet), "--overwrite").stdout


def call(command: str, *args: object) -> Result:
    return CliRunner().invoke(app, ["label", command, *map(str, args)])


def test_labelling_without_a_pool_is_refused(tmp_path: Path) -> None:
    spec = validate({"name": "x", "corpus": {"source": "builtin://digits"}, "output": str(tmp_path / "x")})
    with pytest.raises(SpecError, match=r"set corpus\.pool"):
        session.status_of(spec)
