"""Scoring again: only what is new is computed, the result is that of scoring all, and readers see whole versions."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from raydelt import pipeline
from raydelt.ask.run import Run
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, column_of
from raydelt.monitor import history, ledger
from raydelt.monitor.retirement import EVENTS, restore, states_of
from raydelt.rescore import begun, versions
from raydelt.rescore.rescore import rescore
from raydelt.scorers.cells import Earlier
from raydelt.storage import Store, read_manifest
from raydelt.storage.lease import held
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")
CHANGES: dict[str, Any] = {"score": [{"kind": kind} for kind in ("difficulty", "consistency", "diversity")]}


def written(folder: Path) -> RunConfig:
    source = folder / "in"
    return spec(source if source.exists() else write_digits(source, files=3, rows=300), folder / "run", **CHANGES)


@pytest.fixture(scope="module")
def scored(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a run that has been scored once, and a copy of it; a run knows its place, so tests share one."""
    folder, copy = tmp_path_factory.mktemp("scored"), tmp_path_factory.mktemp("copy") / "of"
    pipeline.execute(written(folder), until="selection")
    shutil.copytree(folder, copy)
    return folder, copy


@pytest.fixture
def tmp_path(scored: tuple[Path, Path]) -> Path:
    """The folder as it was after the first scoring."""
    folder, copy = scored
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The run that has been scored once."""
    return written(tmp_path)


def more(folder: Path, name: str, rows: range) -> None:
    """A file of other digits."""
    bundle, own = load_digits(), list(rows)
    held = pa.table({"pixels": bundle.data[own].astype(np.float32).tolist(), "label": bundle.target[own]})
    pq.write_table(held, folder / name)


def scores_of(place: Path) -> pa.Table:
    return table(place, "scores").sort_by(EXAMPLE_ID)


def earlier(config: RunConfig, *, cells: bool) -> Earlier:
    """The run's current version; without its cells nothing of it but what was fitted stays."""
    now = versions.current(Store(config.output)).store
    found = {name: read_manifest(now, name) for name in ("corpus", "scores", "proxies")}
    known = {name: manifest for name, manifest in found.items() if manifest is not None}
    if not cells:
        known["scores"] = dataclasses.replace(known["scores"], facts=known["scores"].facts | {"cells": {}})
    return Earlier(now, known)


def test_new_rows_alone_are_scored_and_the_result_is_that_of_scoring_all(config: RunConfig, tmp_path: Path) -> None:
    first = table(Path(config.output), "scores").num_rows
    more(tmp_path / "in", "more.parquet", range(300, 330))
    whole = config.model_copy(update={"output": str(tmp_path / "whole")})
    everything = pipeline.execute(whole, until="selection", earlier=earlier(config, cells=False))
    found = rescore(config)
    assert found.published
    assert found.version == 1
    assert found.before == first
    assert everything.manifests["scores"].facts["computed"] == dict.fromkeys(found.computed, found.examples)
    assert found.computed == dict.fromkeys(("difficulty", "consistency", "diversity"), found.examples - first)
    assert 0 < found.examples - first <= 30
    now, then = scores_of(Path(found.place)), scores_of(tmp_path / "whole")
    assert now[EXAMPLE_ID].equals(then[EXAMPLE_ID])
    for name in everything.manifests["scores"].facts["columns"]["difficulty"]:
        np.testing.assert_allclose(column_of(now, name), column_of(then, name), rtol=1e-5, atol=1e-6)
    for stage in ("ranking", "selection"):
        assert table(Path(found.place), stage)[EXAMPLE_ID].equals(table(tmp_path / "whole", stage)[EXAMPLE_ID])
    assert [entry.number for entry in history.versions(Store(config.output))] == [0, 1]


def test_examples_that_go_leave_and_nothing_is_computed(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "in" / "digits-2.parquet").unlink()
    found = rescore(config)
    assert found.published
    assert found.examples < found.before
    assert set(found.computed.values()) == {0}


