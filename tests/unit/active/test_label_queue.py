"""The label queue is a fold of its files: what comes twice is nothing new, and what conflicts is put aside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydelt.active.queue import ABSTAINED, EXPIRED, LABELLED, QUERIED, LabelQueue, fold
from raydelt.active.sheets import export, read_labels
from raydelt.errors import InputError
from raydelt.examples import QUARANTINE_SCHEMA, content_id
from raydelt.storage import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
A, B, C, D = (content_id(name.encode()) for name in "abcd")


@pytest.fixture(params=["local", "memory"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> LabelQueue:
    root = str(tmp_path / "queue") if request.param == "local" else f"memory://{request.node.name}"
    found = LabelQueue(Store(root), ("cat", "dog"))
    found.query([A, B, C], round=1, time=NOON)
    return found


def answers(tmp_path: Path, *rows: tuple[str, str], name: str = "answers.csv") -> str:
    path = tmp_path / name
    path.write_text("".join(f"{example_id},{label}\n" for example_id, label in (("example_id", "label"), *rows)))
    return str(path)


def reasons(quarantined: pa.Table) -> list[tuple[int, str]]:
    assert quarantined.schema == QUARANTINE_SCHEMA
    return list(zip(quarantined["row"].to_pylist(), quarantined["reason"].to_pylist(), strict=True))


def files(queue: LabelQueue) -> list[str]:
    return queue.store.names()


def test_labels_come_back_and_count(queue: LabelQueue, tmp_path: Path) -> None:
    found = queue.absorb(answers(tmp_path, (B, "cat"), (A, " dog "), (C, "")), annotator="ann", time=NOON + HOUR)
    assert (found.labelled, found.abstained, found.repeated, found.overwritten, found.rows) == (2, 1, 0, 0, 3)
    assert queue.labels() == dict(sorted({A: "dog", B: "cat"}.items()))
    assert queue.waiting() == []
    entry = queue.state()[A]
    assert (entry.state, entry.round, entry.annotator, entry.time) == (LABELLED, 1, "ann", NOON + HOUR)
    assert queue.state()[C].state == ABSTAINED


def test_the_same_file_twice_is_nothing_new(queue: LabelQueue, tmp_path: Path) -> None:
    path = answers(tmp_path, (A, "dog"), (B, ""))
    queue.absorb(path, annotator="ann", time=NOON)
    before = (files(queue), queue.state())
    again = queue.absorb(path, annotator="bob", time=NOON + HOUR, overwrite=True)
    assert (again.labelled, again.abstained, again.repeated, again.quarantined.num_rows) == (0, 0, 2, 0)
    assert (files(queue), queue.state()) == before


def test_a_conflicting_label_is_put_aside_and_the_first_stands(queue: LabelQueue, tmp_path: Path) -> None:
    queue.absorb(answers(tmp_path, (A, "dog")), annotator="ann", time=NOON)
    found = queue.absorb(answers(tmp_path, (B, "cat"), (A, "cat")), annotator="bob", time=NOON)
    assert reasons(found.quarantined) == [(1, f"label 'cat' of example {A!r} conflicts with its label 'dog'")]
    assert queue.labels()[A] == "dog"


def test_a_conflict_within_one_file_is_put_aside_even_if_it_may_overwrite(queue: LabelQueue, tmp_path: Path) -> None:
    path = answers(tmp_path, (A, "dog"), (A, "cat"), (A, "dog"))
    for overwrite in (False, True):
        found = queue.absorb(path, annotator="ann", time=NOON, overwrite=overwrite)
        assert [row for row, _ in reasons(found.quarantined)] == [1]
        assert queue.labels()[A] == "dog"


def test_a_label_is_overwritten_when_asked(queue: LabelQueue, tmp_path: Path) -> None:
    queue.absorb(answers(tmp_path, (A, "dog")), annotator="ann", time=NOON)
    found = queue.absorb(answers(tmp_path, (A, "cat")), annotator="bob", time=NOON + HOUR, overwrite=True)
    assert (found.overwritten, found.quarantined.num_rows) == (1, 0)
    assert (queue.labels()[A], queue.state()[A].annotator) == ("cat", "bob")


def test_unknown_ids_and_classes_are_put_aside(queue: LabelQueue, tmp_path: Path) -> None:
    found = queue.absorb(answers(tmp_path, (D, "cat"), (A, "Cat"), (B, "cat")), annotator="ann", time=NOON)
    assert reasons(found.quarantined) == [
        (0, f"example {D!r} was never queried"),
        (
            1,
            f"label 'Cat' of example {A!r} is no class of the corpus: "
            "correct it to 'cat', or add it to corpus.classes",
        ),
    ]
    assert (found.labelled, found.rows) == (1, 3)
    assert LabelQueue(queue.store).absorb(answers(tmp_path, (A, "Cat")), annotator="ann", time=NOON).labelled == 1


def test_rows_with_shifted_cells_are_put_aside(queue: LabelQueue, tmp_path: Path) -> None:
    path = tmp_path / "shifted.csv"
    path.write_text(f"example_id,text,label\n{A},a, b,cat\n{B},b\n{C},c,dog\n")
    found = queue.absorb(str(path), annotator="ann", time=NOON)
    assert [row for row, _ in reasons(found.quarantined)] == [0, 1]
    assert queue.labels() == {C: "dog"}


def test_an_empty_label_takes_no_label_back(queue: LabelQueue, tmp_path: Path) -> None:
    queue.absorb(answers(tmp_path, (A, "dog")), annotator="ann", time=NOON)
    found = queue.absorb(answers(tmp_path, (A, "")), annotator="bob", time=NOON, overwrite=True)
    assert (found.repeated, queue.labels()) == (1, {A: "dog"})


def test_what_waits_or_has_a_label_is_not_asked_again(queue: LabelQueue, tmp_path: Path) -> None:
    queue.absorb(answers(tmp_path, (A, "dog"), (B, "")), annotator="ann", time=NOON)
    assert queue.query([A, B, C, D, D], round=2, time=NOON + HOUR) == [B, D]
    before = files(queue)
    assert queue.query([A, B, C, D], round=3, time=NOON + HOUR) == []
    assert queue.query([], round=3, time=NOON + HOUR) == []
    assert files(queue) == before
    assert [queue.state()[key].round for key in (A, B, C, D)] == [1, 2, 1, 2]


def test_old_queries_expire_and_a_late_label_still_counts(queue: LabelQueue, tmp_path: Path) -> None:
    queue.query([D], round=2, time=NOON + 2 * HOUR)
    queue.absorb(answers(tmp_path, (A, "dog")), annotator="ann", time=NOON + HOUR)
    assert queue.expire(NOON + HOUR, time=NOON + 3 * HOUR) == sorted([B, C])
    assert queue.expire(NOON + HOUR, time=NOON + 4 * HOUR) == []
    assert queue.waiting() == [D]
    assert queue.state()[B].state == EXPIRED
    assert queue.absorb(answers(tmp_path, (B, "cat")), annotator="ann", time=NOON + 4 * HOUR).labelled == 1
    assert queue.query([C], round=3, time=NOON + 5 * HOUR) == [C]


def test_two_writers_with_the_same_number_do_not_replace_each_other(queue: LabelQueue, tmp_path: Path) -> None:
    first = queue.store.names()
    queue.absorb(answers(tmp_path, (A, "dog")), annotator="ann", time=NOON)
    (name,) = set(queue.store.names()) - set(first)
    data = queue.store.read_bytes(name)
    queue.store.delete(name)
    queue.absorb(answers(tmp_path, (A, "cat"), (B, "cat")), annotator="bob", time=NOON)
    (other,) = set(queue.store.names()) - set(first)
    queue.store.write_bytes(name, data)
    assert name.split("-")[1] == other.split("-")[1]
    assert queue.labels() == {A: "dog" if name < other else "cat", B: "cat"}
    assert queue.contradicted() == [A]
    third = "dog" if queue.labels()[A] == "cat" else "cat"
    queue.absorb(answers(tmp_path, (A, third)), annotator="cy", time=NOON + HOUR, overwrite=True)
    assert (queue.contradicted(), queue.labels()[A]) == ([], third)


EVENTS = st.lists(
    st.builds(
        lambda example_id, state, label, overwrite: {
            "example_id": example_id,
            "round": 1,
            "state": state,
            "label": label if state == LABELLED else None,
            "annotator": None,
            "time": NOON,
            "overwrite": overwrite and state == LABELLED,
        },
        st.sampled_from([A, B]),
        st.sampled_from([QUERIED, LABELLED, ABSTAINED, EXPIRED]),
        st.sampled_from(["cat", "dog"]),
        st.booleans(),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(EVENTS)
def test_an_event_told_twice_in_a_row_changes_nothing(events: list[dict[str, object]]) -> None:
    assert fold([event for event in events for _ in range(2)]) == fold(events)


@settings(deadline=None)
@given(EVENTS)
def test_a_label_once_given_stays_unless_overwritten(events: list[dict[str, object]]) -> None:
    for example_id in (A, B):
        own = [event for event in events if event["example_id"] == example_id]
        given_labels = [event["label"] for event in own if event["state"] == LABELLED]
        after = [event for event in own if event["overwrite"]]
        if given_labels:
            assert fold(events)[example_id].label == (after[-1]["label"] if after else given_labels[0])


def test_what_is_put_aside_is_kept_once(queue: LabelQueue, tmp_path: Path) -> None:
    path = answers(tmp_path, (D, "cat"), (A, "bird"), (B, "cat"))
    found = queue.absorb(path, annotator="ann", time=NOON)
    assert found.file is not None
    assert queue.store.read_table(found.file.removeprefix(queue.store.root + "/")).equals(found.quarantined)
    assert queue.absorb(path, annotator="ann", time=NOON + HOUR).file == found.file
    assert len(queue.store.at("quarantine").names()) == 1
    assert queue.labels() == {B: "cat"}


def test_a_file_without_any_label_is_taken_for_a_mistake(queue: LabelQueue, tmp_path: Path) -> None:
    blank = answers(tmp_path, (A, ""), (B, " "), (C, ""))
    before = (files(queue), queue.state())
    with pytest.raises(InputError, match=r"no label in any of its 3 rows.*--abstain"):
        queue.absorb(blank, annotator="ann", time=NOON)
    assert (files(queue), queue.state()) == before
    assert queue.absorb(blank, annotator="ann", time=NOON, abstain=True).abstained == 3
    assert queue.absorb(blank, annotator="ann", time=NOON).repeated == 3
    empty = answers(tmp_path, name="empty.csv")
    assert queue.absorb(empty, annotator="ann", time=NOON).rows == 0


def test_names_come_back_with_other_spaces_and_as_numbers(tmp_path: Path) -> None:
    own = LabelQueue(Store(str(tmp_path / "queue")), ("3", "10", " cat", "1.0"))
    ids = [" d 1 ", "naïve ключ", "a,b", 'say "x"', "=1+1", "two\nlines", "x", " x"]
    own.query(ids, round=0, time=NOON)
    sheet = str(tmp_path / "sheet.csv")
    export(pa.table({"example_id": ids}), sheet)
    assert [key for _, key, _ in read_labels(sheet)] == ids
    rows = [("d 1", "3.0"), ("naïve ключ", "10"), ("=1+1", "cat "), ("x", "1.0"), (" x", "3,00"), ("X", "3")]
    pq.write_table(
        pa.table({"example_id": [r[0] for r in rows], "label": [r[1] for r in rows]}), tmp_path / "a.parquet"
    )
    found = own.absorb(str(tmp_path / "a.parquet"), annotator="ann", time=NOON)
    assert [reason for _, reason in reasons(found.quarantined)] == ["example 'X' was never queried"]
    assert own.labels() == {" d 1 ": "3", "naïve ключ": "10", "=1+1": " cat", "x": "1.0", " x": "3"}


def test_ids_that_a_spreadsheet_has_rounded_are_told_so(queue: LabelQueue, tmp_path: Path) -> None:
    found = queue.absorb(answers(tmp_path, ("1.23457E+15", "cat"), (A, "cat")), annotator="ann", time=NOON)
    assert "keep that column as text" in found.quarantined["reason"][0].as_py()


def test_a_class_that_nobody_knows_is_put_aside_until_it_is_added(queue: LabelQueue, tmp_path: Path) -> None:
    path = answers(tmp_path, (A, "zebra"), (B, "dog"))
    found = queue.absorb(path, annotator="ann", time=NOON)
    assert "corpus.classes" in found.quarantined["reason"][0].as_py()
    again = LabelQueue(queue.store, ("cat", "dog", "zebra")).absorb(path, annotator="ann", time=NOON)
    assert (again.labelled, again.repeated, again.quarantined.num_rows) == (1, 1, 0)


def test_a_queue_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    below = LabelQueue(Store(str(tmp_path / "file")))
    with pytest.raises(InputError, match=r"label queue .*file cannot be reached"):
        below.query([A], round=0, time=NOON)


def test_a_broken_file_of_events_is_named(tmp_path: Path) -> None:
    queue = LabelQueue(Store(str(tmp_path)))
    queue.query([A], round=1, time=NOON)
    (name,) = queue.store.names()
    queue.store.write_bytes(name, queue.store.read_bytes(name)[:-5])
    with pytest.raises(InputError, match=name):
        queue.state()
    (tmp_path / name).rename(tmp_path / "notes.txt")
    assert queue.state() == {}


def test_a_time_without_a_zone_is_refused(queue: LabelQueue) -> None:
    with pytest.raises(InputError, match="no time zone"):
        queue.query([D], round=1, time=NOON.replace(tzinfo=None))
    with pytest.raises(InputError, match="no time zone"):
        queue.expire(NOON.replace(tzinfo=None), time=NOON)
