"""A round of labelling that is killed anywhere goes on from what stands, and rounds without labels stop nothing."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from raydelt.active import session
from raydelt.active.batch import STRATEGIES
from raydelt.active.phases import Phase
from raydelt.active.queue import LabelQueue
from raydelt.active.session import Entry, rounds_of
from raydelt.active.stopping import Plateau, Round
from raydelt.config import Label, RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.specfile import validate
from raydelt.storage import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def config(folder: Path, **changes: Any) -> RunConfig:
    corpus = {"source": [], "pool": str(folder / "pool"), "classes": ["cat", "dog"], "label_column": "y"}
    return validate({"name": "x", "corpus": corpus, "output": str(folder / "run")} | changes)


def entry(round: int, *, labels: int, accuracy: float | None = None, phase: str = "iterate", asked: int = 0) -> Entry:
    return Entry(round, phase, "labels still help", labels, asked, accuracy)


def test_a_round_counts_once_its_examples_are_queued(tmp_path: Path) -> None:
    held = LabelQueue(Store(str(tmp_path)))
    assert session.history(held) == []
    rounds = [entry(0, labels=0, asked=1, phase="cold"), entry(1, labels=1, asked=1)]
    held.query(["a"], round=0, time=NOON)
    held.keep(session.ROUNDS, [asdict(own) for own in rounds])
    assert session.history(held) == rounds[:1], "killed between writing it down and asking"
    held.query(["b"], round=1, time=NOON)
    assert session.history(held) == rounds
    held.keep(session.ROUNDS, [asdict(own) for own in [*rounds, entry(2, labels=2, phase="converged")]])
    assert len(session.history(held)) == 3, "a round that asks for nothing needs nothing queued"


def test_rounds_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    held = LabelQueue(Store(str(tmp_path)))
    for content in ('[{"round": 0}]', "[3]", "{", "3"):
        (tmp_path / session.ROUNDS).write_text(content)
        with pytest.raises(InputError, match=r"rounds\.json"):
            session.history(held)


def test_rounds_that_brought_no_labels_make_no_plateau() -> None:
    past = [entry(i, labels=10 * i, accuracy=0.1 * i) for i in range(4)]
    idle = [entry(4 + i, labels=30, accuracy=0.3) for i in range(6)]
    now = Round(30, 0.3)
    found = rounds_of([*past, *idle], Phase.ITERATE, now)
    assert [(own.labels, own.metric) for own in found] == [(0, 0.0), (10, 0.1), (20, 0.2), (30, 0.3)]
    assert Plateau(rounds=3).reason(found) is None
    flat = [entry(i, labels=10 * i, accuracy=0.5) for i in range(4)]
    assert Plateau(rounds=3).reason(rounds_of(flat, Phase.ITERATE, now)) is not None


def test_rounds_of_another_phase_do_not_count() -> None:
    past = [entry(0, labels=0, phase="cold"), entry(1, labels=10), entry(2, labels=20, phase="converged")]
    assert rounds_of(past, Phase.CONVERGED, Round(30)) == [Round(20), Round(30)]
    assert rounds_of(past, Phase.ITERATE, Round(30)) == [Round(30)]


def test_what_no_round_could_do_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    session.check(config(tmp_path))
    for match, changes in {
        "causal_lm": {"model": {"kind": "causal_lm", "path": "x"}},
        "no_such_module": {"label": {"utility": "no_such_module:query"}},
        r"set corpus\.pool": {"corpus": {"source": "builtin://digits"}},
    }.items():
        with pytest.raises(SpecError, match=match):
            session.check(config(tmp_path, **changes))
    with pytest.raises(SpecError, match=r"'margn'.*did you mean 'margin'"):
        config(tmp_path, label={"utility": "margn"})
    with pytest.raises(SpecError, match=r"'warm'.*cold, iterate, converged"):
        session.phase_named("warm")


@pytest.mark.parametrize("days", [1e12, 1e6, float("inf"), float("nan")])
def test_days_before_all_time_are_refused(tmp_path: Path, days: float) -> None:
    with pytest.raises(SpecError, match="--days"):
        session.expire(config(tmp_path), days)


def test_an_answer_that_is_no_class_any_more_is_named(tmp_path: Path) -> None:
    spec = config(tmp_path)
    session.queue_of(spec).query(["a", "b"], round=0, time=NOON)
    file = tmp_path / "told.csv"
    file.write_text("example_id,label\na,cat\nb,dog\n")
    assert session.absorb(spec, str(file), annotator="ann")["labelled"] == 2
    assert session.answers(spec) == {"a": "cat", "b": "dog"}
    corpus = spec.corpus.model_copy(update={"classes": ["cat", "bird"]})
    with pytest.raises(InputError, match=r"'b'.*'dog'.*corpus\.classes"):
        session.answers(spec.model_copy(update={"corpus": corpus}))


def test_a_spec_may_name_every_strategy_and_no_other() -> None:
    [literal] = [kind for kind in get_args(Label.model_fields["diversify"].annotation) if kind is not type(None)]
    assert set(get_args(literal)) == set(STRATEGIES)