def test_a_touched_file_makes_no_version(config: RunConfig, tmp_path: Path) -> None:
    assert not rescore(config).published
    os.utime(tmp_path / "in" / "digits-0.parquet", (1, 1))
    assert not rescore(config).published
    assert versions.current(Store(config.output)).number == 0
    assert versions.known(Store(config.output)) == []


def test_a_changed_scorer_is_computed_alone(config: RunConfig) -> None:
    changed = [{"kind": "difficulty"}, {"kind": "consistency", "strength": 0.5}, {"kind": "diversity"}]
    again = spec(config.corpus.source, Path(config.output), score=changed)
    found = rescore(again)
    assert found.computed == {"difficulty": 0, "consistency": found.examples, "diversity": 0}


def test_a_new_scorer_that_ranks_nothing_is_computed_and_published(config: RunConfig) -> None:
    more_scores = [*CHANGES["score"], {"kind": "prototype"}]
    found = rescore(spec(config.corpus.source, Path(config.output), score=more_scores))
    assert found.published
    assert found.computed == {"difficulty": 0, "consistency": 0, "diversity": 0, "prototype": found.examples}
    assert table(Path(found.place), "selection").equals(table(Path(config.output), "selection"))
    assert "prototype_distance" in table(Path(found.place), "scores").column_names


def test_a_version_goes_as_far_as_asked_whether_or_not_anything_changed(config: RunConfig, tmp_path: Path) -> None:
    train = {"train__seeds": [0], "train__baselines": []}
    own = spec(config.corpus.source, Path(config.output), **CHANGES, **train)
    first = rescore(own, until="model")
    assert (first.version, set(first.computed.values())) == (1, {0})
    assert read_manifest(Store(first.place), "model") is not None
    assert not rescore(own, until="model").published
    assert not rescore(own).published, "the model stands, and with it all before it"
    more(tmp_path / "in", "more.parquet", range(300, 330))
    second = rescore(own, until="model")
    assert second.published
    assert second.examples > first.examples


def test_a_selection_that_was_left_out_is_made_the_next_time(config: RunConfig) -> None:
    own = spec(config.corpus.source, Path(config.output), **CHANGES, select={"method": "top_k", "value": 20})
    assert rescore(own, until="ranking").version == 1
    found = rescore(own)
    assert found.version == 2
    assert table(Path(found.place), "selection").num_rows == 20


