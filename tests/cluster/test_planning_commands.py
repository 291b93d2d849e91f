"""Probes and plans of a real run: the same for any workers and after a kill, and a ratio for a later run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raydelt import pipeline, precheck
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.pipeline import Run
from raydelt.storage import Store, read_manifest
from tests.faults import kill_when, worker_called
from tests.flow import spec, table, write_digits
from tests.language import sentences, tiny_lm, write_documents

pytestmark = pytest.mark.usefixtures("ray_session")

BUDGETS = [24, 48, 96, 192]


def config(folder: Path, name: str, **changes: Any) -> RunConfig:
    """Two buckets of 95 digits, probed as ratios, at four budgets from a quarter of an epoch of the first to two."""
    probes = {"budgets": BUDGETS, "seeds": [0, 1], "workers": 1}
    return spec(
        folder / "in",
        folder / name,
        score=[{"kind": "difficulty"}, {"kind": "consistency"}],
        **{
            "rank": {"folds": 2, "rounds": 1, "proxy": {"epochs": 2}},
            "corpus__validation": {"fraction": 0.2},
            "train__recipe": {"batch_size": 8, "lr": 0.01, "steps": 40},
            "plan": {"budgets": [100, 400], "scoring": 0, "buckets": 2, "draws": 5, "probes": probes},
        }
        | changes,
    )


@pytest.fixture(scope="module")
def planned(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A plan that is made with one worker, undisturbed."""
    folder = tmp_path_factory.mktemp("planned")
    write_digits(folder / "in", rows=300)
    return folder, pipeline.execute(config(folder, "out"), until="ranking", then=pipeline.plan)


def points(run: Run) -> pd.DataFrame:
    return run.store.read_table(run.manifests["probes"].parts[0].file).to_pandas()


def document(run: Run) -> dict[str, Any]:
    return dict(run.store.read_json(run.manifests["plan"].parts[0].file))


def test_every_ratio_is_probed_at_every_budget_and_seed_on_examples_of_its_own(planned: tuple[Path, Run]) -> None:
    folder, run = planned
    found, ranking = points(run), table(folder / "out", "ranking").to_pandas()
    assert len(found) == 2 * len(BUDGETS) * 2
    cells = found.groupby(["bucket", "seen"], sort=False)["seed"].agg(list)
    assert [(name, seen) for name, seen in cells.index] == [(b, s) for b in ("top 50 %", "top 100 %") for s in BUDGETS]
    assert all(seeds == [0, 1] for seeds in cells)
    assert (found["unit"] == "examples").all()
    assert (found["flops"] > 0).all()
    assert (found["pool"] == "ratio").all()
    buckets = run.manifests["buckets"]
    for k, unique in enumerate(found["unique"].unique()):
        own = pd.concat([run.store.read_table(p.file).to_pandas() for p in buckets.sides[f"bucket-{k}"]])
        assert unique == len(own)
        top = ranking.sort_values("rank").tail(len(own))
        assert set(own["example_id"]) == set(top["example_id"])
    assert unique == len(ranking)


def test_what_a_plan_says_is_published_and_not_made_twice(planned: tuple[Path, Run]) -> None:
    folder, run = planned
    told = document(run)
    assert [one["budget"] for one in told["advice"]] == [100, 400]
    assert sum(told["rows"]) == run.manifests["ranking"].rows
    assert [bucket["size"] for bucket in told["buckets"]] == list(np.cumsum(told["rows"]))
    assert [bucket["name"] for bucket in told["buckets"]] == ["top 50 %", "top 100 %"]
    sides = run.manifests["plan"].sides
    assert run.store.read_bytes(sides["chart"][0].file).startswith(b"<?xml")
    assert run.store.read_bytes(sides["chart"][1].file).startswith(b"\x89PNG")
    again = pipeline.execute(config(folder, "out"), until="ranking", then=pipeline.plan)
    assert not any(again.fresh.values())
    more = config(folder, "out").model_copy(update={"plan": run.config.plan.model_copy(update={"budgets": [200]})})
    third = pipeline.execute(more, until="ranking", then=pipeline.plan)
    assert [name for name, fresh in third.fresh.items() if fresh] == ["plan"]
    pipeline.execute(config(folder, "out"), until="ranking", then=pipeline.plan)


