"""What `why` says of an example is what the run's tables say, found without reading them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import rankdata

from raydelt.ask import files, near, sample
from raydelt.ask.run import Run
from raydelt.ask.steps import ROWS_PER_FILE, places_of
from raydelt.errors import InputError
from raydelt.monitor import history
from raydelt.order import stage
from raydelt.select import resting
from raydelt.storage import Stage
from raydelt.train.plan import Plan
from tests.asked import CLASSES, STEPS, Asked, Made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Asked(ranges=8).make(tmp_path_factory.mktemp("asked") / "run")


def assert_true(made: Made, run: Run, row: int) -> None:
    """What `why` says of a row of the ranking, against the tables."""
    ranked = made.ranking.slice(row, 1).to_pylist()[0]
    found = run.why(ranked["example_id"])
    kept = {one["example_id"]: one for one in made.selection.to_pylist()}.get(ranked["example_id"])
    assert found["state"] == ("kept" if kept else "left")
    for name in ("score", "score_se", "rank", "percentile", "gate"):
        assert found["combined"][name] == ranked[name]
    assert (found["order"]["position"] if kept else None) == (kept["position"] if kept else None)
    [at] = np.flatnonzero(np.array(made.scores["example_id"].to_pylist()) == ranked["example_id"])
    [own] = np.flatnonzero(np.array(made.corpus["example_id"].to_pylist()) == ranked["example_id"])
    for component in found["components"]:
        values = made.scores[component["name"]].to_numpy()
        assert component["value"] == values[at]
        if found["percentiles"]["exact"]:
            assert component["percentile"] == pytest.approx(100 * (rankdata(values)[at] - 0.5) / len(values))
    assert found["example"]["label"] == CLASSES[made.corpus["label"][int(own)].as_py()]
    assert found["example"]["row"] == made.corpus["row"][int(own)].as_py()


@pytest.mark.parametrize("weights", [{"difficulty": 1.0}, {"difficulty": 0.7, "diversity": 0.3}])
def test_it_says_what_the_tables_say(weights: dict[str, float], tmp_path: Path) -> None:
    made = Asked(weights=weights).make(tmp_path / "run")
    run = Run.open(made.store.root)
    for row in np.random.default_rng(3).choice(made.ranking.num_rows, 25, replace=False):
        assert_true(made, run, int(row))


def test_a_sample_of_the_scores_and_an_old_run_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Asked(partitions=False).make(tmp_path / "run")
    monkeypatch.setattr(sample.sample_of, "__kwdefaults__", {"rows": 300})
    run = Run.open(made.store.root)
    assert not run.why(made.ranking["example_id"][0].as_py())["percentiles"]["exact"]
    for row in (0, 1, 400, 700, 1348):
        assert_true(made, run, row)


def test_who_rests_is_told_so(tmp_path: Path) -> None:
    made = Asked().make(tmp_path / "run")
    low, spared = (made.ranking["example_id"][row].as_py() for row in (7, 8))
    rows = [[low, spared], ["cat", "cat"], [3, 3], ["still low, and drawn", "spared"], [0.0, 2.0]]
    stage = Stage(made.store, resting.STAGE, "r" * 32)
    part = made.store.write_table(stage.file("part", 0), pa.table(rows, schema=resting.RESTING))
    stage.publish([part], {"retired": 1, "released": 0})
    run = Run.open(made.store.root)
    told = run.why(low)["rule"]
    assert told["rule"] == "retired"
    assert "still low, and drawn, since version 3" in told["text"]
    assert run.why(spared)["rule"]["rule"] != "retired"


def test_the_ranking_is_not_scanned(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = files.of_groups

    def counted(*arguments: object, **named: object) -> pa.Table:
        looked.append(arguments[1].file)  # type: ignore[attr-defined]
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "of_groups", counted)
    for row in (5, 600, 1340):
        looked.clear()
        Run.open(made.store.root).why(made.ranking["example_id"][row].as_py())
        # The file in which the gate changes overlaps all others in score.
        assert len({file for file in looked if file.startswith("ranking/")}) <= 2
        assert len({file for file in looked if file.startswith("selection/")}) == 1


def test_steps_are_the_plan_backwards() -> None:
    assert ROWS_PER_FILE == stage.ROWS_PER_FILE
    rows, size, batch, total = 103, 20, 8, 500
    for shuffled in (True, False):
        plan = Plan("o", rows, size, batch, 4, shuffled)
        fed = plan.positions(0, total)
        for position in range(rows):
            found = places_of(position, rows, total, 4, shuffled=shuffled, rows_per_file=size)
            assert found == np.flatnonzero(fed == position).tolist()


def test_each_training_says_which_steps_saw_it(made: Made) -> None:
    first = made.selection.sort_by("position")["example_id"][0].as_py()
    found = Run.open(made.store.root).why(first)["order"]["trainings"]
    assert [one["seed"] for one in found] == [0, 1]
    for one in found:
        plan = Plan("o", made.selection.num_rows, ROWS_PER_FILE, 32, one["seed"], True)
        fed = plan.positions(0, 32 * STEPS)
        assert one["steps"] == (np.flatnonzero(fed == 0) // 32).tolist()


def test_the_rule_and_the_distance_to_the_cut(made: Made) -> None:
    run, ranking = Run.open(made.store.root), made.ranking.to_pylist()
    below = run.why(ranking[0]["example_id"])["rule"]
    assert (below["rule"], below["cut"], below["kept"]) == ("gate", None, False)
    lowest = made.selection["rank"][0].as_py()
    at = run.why(ranking[lowest]["example_id"])["rule"]
    assert (at["rule"], at["kept"], at["distance"], at["within_noise"]) == ("cut", True, 0.0, True)
    assert at["reason"] == made.selection["reason"][0].as_py()
    under = run.why(ranking[lowest - 1]["example_id"])["rule"]
    assert under["distance"] == ranking[lowest - 1]["score"] - ranking[lowest]["score"]
    assert under["kept"] is False


def test_with_quotas_the_cut_is_that_of_the_class(tmp_path: Path) -> None:
    made = Asked(balanced=True, gate=False).make(tmp_path / "run")
    run = Run.open(made.store.root)
    kept = made.ranking.filter(pa.array([one in made.kept for one in made.ranking["example_id"].to_pylist()]))
    for row in (3, 700, 1300):
        ranked = made.ranking.slice(row, 1).to_pylist()[0]
        own = [one["score"] for one in kept.to_pylist() if one["label"] == ranked["label"]]
        rule = run.why(ranked["example_id"])["rule"]
        assert (rule["rule"], rule["cut"]) == ("quota", min(own))
        assert CLASSES[ranked["label"]] in rule["text"]


def test_examples_that_were_never_ranked_say_why(made: Made) -> None:
    run = Run.open(made.store.root)
    held = run.why(made.test["example_id"][7].as_py())
    assert (held["state"], held["split"], held["components"]) == ("held out", "test", None)
    bad = run.why(made.corpus["example_id"][3].as_py())
    assert bad["state"] == "quarantined"
    assert "not finite" in bad["quarantine"]["reason"]
    assert bad["example"]["row"] == made.corpus["row"][3].as_py()
    unread = run.why("digest-of-a-bad-row")
    assert unread["quarantine"] == {"source_file": "in/a.parquet", "row": 77, "reason": "no label"}
    assert unread.keys() >= held.keys() - {"split"}


def test_a_prefix_is_enough_where_it_fits_one_example(made: Made) -> None:
    run, ids = Run.open(made.store.root), made.ranking["example_id"].to_pylist()
    assert run.why(ids[50][:8])["id"] == ids[50]
    with pytest.raises(InputError, match="begins the ids of more than 5"):
        run.why(ids[50][:1])
    typo = ids[50][:-1] + "x"
    with pytest.raises(InputError, match=f"did you mean .*{ids[50]}"):
        run.why(typo)
    with pytest.raises(InputError, match="no example 'zzzz'"):
        run.why("zzzz")
    with pytest.raises(InputError, match="no example ''"):
        run.why("")


def test_neighbours_are_those_of_brute_force(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.stack(made.corpus["x"].to_pylist())
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    ids = made.corpus["example_id"].to_pylist()
    for row in (0, 41, 1200):
        cosine = unit @ unit[row]
        cosine[row] = -2
        nearest = np.argsort(-cosine)[:5]
        found = Run.open(made.store.root).why(ids[row])["neighbours"]
        assert found["by"] == "features"
        assert [one["id"] for one in found["near"]] == [ids[i] for i in nearest]
        np.testing.assert_allclose([one["cosine"] for one in found["near"]], cosine[nearest], rtol=1e-5)
    monkeypatch.setattr(near, "COMPARED", 100)
    assert "too many" in Run.open(made.store.root).why(ids[0])["neighbours"]["skipped"]


def test_history_says_what_every_version_said(tmp_path: Path) -> None:
    made = Asked(rows=400).make(tmp_path / "run")
    half = made.scores.num_rows // 2
    for number, rows in ((0, made.scores), (1, made.scores.slice(half))):
        tables = [rows.select(["example_id", "difficulty"]).slice(low, 60) for low in range(0, rows.num_rows, 60)]
        history.append(made.store, number, 100.0 + number, tables)
    run = Run.open(made.store.root)
    for row in (0, half - 1, half, made.scores.num_rows - 1):
        one = made.scores.slice(row, 1).to_pylist()[0]
        found = run.why(one["example_id"])["history"]
        assert [(own["version"], own["there"]) for own in found] == [(0, True), (1, row >= half)]
        assert found[0]["components"] == {"difficulty": one["difficulty"]}