def test_an_example_stays_while_any_file_that_was_not_opened_holds_it(config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copy(folder / "digits-1.parquet", folder / "copy.parquet")
    for file in folder.iterdir():
        os.utime(file, (1000, 1000))
    assert rescore(config).published, "the corpus knows of its duplicates now"
    more(folder, "more.parquet", range(300, 330))
    second = rescore(config, since=2000.0)
    assert second.unopened == 4
    (folder / "digits-1.parquet").unlink()
    assert rescore(config, since=2000.0).examples == second.examples


def test_fitting_anew_computes_what_looks_at_it(config: RunConfig, tmp_path: Path) -> None:
    more(tmp_path / "in", "more.parquet", range(300, 330))
    found = rescore(config, refit=True)
    assert set(found.computed.values()) == {found.examples}


def test_readers_see_the_version_before_until_the_next_is_whole(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more(tmp_path / "in", "more.parquet", range(300, 330))
    seen = []
    execute = pipeline.execute

    def watch(*arguments: Any, **named: Any) -> Any:
        done = execute(*arguments, **named)
        seen.append(versions.current(Store(config.output)).number)
        return done

    monkeypatch.setattr(pipeline, "execute", watch)
    rescore(config)
    assert seen == [0]
    assert versions.current(Store(config.output)).number == 1


def test_files_older_than_since_are_not_opened_and_the_corpus_is_that_of_opening_all(
    config: RunConfig, tmp_path: Path
) -> None:
    old, rows = tmp_path / "in" / "digits-1.parquet", load_digits().data[:3].astype(np.float32)
    rows[1, 5] = np.nan
    pq.write_table(pa.table({"pixels": rows.tolist(), "label": [1, 2, 3]}), tmp_path / "in" / "faulty.parquet")
    for file in (tmp_path / "in").iterdir():
        os.utime(file, (1000, 1000))
    assert rescore(config).version == 1
    whole = old.read_bytes()
    old.write_bytes(b"x" * len(whole))
    os.utime(old, (1000, 1000))
    more(tmp_path / "in", "again.parquet", range(330, 345))
    found = rescore(config, since=2000.0)
    assert (found.version, found.unopened) == (2, 4)
    assert set(found.computed.values()) == {found.examples - found.before}
    old.write_bytes(whole)
    read = pipeline.execute(config.model_copy(update={"output": str(tmp_path / "whole")}), until="corpus")
    carried = read_manifest(Store(found.place), "corpus")
    assert carried is not None
    assert carried.facts == read.manifests["corpus"].facts
    assert carried.facts["quarantined"] == 1
    assert [part.digest for part in carried.parts] == [part.digest for part in read.manifests["corpus"].parts]
    # A file that goes is noticed whatever its time was, and one that was looked at again is read.
    (tmp_path / "in" / "digits-0.parquet").unlink()
    assert rescore(config, since=2000.0).examples < found.examples


def test_who_is_retired_is_left_out_where_that_is_applied_and_comes_back(config: RunConfig) -> None:
    store, kept = Store(config.output), table(Path(config.output), "selection")[EXAMPLE_ID].to_pylist()[-10:]
    events = {"version": [0] * 10, EXAMPLE_ID: kept, "label": ["1"] * 10, "before": ["active"] * 10}
    events |= {"after": ["retired"] * 10, "reason": ["still low, and drawn"] * 10, "draw": [None] * 10}
    ledger.decided(store, 0, pa.table(events).cast(EVENTS))
    assert not rescore(config).published, "advice changes nothing"
    rules = config.monitor.retire.model_copy(update={"action": "apply", "rare_below": 0})
    own = config.model_copy(update={"monitor": config.monitor.model_copy(update={"retire": rules})})
    first = rescore(own)
    assert set(first.computed.values()) == {0}, "whoever rests is scored all the same"
    assert set(kept).isdisjoint(table(Path(first.place), "selection")[EXAMPLE_ID].to_pylist())
    selection = read_manifest(Store(first.place), "selection")
    assert selection is not None
    assert selection.facts["left_out"] == {"retired": 10}
    assert Run.open(config.output).why(kept[0])["rule"]["rule"] == "retired"
    assert not rescore(own).published, "the same states are the same version"
    ledger.by_hand(store, 1, restore(states_of(ledger.events(store)), kept[:9], 1))
    again = table(Path(rescore(own).place), "selection")[EXAMPLE_ID].to_pylist()
    assert set(kept) - set(again) == {kept[9]}


def test_of_two_jobs_at_once_one_is_told_that_the_other_works(config: RunConfig) -> None:
    with (
        held(Store(config.output), "rescore", owner="the other", seconds=60),
        pytest.raises(InputError, match="held by the other"),
    ):
        rescore(config)


def test_an_unfinished_version_is_not_finished_with_other_files(config: RunConfig, tmp_path: Path) -> None:
    more(tmp_path / "in", "more.parquet", range(300, 330))
    place = versions.begin(Store(config.output), 1)
    own = config.model_copy(update={"output": place.root})
    begun.begin(place, own, begun.made_of(config, fitted="keep"), restart=False)
    more(tmp_path / "in", "again.parquet", range(330, 360))
    with pytest.raises(InputError, match=r"again\.parquet is new"):
        rescore(config)
    assert rescore(config, restart=True).version == 1