@pytest.mark.slow
def test_probes_are_the_same_on_two_workers_one_of_which_is_killed(planned: tuple[Path, Run], tmp_path: Path) -> None:
    folder, undisturbed = planned
    own = config(folder, "killed")
    probes = own.plan.probes.model_copy(update={"workers": 2})
    own = own.model_copy(update={"plan": own.plan.model_copy(update={"probes": probes})})
    place, done = Path(own.output) / "probes", {}

    def after_some() -> int | None:
        finished = list(place.glob("done-*.json")) if place.exists() else []
        if len(finished) < 3:
            return None
        done.update({file.name: json.loads(file.read_text())["seconds"] for file in finished})
        return worker_called("RayTrainWorker")

    killed: list[int] = []
    watch = kill_when(after_some, killed)
    run = pipeline.execute(own, until="ranking", then=pipeline.probe)
    watch.join(timeout=5)
    assert killed, "no worker was killed: the test proved nothing"
    found, expected = points(run), points(undisturbed)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))
    # What was done before the kill was not done again.
    assert set(done.values()) <= set(found["seconds"])
    assert not list(place.glob("done-*"))


def test_a_later_run_takes_its_ratio_from_the_plan(
    planned: tuple[Path, Run], caplog: pytest.LogCaptureFixture
) -> None:
    folder, run = planned
    told = document(run)
    for budget, advice in zip((100, 400), told["advice"], strict=True):
        chosen = config(folder, "later", select={"plan": str(folder / "out"), "budget": budget})
        with caplog.at_level(logging.INFO, logger="raydelt"):
            later = pipeline.execute(chosen, until="selection")
        best = sum(told["rows"][: advice["recommended"]])
        kept = best if advice["pays"] else sum(told["rows"])
        assert later.manifests["selection"].rows == kept
        assert later.manifests["selection"].facts["plan"]["verdict"] == advice["verdict"]
        assert advice["verdict"] in caplog.text
    file = str(Path(run.store.root) / run.manifests["plan"].parts[0].file)
    by_file = pipeline.execute(config(folder, "later", select={"plan": file, "budget": 400}), until="selection")
    # The same plan by another path is the same selection.
    assert not any(by_file.fresh.values())


def test_a_plan_of_another_ranking_or_corpus_is_refused(planned: tuple[Path, Run]) -> None:
    folder, _ = planned
    select = {"plan": str(folder / "out"), "budget": 400}
    for name, change in {
        "rank": {"rank": {"folds": 2, "rounds": 1, "proxy": {"epochs": 2}, "combine": {"gate": None}}},
        "corpus": {"corpus__noise": None},
    }.items():
        with pytest.raises(InputError, match=rf"select\.plan .* was made with another `{name}`"):
            pipeline.execute(config(folder, f"other-{name}", select=select, **change), until="selection")
    several = config(folder, "later", select={"plan": str(folder / "out")})
    with pytest.raises(SpecError, match=r"has 2 budgets: set select\.budget to one of 100, 400"):
        pipeline.execute(several, until="selection")


def test_a_table_takes_the_place_of_the_probes(planned: tuple[Path, Run], tmp_path: Path) -> None:
    folder, run = planned
    points(run).drop(columns=["seconds", "flops"]).to_csv(tmp_path / "points.csv")
    own = config(folder, "by-table", plan={"budgets": [400], "points": str(tmp_path / "points.csv"), "draws": 5})
    made = pipeline.execute(own, until="ranking", then=pipeline.plan)
    assert "probes" not in made.manifests
    told, first = document(made), document(run)
    assert told["rows"] == first["rows"]
    assert told["pivot"] == pytest.approx(first["pivot"])
    assert "scoring_unknown" in [caution["code"] for caution in told["cautions"]]


