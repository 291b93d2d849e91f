"""Training does not depend on the number of workers, and its baselines are comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydelt import pipeline
from raydelt.errors import InputError, SpecError
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")
CHEAP: dict[str, Any] = {
    "score": [{"kind": "tests.plugins:HashConfig"}],
    "rank": {"combine": {"weights": {"hash": 1.0}, "gate": None}},
}


def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    runs = [
        pipeline.execute(
            spec(
                source,
                tmp_path / str(workers),
                train={"workers": workers, "recipe": {"steps": 80, "batch_size": 15}, "seeds": [0, 1]},
                **CHEAP,
            )
        )
        for workers in (1, 2)
    ]
    one, two = (run.manifests["model"].facts["results"] for run in runs)
    assert [(r["arm"], r["seed"], r["rows"]) for r in one] == [(r["arm"], r["seed"], r["rows"]) for r in two]
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-3)
    for left, right in zip(one, two, strict=True):
        np.testing.assert_allclose(left["curve"], right["curve"], rtol=1e-3)


def test_arms_have_equal_steps_and_the_random_arm_has_the_size_of_the_selection(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    run = pipeline.execute(spec(source, tmp_path / "out", **CHEAP))
    facts = run.manifests["model"].facts
    rows = {(r["arm"], r["seed"]): r["rows"] for r in facts["results"]}
    kept, full = run.manifests["selection"].rows, run.manifests["corpus"].rows
    assert rows == {("selected", s): kept for s in (0, 1)} | {("random", s): kept for s in (0, 1)} | {
        ("full", s): full for s in (0, 1)
    }
    assert {len(values) for values in facts["values"].values()} == {2}


def test_the_ordered_set_is_the_selection_in_its_positions(tmp_path: Path) -> None:
    pipeline.execute(spec(write_digits(tmp_path / "in", rows=300), tmp_path / "out", **CHEAP), until="ordered")
    ordered = table(tmp_path / "out", "ordered")
    selection = table(tmp_path / "out", "selection").sort_by("position")
    corpus = {row["example_id"]: row for row in table(tmp_path / "out", "corpus").to_pylist()}
    assert ordered["position"].to_pylist() == list(range(selection.num_rows))
    assert ordered["example_id"].to_pylist() == selection["example_id"].to_pylist()
    for row in ordered.to_pylist():
        assert (row["x"], row["label"]) == (corpus[row["example_id"]]["x"], corpus[row["example_id"]]["label"])


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ({"workers": 30}, SpecError, "train.workers asks for 30 CPU but the cluster has 2"),
        ({"recipe": {"batch_size": 5000}}, SpecError, "train.recipe.batch_size 5000 is more than the"),
        (
            {"recipe": {"lr": 1e38, "optimizer": "sgd", "steps": 50}, "seeds": [0]},
            InputError,
            "by step 2: lower",
        ),
    ],
)
def test_a_training_that_cannot_work_is_told_in_one_sentence(
    tmp_path: Path, train: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = spec(write_digits(tmp_path / "in", rows=300), tmp_path / "out", train=train, **CHEAP)
    with pytest.raises(error, match=message):
        pipeline.execute(config)
