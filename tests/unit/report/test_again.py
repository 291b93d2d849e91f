"""The report of a finished run is written again from what stands; of anything else, one sentence says why not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydelt import __version__, cluster
from raydelt.ask.run import Run
from raydelt.config import Planning
from raydelt.errors import InputError
from raydelt.monitor import ledger, retirement
from raydelt.monitor.triggers import Observation
from raydelt.plan.make import make
from raydelt.plan.stage import definition
from raydelt.report.again import standing, write_again
from raydelt.report.history import moves_of
from raydelt.storage import Stage, fingerprint
from tests.asked import Asked, Made
from tests.reported import finish
from tests.unit.plan.buckets import drawn_curves, measure
from tests.unit.plan.test_make import GROUND, columns


@pytest.fixture
def made(tmp_path: Path, finished: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Made:
    """A finished run; `finished` lets tasks run in this process."""

    @contextlib.contextmanager
    def here(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(cluster, "connected", here)
    texts = ("one", "two words", "three more words")
    return finish(Asked(rows=1200, texts=texts).make(tmp_path / "a run"), versions=3)


def test_the_report_is_written_from_what_stands(made: Made) -> None:
    written = write_again(made.store.root)
    summary = written.store.read_json("report/summary.json")
    ranked = made.ranking["example_id"].to_pylist()
    assert [row["id"] for row in summary["examples"]["rows"] if "top" in row["lists"]] == ranked[:-21:-1]
    assert summary["selection"]["kept"] == made.selection.num_rows
    assert summary["output"] == made.store.root
    assert summary["near_duplicates"]["examples"] == sum(part.rows // 10 for part in made.manifests["corpus"].parts)
    heads = {group["head"] for group in summary["near_duplicates"]["listed"]}
    assert heads <= summary["shown"].keys()
    assert len(summary["history"]["versions"]) == 3
    difficulty = made.scores["difficulty"].to_numpy()
    for version in summary["history"]["versions"]:
        np.testing.assert_allclose(version["quantiles"]["difficulty"], np.percentile(difficulty, [10, 50, 90]))
    page = written.store.read_bytes("report/index.html").decode()
    assert "Versions</h2>" in page
    assert "Near-duplicates</h2>" in page


def test_the_flow_finds_it_up_to_date_and_figures_go_with_the_page(made: Made) -> None:
    run = write_again(made.store.root)
    own = [made.manifests["model"].fingerprint, made.manifests["corpus"].fingerprint]
    own.append(made.config.report.model_dump(mode="json"))
    stage = Stage(run.store, "report", fingerprint([__version__, made.config.seed, *own]))
    manifest = stage.published()
    assert manifest is not None
    figures = {part.file for part in manifest.files if "/figures/" in part.file}
    assert figures == {f"report/figures/{name}" for name in run.store.at("report/figures").names()}
    assert {"report/figures/curves.svg", "report/figures/curves.png"} <= figures
    stage.publish([], {}, {"page": [part for part in manifest.files if part.file not in figures]})
    assert run.store.at("report/figures").names() == []
    assert "index.html" in run.store.at("report").names()


def test_what_was_monitored_since_is_told(made: Made) -> None:
    seen = Observation(1.0, 1200, 12, "feature x", 0.1, version=2)
    ledger.observe(made.store, [], seen)
    rows = made.ranking["example_id"].to_pylist()[:7]
    events = [
        {"version": 2, "example_id": one, "label": "cat", "before": "active", "after": "probation", "reason": "low"}
        for one in rows
    ]
    table = retirement.EVENTS.empty_table().from_pylist([own | {"draw": None} for own in events], retirement.EVENTS)
    ledger.decided(made.store, 2, table)
    told = write_again(made.store.root).store.read_json("report/summary.json")["history"]
    assert told["monitor"] == [
        {"version": 2, "rows": 1200, "new_rows": 12, "drift": "feature x", "error": 0.1, "decided": "nothing"}
    ]
    moved = {"version": 2, "before": "active", "after": "probation", "reason": "low", "count": 7}
    assert told["retirement"] == [moved]
    ledger.by_hand(made.store, 2, table.slice(0, 2))
    assert moves_of(made.store) == [moved | {"count": 9}]
    read = list(ledger.events(made.store, ["version", "reason"]))
    assert [(own.num_rows, own.column_names) for own in read] == [
        (7, ["version", "reason"]),
        (2, ["version", "reason"]),
    ]


def test_a_plan_is_shown_where_it_is_of_this_very_run(made: Made) -> None:
    rng = np.random.default_rng(3)
    points = columns(measure(drawn_curves(rng, 3), rng, seeds=2, point=0.003))
    found = make(points, Planning(budgets=[2e5, 1e6], draws=5), ground=GROUND)
    own = definition(made.config, made.manifests["corpus"])
    for corpus, shown in ((own["corpus"], True), ("another", False)):
        document = found.to_dict() | {"made_of": own | {"corpus": corpus}}
        part = made.store.put("plan/plan-0.json", json.dumps(document).encode())
        Stage(made.store, "plan", "1" * 32).publish([part], {})
        told = write_again(made.store.root).store.read_json("report/summary.json")["plan"]
        assert (told is not None) == shown
        assert made.store.exists("report/figures/plan.svg") == shown
        if shown:
            assert [one["budget"] for one in told["budgets"]] == [2e5, 1e6]
            assert told["budgets"][0]["recommended"] == found.plan.advice[0].recommended
            losses = [choice["loss"] for choice in told["budgets"][1]["choices"]]
            assert losses == [choice.loss for choice in found.plan.advice[1].choices]


def test_an_unfinished_run_is_one_sentence(tmp_path: Path) -> None:
    made = Asked(rows=300, trained=False).make(tmp_path / "run")
    with pytest.raises(InputError, match=r"is not finished \(it has no model\): go on with `raydelt run SPEC`"):
        standing(Run.open(made.store.root))
    with pytest.raises(InputError, match="holds no raydelt run"):
        write_again(str(tmp_path))


def test_a_missing_or_cut_file_is_named(made: Made) -> None:
    file = made.manifests["scores"].parts[2].file
    data = made.store.read_bytes(file)
    made.store.write_bytes(file, data[:-9])
    with pytest.raises(InputError, match=rf"{file} has {len(data) - 9} bytes of {len(data)}: delete the folder"):
        write_again(made.store.root)
    made.store.delete(file)
    with pytest.raises(InputError, match=rf"{file} is missing: delete the folder 'scores'"):
        write_again(made.store.root)
    assert not made.store.exists("report")


def test_a_run_of_another_version_is_one_sentence(made: Made) -> None:
    spec = made.store.read_json("spec.json")
    made.store.write_json("spec.json", spec | {"forgotten": 1})
    with pytest.raises(InputError, match=r"cannot read it \(forgotten: .*: run the spec again"):
        write_again(made.store.root)
    made.store.write_json("spec.json", spec)
    raw = made.store.read_json("corpus/manifest.json")
    del raw["facts"]["overlap"]
    made.store.write_json("corpus/manifest.json", raw)
    with pytest.raises(InputError, match=r"lacks what the report of .* reads \(corpus: overlap\)"):
        write_again(made.store.root)


def test_stages_of_two_specs_are_not_mixed(made: Made) -> None:
    record = made.store.read_json("run.json")
    record["stages"]["ranking"]["fingerprint"] = "0" * 32
    made.store.write_json("run.json", record)
    with pytest.raises(InputError, match="is between two specs"):
        write_again(made.store.root)


def test_the_summary_is_plain_data(made: Made) -> None:
    data = write_again(made.store.root).store.read_bytes("report/summary.json")
    assert json.loads(json.dumps(json.loads(data), allow_nan=False)) == json.loads(data)
    assert len(data) < 1_000_000
