"""A run watched over its versions: what is found, what is remembered, and what a user reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from raydelt.cli import monitor as _registered  # noqa: F401
from raydelt.cli.app import app
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import corpus_schema, draw_keys
from raydelt.monitor import ledger, scene, sources, told, watch
from raydelt.monitor.history import append
from raydelt.monitor.retirement import states_of, weights
from raydelt.monitor.triggers import DAY, Scope
from raydelt.rundir import config_of
from raydelt.storage import Part, Stage, Store
from tests.flow import spec

N = 400


class Run:
    """A run directory with a corpus of two classes, and versions of scores as a rescore would publish them."""

    def __init__(self, folder: Path, **monitor: Any) -> None:
        self.store = Store(str(folder))
        self.config: RunConfig = spec(folder / "in.parquet", folder, monitor=monitor)
        self.store.write_json("spec.json", self.config.resolved())
        self.parts: list[Part] = []

    def ids(self, n: int) -> list[str]:
        return [f"{i:032x}" for i in range(n)]

    def corpus(self, n: int, *, moved: float = 0.0) -> None:
        """n examples; those from N on have features moved by so much."""
        rng, ids = np.random.default_rng(0), self.ids(n)
        x = rng.normal(size=(n, 4)) + moved * (np.arange(n) >= N)[:, None]
        columns = [
            pa.array(ids), pa.array(draw_keys(ids)), pa.array(draw_keys(ids)),
            pa.FixedSizeListArray.from_arrays(pa.array(x.ravel(), pa.float32()), 4),
            pa.array(np.arange(n) % 2, pa.int32()), pa.array(np.arange(n) % 2, pa.int32()),
            pa.array(["f"] * n), pa.array(np.arange(n)),
        ]  # fmt: skip
        table = pa.table(columns, schema=corpus_schema(4))
        halves = [table[: n // 2], table[n // 2 :]]
        parts = [self.store.write_table(f"corpus/part-{i}.parquet", own) for i, own in enumerate(halves)]
        Stage(self.store, "corpus", "c" * 32).publish(parts, {"classes": ["cat", "dog"], "width": 4})

    def scores(self, n: int) -> None:
        """Current scores of all but the last of n examples, part by part as the corpus lies; every fourth is wrong."""
        for index, ids in enumerate((self.ids(n)[: n // 2], self.ids(n)[n // 2 : -1])):
            places = np.array([int(own, 16) for own in ids])
            margin = np.where(places % 4 == 0, -0.5, 0.5).astype(np.float32)
            loss = np.random.default_rng(index).lognormal(size=len(ids)).astype(np.float32)
            table = pa.table({"example_id": ids, "margin": margin, "loss": loss, "loss_se": loss})
            self.parts.append(self.store.write_table(f"scores/part-{index}.parquet", table))
        facts = {"columns": {"difficulty": ["margin", "loss"]}, "quarantined": 1}
        Stage(self.store, "scores", "s" * 32).publish(self.parts, facts)

    def version(self, number: int, n: int = N, *, error: float = 0.2, late: float = 0.0, **more: Any) -> None:
        """Losses, of which the first tenth are low and halve at every version; `late` is added from N on."""
        first, new = np.arange(n) < N // 10, np.arange(n) >= N
        loss = np.random.default_rng(7).lognormal(0, 0.2, n) * np.where(first, 0.1 * 0.5**number, 1.0) + late * new
        wrong = np.random.default_rng(100 + number).random(n) < error
        columns = {"example_id": self.ids(n), "loss": loss, "label": np.arange(n) % 2, "error": wrong} | more
        table = pa.table(columns)
        append(self.store, number, number * DAY, [table[: n // 3], table[n // 3 :]])

    def watch(self, now: float = 10.0, *, keep: bool = True, **more: Any) -> watch.Watched:
        found = watch.watch(self.store, config_of(self.store), now=now * DAY, **more)
        if keep:
            found.keep()
        return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_one_version_says_what_it_can(run: Run) -> None:
    run.version(1)
    found = run.watch()
    assert (found.versions, found.rows, found.comparisons, found.decision.scope) == (1, N, [], Scope.NOTHING)
    assert any("one version" in note for note in found.notes)
    assert "decay: no example has 3 versions yet" in told.lines(found)


def test_the_current_scores_of_a_run_are_a_version_and_become_one_of_its_history(run: Run) -> None:
    run.corpus(N)
    run.scores(N)
    now = run.watch(keep=False)
    assert (now.version, now.rows, now.utility, now.comparisons) == (0, N - 1, "loss", [])
    assert any("no history" in note for note in now.notes)
    [same] = run.watch(keep=False, against=run.store.root).comparisons
    assert {test.channel for test in same.tests} == {"feature", "label", "score", "error"}
    assert {test.p_value for test in same.tests if test.statistic != "MMD2"} == {1.0}
    own = sources.of_run(run.store)
    append(run.store, 1, DAY, own.read(own.components))
    found = run.watch()
    assert found.rows == N - 1
    assert found.decision.scope is Scope.NOTHING, "what is in quarantine is not new"
    assert ledger.observations(run.store)[0].error == pytest.approx(0.25, abs=0.005)
    table = pa.concat_tables(found.examples())
    names = dict(zip(table["example_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert names == {own: ("cat", "dog")[int(own, 16) % 2] for own in run.ids(N)[:-1]}


def test_decaying_examples_are_told_from_the_others(run: Run) -> None:
    for number in range(1, 6):
        run.version(number)
    found = run.watch(keep=False)
    assert found.decay["fitted"] == N
    table = pa.concat_tables(found.examples())
    kappa = np.array(table["kappa"].to_pylist())
    first = np.isin(table["example_id"].to_pylist(), run.ids(N // 10))
    assert kappa[first] == pytest.approx(np.full(N // 10, np.log(2)), abs=0.01)
    assert kappa[~first] == pytest.approx(np.zeros(N - N // 10), abs=0.01)


def test_examples_that_never_change_neither_lose_nor_gain(run: Run) -> None:
    loss = np.random.default_rng(0).lognormal(size=N)
    for number in range(1, 4):
        run.version(number, loss=loss)
    found = run.watch(keep=False).decay
    assert (found["fitted"], found["decaying"], found["growing"]) == (N, 0, 0)


def test_low_examples_rest_and_come_back_when_they_are_useful(run: Run) -> None:
    for number in range(1, 5):
        run.version(number)
        found = run.watch(number)
    states: Any = found.retirement["states"]
    # Below the level are 39 of 400: 20 and 19 of the two classes, of whom half retire.
    assert states == {"active": 361, "probation": 20, "retired": 19}
    assert found.retirement["greatest_weight"] == pytest.approx(2.0)
    table = pa.concat_tables(found.examples())
    assert sum(table["weight"].to_pylist()) == pytest.approx(N)
    assert set(table.filter(pa.compute.equal(table["state"], "retired"))["example_id"].to_pylist()) <= set(run.ids(40))
    one = states_of(ledger.events(run.store)).filter(pa.compute.field("after") == "retired")["example_id"][0].as_py()
    assert watch.restore(run.store, [one]) == 1
    again: Any = run.watch(5).retirement["states"]
    assert again == {"active": 362, "probation": 20, "retired": 18}


def test_retired_examples_that_are_not_scored_keep_their_place_among_the_lowest(run: Run) -> None:
    """Else every version would find another lowest tenth among those who remain."""
    for number in range(1, 5):
        run.version(number)
        run.watch(number)
    resting = states_of(ledger.events(run.store)).filter(pa.compute.field("after") == "retired")["example_id"]
    keep = np.isin(run.ids(N), resting.to_pylist(), invert=True)
    for number in range(5, 11):
        loss = np.random.default_rng(number).lognormal(0, 0.2, N)
        loss[:40] = 0.01
        labels, wrong = np.arange(N) % 2, np.zeros(N)
        columns = {"example_id": np.array(run.ids(N)), "loss": loss, "label": labels, "error": wrong}
        append(run.store, number, number * DAY, [pa.table({k: v[keep] for k, v in columns.items()})])
        found = run.watch(number)
    states: Any = found.retirement["states"]
    assert states["retired"] == 19
    own = weights(states_of(ledger.events(run.store)))["weight"].to_pylist()
    assert sum(own) == pytest.approx(39)


def test_looking_twice_remembers_the_same(run: Run) -> None:
    for number in range(1, 5):
        run.version(number)
        run.watch(number)
    before = {name: run.store.read_bytes(f"retirement/{name}") for name in run.store.at("retirement").names()}
    observed = ledger.observations(run.store)
    found = run.watch(4)
    assert {name: run.store.read_bytes(f"retirement/{name}") for name in before} == before
    assert ledger.observations(run.store) == observed
    assert [own.version for own in observed] == [1, 2, 3, 4]
    run.watch(4, keep=False)
    assert found.retirement == run.watch(4).retirement


def test_shards_change_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.corpus(N + 100, moved=1.0)
    for number in range(1, 4):
        run.version(number)
    run.version(4, N + 100, late=1.0)
    whole = run.watch(keep=False)
    monkeypatch.setattr(scene, "SHARD_ROWS", 60)
    split = run.watch(keep=False)
    assert told.plain(split) == told.plain(whole)
    rows = [sorted(pa.concat_tables(own.examples()).to_pylist(), key=str) for own in (whole, split)]
    assert str(rows[0]) == str(rows[1])


def test_new_rows_that_differ_are_a_drift_which_two_versions_confirm(run: Run) -> None:
    run.corpus(N + 200, moved=1.0)
    run.version(1)
    assert run.watch(1).decision.scope is Scope.NEW_ROWS, "200 examples of the corpus have no score yet"
    run.version(2, N + 100, late=1.0)
    second = run.watch(2)
    [arrivals, rescored] = second.comparisons
    assert arrivals.rows == (N, 100)
    assert set(arrivals.drifted) == {"feature", "score"}
    assert arrivals.concept == "covariate drift"
    assert "error" not in rescored.drifted
    assert ledger.observations(run.store)[-1].drift == "arrivals (feature, score)"
    assert second.decision.scope is Scope.NEW_ROWS
    run.version(3, N + 200, late=1.0)
    third = run.watch(3)
    assert third.decision.scope is Scope.EVERYTHING
    assert third.decision.fired == ("drift",)


def test_an_error_that_rises_on_the_same_examples_is_of_the_model(run: Run) -> None:
    run.version(1, error=0.1)
    run.version(2, error=0.4)
    [rescored] = run.watch().comparisons
    assert rescored.drifted == ["error"]
    assert "model or the labels" in str(rescored.concept)


@pytest.mark.parametrize("judge", ["difficulty", "loss"])
def test_without_a_margin_losses_tell_the_error(run: Run, judge: str) -> None:
    rng, times = np.random.default_rng(3), np.arange(N) * DAY / 2
    for number, level in ((1, 0.2), (2, 0.5), (3, 0.5)):
        error = np.clip(rng.normal(level, 0.05, N), 0, 0.99)
        told = error if judge == "difficulty" else -np.log1p(-error)
        append(run.store, number, number * DAY, [pa.table({"example_id": run.ids(N), judge: told, "time": times})])
        found = run.watch(number)
        assert ledger.observations(run.store)[-1].error == pytest.approx(error.mean(), abs=1e-6)
    assert found.alarms == []
    assert found.decision.fired == ("performance",)
    assert "rose from 0.2" in found.decision.reason


def test_errors_by_different_columns_are_not_compared(run: Run) -> None:
    rng = np.random.default_rng(3)
    run.version(1, error=0.05)
    run.watch(1)
    for number in (2, 3):
        own = {"example_id": run.ids(N), "loss": rng.lognormal(0, 0.2, N)}
        append(run.store, number, number * DAY, [pa.table(own)])
        found = run.watch(number)
        assert "performance" not in found.decision.fired
        if number == 2:
            assert found.comparisons[-1].verdict("error") is None
            assert any("errors are told by error in version 1 and by loss" in note for note in found.notes)


def test_folded_events_lead_where_all_did(run: Run, tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole")
    for number in range(1, 9):
        for own in (run, whole):
            own.version(number)
            found = own.watch(number)
        if number in (4, 6):
            ledger.fold(run.store, number - 1)
    states = [states_of(ledger.events(own.store)) for own in (run, whole)]
    assert states[0].equals(states[1])
    assert weights(states[0]).equals(weights(states[1]))
    assert run.watch(8, keep=False).retirement == found.retirement
    assert [name for name in run.store.at("retirement").names() if name < "v000006"] == ["v000005-9-folded.parquet"]
    # Killed between the put and the deletion, readers go by the folded file.
    before = whole.store.at("retirement").names()[0]
    run.store.write_bytes(f"retirement/{before}", whole.store.read_bytes(f"retirement/{before}"))
    assert states_of(ledger.events(run.store)).equals(states[1])


def test_the_reference_may_be_the_first_version(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", drift={"reference": "first"})
    for number, error in ((1, 0.1), (2, 0.25), (3, 0.4)):
        run.version(number, error=error)
    [rescored] = run.watch().comparisons
    assert rescored.reference == "version 1"


def test_changes_in_the_order_of_the_examples_times(run: Run) -> None:
    rng = np.random.default_rng(0)
    times = np.arange(N) * DAY / 2
    wrong = rng.random(N) < np.where(np.arange(N) < N // 2, 0.05, 0.9)
    run.version(1, time=times, **{"error": wrong})
    found = run.watch()
    assert found.alarms is not None
    assert [100 <= alarm.time / DAY < 180 for alarm in found.alarms] == [True]


def test_old_examples_rest_only_after_a_confirmed_drift(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", retire={"window_days": 30})
    for number, error in ((1, 0.05), (2, 0.2), (3, 0.4)):
        run.version(number, error=error, time=np.linspace(0, 40, N) * DAY)
        found = run.watch(number)
    reasons: Any = found.retirement["changes"]
    assert reasons == {"active -> probation: out of window after a drift": 100}
    # Version 2 saw the same old examples, but its drift was the first of two.
    assert {event.num_rows for event in ledger.events(run.store)} == {0, 100}


def test_another_run_or_file_to_compare_with(run: Run, tmp_path: Path) -> None:
    run.corpus(N)
    run.version(1)
    other = Run(tmp_path / "other")
    other.corpus(N)
    other.version(1, late=0.0, loss=np.random.default_rng(1).lognormal(1, 0.2, N))
    [found] = run.watch(against=other.store.root).comparisons
    assert found.verdict("score") == "drift"
    assert found.verdict("feature") == "none"
    path = tmp_path / "scores.parquet"
    pq.write_table(
        pa.table({"example_id": ["a"] * 200, "loss": np.random.default_rng(2).lognormal(0, 0.2, 200)}), path
    )
    [found] = run.watch(against=str(path)).comparisons
    assert found.drifted == []
    assert found.verdict("feature") is None


def test_columns_that_differ_between_versions(run: Run) -> None:
    run.version(1)
    run.version(2, extra=np.ones(N))
    found = run.watch()
    assert found.comparisons[0].tests
    assert {test.name for test in found.comparisons[0].tests if test.channel == "score"} == {"loss"}
    assert any("extra" in note for note in found.notes)
    rng = np.random.default_rng(0)
    append(run.store, 3, 3 * DAY, [pa.table({"example_id": run.ids(N), "other": rng.random(N)})])
    with pytest.raises(InputError, match="share no component"):
        run.watch()


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ({"utility": "lqs"}, "monitor.utility: version 1 has no 'lqs': it has loss"),
        ({"retire": {"protect": ["cow"]}}, "'cow' is no class of this run"),
    ],
)
def test_names_that_the_run_does_not_have_are_refused(tmp_path: Path, monitor: dict[str, Any], words: str) -> None:
    run = Run(tmp_path / "run", **monitor)
    run.version(1)
    with pytest.raises(SpecError, match=words):
        run.watch()


def test_a_run_without_scores_and_other_things_to_compare_with_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no scores"):
        run.watch()
    run.version(1)
    (tmp_path / "x.txt").write_text("")
    for path in (tmp_path / "x.txt", tmp_path / "none.parquet"):
        with pytest.raises(InputError, match="neither a run nor a Parquet file"):
            run.watch(against=str(path))
    pq.write_table(pa.table({"loss": [1.0]}), tmp_path / "y.parquet")
    with pytest.raises(InputError, match="needs a column example_id"):
        run.watch(against=str(tmp_path / "y.parquet"))
    twice = pa.table({"example_id": ["a"], "loss": [1.0]})
    append(run.store, 2, 2 * DAY, [twice, twice])
    with pytest.raises(InputError, match="holds an example twice"):
        run.watch()


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *arguments])


def test_the_command_prints_exports_and_remembers_unless_dry(run: Run, tmp_path: Path) -> None:
    for number in range(1, 4):
        run.version(number)
    place, out = run.store.root, tmp_path / "out.csv"
    done = command(place, "--dry-run", "--export", str(out))
    assert done.exit_code == 0, done.exception
    assert "retirement: 361 active, 39 probation, 0 retired" in done.stdout
    assert not run.store.exists("retirement")
    assert not run.store.exists("monitor")
    assert csv.read_csv(out).num_rows == N
    found = json.loads(command(place, "--json").stdout)
    assert found["decision"]["scope"] == "nothing"
    assert found["comparisons"][0]["verdicts"]["score"] == "none"
    assert run.store.exists("monitor/observations.json")
    low = states_of(ledger.events(run.store))["example_id"][0].as_py()
    assert "362 active, 38 probation" in command(place, "--restore", low).stdout


def test_a_version_that_was_never_published_is_not_looked_at(run: Run) -> None:
    for number in range(1, 4):
        run.version(number)
    run.store.write_json("current.json", {"version": 2, "place": "versions/v000002", "published": 0.0, "token": 1})
    assert run.watch(keep=False).version == 2


def test_settings_can_be_overridden(run: Run) -> None:
    for number in range(1, 4):
        run.version(number)
    told = command(run.store.root, "--dry-run", "-o", "monitor.retire.low=0.05").stdout
    assert "381 active, 19 probation" in told
    assert isinstance(command(run.store.root, "-o", "monitor.retire.low=2").exception, SpecError)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--export", "out.txt"], "must end in .csv or .parquet"),
        (["--against", "nowhere"], "neither a run nor a Parquet file"),
        (["--restore", "nobody"], "'nobody' is neither on probation nor retired"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(run: Run, arguments: list[str], words: str) -> None:
    run.version(1)
    done = command(run.store.root, *arguments)
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert words in str(done.exception)
    assert not run.store.exists("monitor")
