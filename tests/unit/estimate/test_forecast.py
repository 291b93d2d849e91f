"""Forecasts from hand-made trials: a run that follows the laws is predicted exactly, on any number of machines."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raydelt.config import RunConfig
from raydelt.estimate import table
from raydelt.estimate.answer import Job, answer, first_rows, next_rows
from raydelt.estimate.beside import beside, identity
from raydelt.estimate.capacity import Capacity, limits
from raydelt.estimate.memory import Usage
from raydelt.estimate.model import Line, busy, forecast, line, memory, whole_sizes
from raydelt.estimate.prices import load
from raydelt.estimate.sample import trial_spec
from raydelt.estimate.trial import Trial
from raydelt.estimate.work import Hands, Sizes, law_of, parts_of, replicates
from raydelt.storage import Manifest
from tests.flow import spec

TWO = Capacity(cpus=2, gpus=0.0, machines=1, object_store_bytes=1 << 30)
STAGES = ("corpus", "proxies", "scores", "ranking", "selection", "ordered", "model", "report")
TOTAL, ROW_BYTES = 50_000, 400.0
FIXED, PER_UNIT = 1.5, 2e-4
BUSY = {"difficulty": 3e-5, "grad_norm": 5e-5}


def config_of(tmp_path: Path, **changes: Any) -> RunConfig:
    return spec(tmp_path / "in", tmp_path / "out", train__recipe={"steps": 4000}, **changes)


def sizes(config: RunConfig, read: int) -> Sizes:
    """Examples of a run on `read` rows: 20 % are held out, half of the rest are kept."""
    rows = read * 4 // 5
    busy = rows * sum(BUSY.values())
    return Sizes(read, rows, 0.0, read - rows, rows // 2, parts_of(rows, ROW_BYTES), busy)


def trial(config: RunConfig, rows: int, capacity: Capacity = TWO, took_all: float = 0.0) -> Trial:
    """A trial in which every stage takes FIXED seconds and PER_UNIT for each unit of its work and hand."""
    own = trial_spec(config, rows=rows, total=TOTAL, output="/nowhere")
    n = sizes(own, rows)
    facts = {"read": n.read, "corpus": n.rows, "validation": 0, "test": n.test, "pool": 0}
    took = {"rows": n.rows, "seconds": {name: each * n.rows for name, each in BUSY.items()}}
    stages = {
        name: {
            "seconds": seconds(own, n, name, capacity),
            "bytes": 1000 + 7 * n.rows,
            "rows": n.selected if name == "selection" else n.rows,
            "facts": facts if name == "corpus" else {"took": took} if name == "scores" else {},
        }
        for name in STAGES
    }
    peak = Usage(10**9 + int(2 * ROW_BYTES * n.rows), int(2 * ROW_BYTES * n.rows))
    record = {
        "start": 5.0,
        "stages": stages,
        "cluster": asdict(capacity),
        "peaks": {"corpus": asdict(peak)},
    }
    manifests = {name: Manifest(name, "", []) for name in STAGES}
    whole = took_all or sum(float(stage["seconds"]) for stage in stages.values())
    return Trial(own, rows, whole, True, record, manifests, ROW_BYTES)


def seconds(config: RunConfig, n: Sizes, name: str, capacity: Capacity) -> float:
    law = law_of(name)
    return FIXED + PER_UNIT * law.work(config, n) / max(1.0, law.hands(config, n, capacity.hands(config)))


@pytest.mark.parametrize("times", [1, 2, 8, 64])
def test_a_run_that_follows_the_laws_is_predicted_exactly_on_any_number_of_machines(
    tmp_path: Path, times: int
) -> None:
    config = config_of(tmp_path)
    trials = [trial(config, 500), trial(config, 5000)]
    n, there = whole_sizes(config, trials, TOTAL), TWO.times(times)
    expected = sizes(config, TOTAL)
    assert asdict(n) == pytest.approx(asdict(expected), rel=1e-9)
    found = forecast(config, trials, n, TWO, there)
    assert found["start"].seconds == 5.0
    for name in STAGES:
        assert found[name].seconds == pytest.approx(seconds(config, expected, name, there), rel=1e-6), name
        assert found[name].bytes == pytest.approx(1000 + 7 * expected.rows)


def test_what_does_not_parallelise_bounds_the_gain(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trials = [trial(config, 500), trial(config, 5000)]
    n = whole_sizes(config, trials, TOTAL)
    by_size = [forecast(config, trials, n, TWO, TWO.times(k)) for k in (1, 2, 8, 64)]
    totals = [sum(own.seconds for own in found.values()) for found in by_size]
    assert totals == sorted(totals, reverse=True)
    serial = sum(own.fixed for own in by_size[0].values()) + by_size[0]["model"].shared
    assert totals[-1] > serial
    assert by_size[-1]["model"].seconds == by_size[0]["model"].seconds
    assert by_size[-1]["proxies"].hands == 4
    assert by_size[-1]["scores"].hands == n.parts


@pytest.mark.parametrize(("parts", "actors", "busy"), [(1, 2, 1), (2, 2, 2), (3, 2, 1.5), (16, 2, 2), (16, 5, 4)])
def test_actors_that_have_nothing_left_in_the_last_round_do_not_count(
    tmp_path: Path, parts: int, actors: int, busy: float
) -> None:
    config = config_of(tmp_path)
    n = replace(sizes(config, TOTAL), parts=parts)
    for name in ("corpus", "scores"):
        assert law_of(name).hands(config, n, Hands(cpus=actors, gpus=0.0, actors=actors)) == busy


def test_a_fixed_number_of_steps_does_not_follow_the_rows(tmp_path: Path) -> None:
    config = config_of(tmp_path, corpus__test={"source": str(tmp_path / "test.parquet")})
    law, few, many = law_of("model"), sizes(config, 1000), sizes(config, 100_000)
    same_test = Sizes(**asdict(many) | {"test": few.test})
    assert law.work(config, few) == law.work(config, same_test)
    assert law.work(config, few) == replicates(config) * (3 * 4000 * 32 + few.test)


def test_proxies_stop_growing_at_their_cap(tmp_path: Path) -> None:
    config = config_of(tmp_path, rank__max_proxy_examples=2000)
    law = law_of("proxies")
    assert law.work(config, sizes(config, 1000)) < law.work(config, sizes(config, 2500))
    assert law.work(config, sizes(config, 2500)) == law.work(config, sizes(config, 250_000))


def test_what_scorers_take_to_set_up_is_not_taken_for_work(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trials = [trial(config, 500), trial(config, 5000)]
    for own in trials:
        own.stages["scores"]["facts"]["took"]["seconds"]["difficulty"] += 2.0
    unmeasured = trial(config, 1000)
    del unmeasured.stages["scores"]
    rows = sizes(config, TOTAL).rows
    assert busy(config, [*trials, unmeasured])(rows) == pytest.approx(2.0 + rows * sum(BUSY.values()))
    assert busy(config, [unmeasured])(rows) == 0.0


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 3.0), (4.0, 9.0)], Line(1.0, 2.0)),
        ([(4.0, 9.0), (2.0, 100.0), (1.0, 3.0)], Line(1.0, 2.0)),
        ([(1.0, 5.0), (4.0, 4.0)], Line(4.5, 0.0)),
        ([(1.0, 1.0), (4.0, 8.0)], Line(0.0, 2.0)),
        ([(2.0, 6.0)], Line(0.0, 3.0)),
        ([(0.0, 6.0), (0.0, 4.0)], Line(6.0, 0.0)),
    ],
)
def test_lines_never_fall_and_never_start_below_zero(points: list[tuple[float, float]], expected: Line) -> None:
    assert line(points) == expected


def test_shared_memory_grows_with_the_rows_up_to_the_object_store(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trials = [trial(config, 500), trial(config, 5000)]
    n = whole_sizes(config, trials, TOTAL)
    found = memory(config, trials, n, TWO, TWO)
    assert found.shared == pytest.approx(2 * ROW_BYTES * n.rows)
    part = (n.rows - sizes(config, 5000).rows) / 16 * ROW_BYTES
    assert found.total == pytest.approx(10**9 + found.shared + 2 * 4 * part, rel=1e-6)
    small = Capacity(2, 0.0, 1, object_store_bytes=10_000_000)
    assert memory(config, trials, n, small, small).shared == 10_000_000


def test_the_autoscaler_and_the_spec_limit_the_actors(tmp_path: Path) -> None:
    free = config_of(tmp_path)
    held = config_of(tmp_path, cluster={"actors": {"max": 3}})
    grows = Capacity(4, 1.0, 2, 1 << 30, most=(12.0, 8.0))
    assert TWO.times(64).cpus == 128
    assert grows.times(2).cpus == 8
    assert (grows.times(8).cpus, grows.times(8).gpus, grows.times(8).machines) == (12, 3.0, 6)
    assert TWO.times(8).hands(held).actors == 3
    assert limits(free, TWO, 64) == []
    assert "cluster.actors.max" in limits(held, TWO, 8)[0]
    assert "autoscaler" in limits(free, grows, 8)[0]


def test_trials_grow_within_their_time(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert first_rows(config, 100) == 100
    assert first_rows(config, 1797) == 256
    assert first_rows(config, 10**9) == 4096
    first = trial(config, 500)
    assert next_rows([first], TOTAL, left=first.seconds + 1) == 2000
    assert next_rows([first], TOTAL, left=first.seconds - 1) == 0
    assert next_rows([first, trial(config, 2000)], TOTAL, left=0.0) == 0
    assert next_rows([first, trial(config, TOTAL // 3)], TOTAL, left=1e9) == 0
    quick = [trial(config, 500, took_all=0.1), trial(config, 2000, took_all=0.2)]
    largest = next_rows(quick, TOTAL, left=1e9)
    assert 4000 <= largest <= TOTAL / 3 + 1


def test_the_answer_holds_every_stage_and_size_and_reads_as_a_table(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    found = answer(Job(config, "report", TOTAL, 1), [trial(config, 500), trial(config, 5000)], load())
    assert [one["times"] for one in found["clusters"]] == [1, 2, 8, 64]
    first = found["clusters"][0]
    assert first["seconds"] == pytest.approx(sum(own["seconds"] for own in found["stages"].values()))
    assert first["cpu_hours"] == pytest.approx(2 * first["seconds"] / 3600)
    assert first["requests"] == {"put": 0, "get": 0, "list": 0}
    assert {offer["cloud"] for offer in first["prices"]} == {"aws", "gcp", "azure"}
    text = table.text(found)
    assert all(name in text for name in STAGES)
    assert "(x64)" in text
    assert "serial" in text


def test_actual_stands_beside_estimated_for_this_very_spec_only(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    trials = [trial(config, 500), trial(config, 5000)]
    found = answer(Job(config, "report", TOTAL, 1), trials, load())
    record = trials[1].record | {"spec": config.resolved()}
    rows = {row["what"]: row for row in beside(found, record)}
    own = found["stages"]["model"]["seconds"]
    assert rows["model"]["ratio"] == pytest.approx(record["stages"]["model"]["seconds"] / own)
    assert rows["total"]["actual"] == pytest.approx(5 + sum(s["seconds"] for s in record["stages"].values()))
    assert rows["peak memory"]["actual"] == record["peaks"]["corpus"]["memory"]
    assert rows["disk"]["actual"] == sum(s["bytes"] for s in record["stages"].values())
    half = record | {"stages": {name: record["stages"][name] for name in ("corpus", "proxies")}}
    assert [row["what"] for row in beside(found, half)] == ["start", "corpus", "proxies", "total"]
    assert beside(None, record) == []
    assert beside(found | {"spec": identity({})}, record) == []
