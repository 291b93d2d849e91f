"""What is published is whole, and what is not whole is not published."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raydelt.errors import InputError
from raydelt.storage import Stage, Store, fingerprint, read_manifest

TABLE = pa.table({"a": [1, 2, 3]})


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    return Store(f"memory://{request.node.name}")


def test_a_stage_is_published_only_by_its_manifest(store: Store) -> None:
    stage = Stage(store, "scores", fingerprint("a"))
    part = store.write_table(stage.file("part", 0), TABLE)
    assert stage.published() is None
    stage.publish([part], {"k": 1}, {"quarantine": [part]})
    found = stage.published()
    assert found is not None
    assert (found.rows, found.facts, found.parts, found.sides) == (3, {"k": 1}, [part], {"quarantine": [part]})


def test_another_fingerprint_finds_nothing_and_replaces_the_files(store: Store) -> None:
    first, second = Stage(store, "scores", fingerprint("a")), Stage(store, "scores", fingerprint("b"))
    old = store.write_table(first.file("part", 0), TABLE)
    aside = store.write_table(first.file("part-score", 0, folder="quarantine"), TABLE)
    first.publish([old], {}, {"quarantine": [aside]})
    assert second.published() is None
    new = store.write_table(second.file("part", 0), TABLE)
    assert store.exists(old.file), "the earlier version stays readable until the next one is published"
    second.publish([new], {})
    assert not store.exists(old.file)
    assert not store.exists(aside.file)
    assert store.exists(new.file)
    assert first.published() is None


@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_missing_or_truncated_file_unpublishes_the_stage(store: Store, fault: str) -> None:
    stage = Stage(store, "scores", fingerprint("a"))
    part = store.write_table(stage.file("part", 0), TABLE)
    stage.publish([part], {})
    if fault == "missing":
        store.delete(part.file)
    else:
        store.write_bytes(part.file, store.read_bytes(part.file)[:-1])
    assert stage.published() is None


def test_equal_tables_give_equal_bytes(store: Store) -> None:
    assert store.write_table("a.parquet", TABLE).digest == store.write_table("b.parquet", TABLE).digest


def test_a_file_that_stands_is_described_as_it_was_written(store: Store) -> None:
    assert store.write_table("a.parquet", TABLE) == store.described("a.parquet")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write_bytes("a", b"old")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        store.write_bytes("a", b"new")
    assert store.read_bytes("a") == b"old"
    assert store.names() == ["a"]


def test_names_never_leave_the_run(store: Store) -> None:
    with pytest.raises(InputError, match=r"must not contain '\.\.'"):
        store.write_bytes("../elsewhere", b"")


def test_an_unwritable_place_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"output .* cannot be written .*: choose another `output`"):
        Store(str(tmp_path / "file" / "run")).check_writable()


def test_a_broken_manifest_is_told_with_the_cure(store: Store) -> None:
    store.write_bytes("scores/manifest.json", b'{"stage": ')
    with pytest.raises(InputError, match=r"not valid JSON .*: delete the file and run again"):
        read_manifest(store, "scores")


def test_the_fingerprint_follows_content_not_key_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
