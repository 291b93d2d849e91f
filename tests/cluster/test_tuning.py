"""A search over real trainings: it scores once, resumes as if it had never stopped, and asks the test split once."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.storage import Store
from raydelt.tune import search
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")

TUNE: dict[str, Any] = {
    "trials": 3,
    "steps": 15,
    "seeds": 2,
    "weights": {"difficulty": [0.0, 1.0], "diversity": [0.0, 1.0]},
    "gate": [None, 0.5],
    "folds": "own",
    "ratio": {"low": 0.2, "high": 0.9},
    "layers": "own",
    "pruner": {"start_trials": 2},
}


def tuned(source: Path, output: Path, *, recipe: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    """A spec with a small search, `changes` replacing fields of `tune`."""
    return spec(
        source,
        output,
        corpus__validation={"fraction": 0.2},
        score=[{"kind": kind} for kind in ("difficulty", "consistency", "diversity")],
        train__recipe={"steps": 40, "batch_size": 16} | (recipe or {}),
        tune=TUNE | changes,
    )


def told(found: dict[str, Any], store: Store) -> list[dict[str, Any]]:
    """What the trials of a search came to, without the seconds that they took."""
    trials = store.at(f"{found['study']}/trials")
    return [{k: v for k, v in trials.read_json(name).items() if k != "seconds"} for name in trials.names()]


@pytest.fixture(scope="module")
def scored(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in `in`, and a run on it in `run` that stands up to its scores."""
    folder = tmp_path_factory.mktemp("tuning")
    pipeline.execute(tuned(write_digits(folder / "in", rows=400), folder / "run"), until="scores")
    return folder


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(scored / "run", tmp_path / "run")


def test_a_search_that_is_resumed_is_the_search_that_was_not(scored: Path, run: Path) -> None:
    config, store = tuned(scored / "in", run), Store(str(run))
    whole = search.tune(config)
    trials = told(whole, store)
    assert whole["trials"]["total"] == len({trial["point"]["ratio"] for trial in trials}) == 3
    own = {"weights.difficulty": 1.0, "weights.diversity": 0.0, "gate": 0.5, "ratio": 0.5}
    assert trials[0]["point"] == own
    # Of the trials nothing is left but what they came to.
    assert not [name for name in store.at("tune").names() if name.startswith("trial-")]

    # Without its last trial, as a kill would have left it, the search goes on to the same end, and scores nothing.
    for name in store.at(f"{whole['study']}/trials").names()[2:]:
        store.delete(f"{whole['study']}/trials/{name}")
    again = search.tune(config)
    assert told(again, store) == trials
    assert store.read_json("scores/manifest.json") == Store(str(scored / "run")).read_json("scores/manifest.json")
    assert (again["overrides"], again["verdict"]) == (whole["overrides"], whole["verdict"])
    assert len(store.at("tune/verdicts").names()) == (1 if whole["verdict"] else 0)
    assert yaml.safe_load(store.read_bytes("tune/best.yaml")) == whole["sections"]


@pytest.mark.slow
def test_folds_score_beside_the_run_and_what_cannot_be_trained_is_counted(
    scored: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, store = scored / "in", Store(str(run))
    search.tune(tuned(source, run, trials=1))
    stand = store.read_json("scores/manifest.json")
    changes = {"trials": 7, "at_once": 3, "folds": [2, 3], "ratio": [0.01, 0.4], "weights": "own", "gate": "own"}
    with caplog.at_level(logging.INFO, "raydelt"):
        found = search.tune(tuned(source, run, **changes))
    assert "tuning starts anew" in caplog.text
    assert store.read_json("scores/manifest.json") == stand
    assert store.exists("tune/folds-3/scores/manifest.json")
    trials = told(found, store)
    small = [trial for trial in trials if trial["point"]["ratio"] == 0.01]
    assert small
    assert {trial["state"] for trial in small} == {"failed"}
    assert all("is more than the 2 selected examples" in trial["reason"] for trial in small)
    assert found["trials"]["failed"] == len(small)
    assert len(found["failures"]) == 1
    # A point that comes again is not trained again, and has the same values.
    points = [str(trial["point"]) for trial in trials if trial["state"] == "complete"]
    assert len(set(points)) < len(points)
    by_point = {str(trial["point"]): trial["values"] for trial in trials}
    assert all(by_point[str(trial["point"])] == trial["values"] for trial in trials)


def test_a_training_that_diverges_is_told(scored: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"the spec itself cannot be trained as a trial: .*lower train\.recipe\.lr"):
        search.tune(tuned(scored / "in", run, recipe={"lr": 1e38, "optimizer": "sgd"}, trials=1))