def test_a_probe_that_diverges_is_told_in_one_sentence(planned: tuple[Path, Run]) -> None:
    folder, _ = planned
    recipe = {"batch_size": 8, "lr": 1e38, "optimizer": "sgd", "steps": 40}
    own = config(folder, "diverged", train__recipe=recipe)
    with pytest.raises(InputError, match=r"the probe top 50 % \(seed 0, 3 steps\).*lower train\.recipe\.lr"):
        pipeline.execute(own, until="ranking", then=pipeline.probe)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corpus__validation": {"fraction": 0}}, r"probes are measured on the validation split"),
        ({"plan": {}}, r"plan\.budgets is empty: give at least one, in examples"),
        ({"rank__extent": "kept"}, r"rank\.extent kept looks at one"),
        ({"select": {"quotas": {"share": "balanced"}}}, r"set select\.quotas\.share to proportional"),
    ],
)
def test_what_no_plan_can_be_made_of_is_refused_before_anything_is_read(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        precheck.check_planning(config(tmp_path, "none", **change))
    assert read_manifest(Store(str(tmp_path / "none")), "corpus") is None


@pytest.mark.slow
def test_a_language_model_is_probed_and_planned_in_tokens(tmp_path: Path) -> None:
    """Documents have from 3 to 40 words: buckets differ in tokens, and shares are of examples."""
    source = write_documents(tmp_path / "in" / "documents.jsonl", sentences(150))
    recipe = {"batch_size": 4, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine"}
    probes = {"budgets": [12, 24, 48, 128], "seeds": [0, 1], "mixtures": False}
    own = spec(
        source,
        tmp_path / "out",
        corpus={"source": source, "text_column": "text", "validation": {"fraction": 0.2}, "test": {"fraction": 0.1}},
        model={"kind": "causal_lm", "path": tiny_lm(tmp_path / "lm"), "context": 32},
        score=[{"kind": "lm_loss"}],
        rank={"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}},
        train={"recipe": recipe},
        plan={"budgets": [3000], "buckets": 2, "draws": 5, "probes": probes},
    )
    run = pipeline.execute(own, until="ranking", then=pipeline.plan)
    found, told = points(run), document(run)
    assert "error" not in found
    assert (found["unit"] == "tokens").all()
    assert (found["pool"] == "bucket").all()
    lengths = {}
    for index, name in enumerate(found["bucket"].unique()):
        tables = [run.store.read_table(part.file) for part in run.manifests["buckets"].sides[f"bucket-{index}"]]
        lengths[name] = [len(ids) for own in tables for ids in own["tokens"].to_pylist()]
    for row in found.itertuples():
        # A whole epoch sees every document once, whatever its order.
        assert row.unique == sum(lengths[row.bucket])
        assert min(lengths[row.bucket]) * 12 <= row.seen <= max(lengths[row.bucket]) * 128
    assert told["rows"] == [len(own) for own in lengths.values()]
    assert [bucket["size"] for bucket in told["buckets"]] == [sum(own) for own in lengths.values()]
    assert (told["budget_unit"], told["seen_unit"], told["price"]["per_seen"]) == ("tokens", "tokens", None)
    in_examples = own.plan.model_copy(update={"unit": "examples", "budgets": [100.0], "scoring": 0.0})
    other = pipeline.execute(own.model_copy(update={"plan": in_examples}), until="ranking", then=pipeline.plan)
    assert [name for name, fresh in other.fresh.items() if fresh] == ["plan"]
    every = [length for own in lengths.values() for length in own]
    seen = document(other)["advice"][0]["choices"][0]["seen"]
    assert seen == pytest.approx(100 * sum(every) / len(every))
