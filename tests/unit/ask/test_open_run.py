"""Opening runs and versions: which one is asked, what it gives, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

import raydelt
from raydelt.ask.dataset import OrderedDataset
from raydelt.ask.examples import listed
from raydelt.ask.run import Run
from raydelt.ask.text import ISOLATE, plain, snippet
from raydelt.ask.told import why_lines
from raydelt.errors import InputError
from tests.asked import Asked, Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Asked(rows=300).make(tmp_path / "run")


def test_importing_raydelt_is_cheap() -> None:
    heavy = "('torch', 'ray', 'pandas', 'pyarrow', 'numpy')"
    code = f"import sys, raydelt; print([m for m in {heavy} if m in sys.modules]); raydelt.Run"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert raydelt.Run is Run
    with pytest.raises(AttributeError, match="nothing"):
        _ = raydelt.nothing


def test_tables_come_as_they_are_asked_for(made: Made) -> None:
    run = Run.open(made.store.root)
    assert run.scores().select(made.scores.column_names).equals(made.scores)
    assert run.ranking().equals(made.ranking)
    frame = run.scores(["difficulty"], as_="pandas")
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["example_id", "difficulty"]
    assert isinstance(run.selection(as_="polars"), polars.DataFrame)
    assert run.spec.select.value == 0.4
    assert run.manifest("corpus").rows == made.corpus.num_rows
    [one] = run.examples([made.scores["example_id"][5].as_py()])
    assert one["components"]["diversity"] == made.scores["diversity"][5].as_py()
    with pytest.raises(InputError, match="has no column 'nothing'"):
        run.scores(["nothing"])


def test_the_current_version_is_asked_unless_another_is_named(made: Made, tmp_path: Path) -> None:
    root = Path(made.store.root)
    Asked(rows=300, seed=1).make(root / "versions" / "v000001")
    assert Run.open(str(root)).version == 0
    told = {"version": 1, "place": "versions/v000001", "published": 1.0, "token": 0}
    (root / "current.json").write_text(json.dumps(told))
    assert Run.open(str(root)).version == 1
    assert Run.open(f"{root}@0").store.root == str(root)
    for place in (f"{root}@1", f"{root}/versions/v000001"):
        run = Run.open(place)
        assert (run.version, run.root.root) == (1, str(root))
        assert run.scores()["difficulty"] != Run.open(f"{root}@0").scores()["difficulty"]
    with pytest.raises(InputError, match=r"has no version 7: there are 0, 1"):
        Run.open(f"{root}@7")
    shutil.rmtree(root / "versions" / "v000001")
    with pytest.raises(InputError, match="which is missing"):
        Run.open(str(root))


def _remove(folder: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / folder)


def _unlink(root: Path) -> None:
    next((root / "scores").glob("*.parquet")).unlink()


def _truncate(root: Path) -> None:
    for path in (root / "scores").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])


def _foreign_spec(root: Path) -> None:
    (root / "spec.json").write_text(json.dumps({"old": 1}))


def _foreign_manifest(root: Path) -> None:
    (root / "ranking" / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_remove("ranking"), "has no ranking yet: `raydelt rank SPEC` makes it"),
        (_remove("scores"), "has no scores yet: `raydelt score SPEC` makes it"),
        (_unlink, r"scores/part-.* is missing"),
        (_truncate, r"scores/part-.* cannot be read"),
        (_foreign_spec, "spec.json was written by raydelt"),
        (_foreign_manifest, "manifest.json was written by raydelt"),
    ],
)
def test_what_is_wrong_with_a_run_is_one_sentence(made: Made, harm: Callable[[Path], None], words: str) -> None:
    harm(Path(made.store.root))

    def ask() -> None:
        run = Run.open(made.store.root)
        run.scores()
        listed(run, top=3, borderline=3)

    with pytest.raises(InputError, match=words):
        ask()


def test_a_place_without_a_run(tmp_path: Path) -> None:
    for place in (str(tmp_path), f"{tmp_path}@3", str(tmp_path / "none")):
        with pytest.raises(InputError, match="holds no raydelt run"):
            Run.open(place)


@pytest.mark.parametrize("balanced", [False, True])
def test_top_bottom_and_borderline(balanced: bool, tmp_path: Path) -> None:
    made = Asked(rows=600, ranges=5, balanced=balanced, gate=not balanced).make(tmp_path / "run")
    found = listed(Run.open(made.store.root), top=150, bottom=7, borderline=9)
    ids = made.ranking["example_id"].to_pylist()
    assert [own["id"] for own in found["top"]] == ids[-150:][::-1]
    assert [own["id"] for own in found["bottom"]] == ids[:7][::-1]
    assert all(own["kept"] == (own["id"] in made.kept) for kind in ("top", "bottom") for own in found[kind])
    table = made.ranking.filter(made.ranking["gate"])
    kept = np.isin(table["example_id"].to_pylist(), list(made.kept))
    score, label = table["score"].to_numpy(), table["label"].to_numpy()
    cut = np.array([score[kept & (label == own)].min() if balanced else score[kept].min() for own in label])
    nearest = np.lexsort((table["rank"].to_numpy(), np.abs(score - cut)))[:9]
    assert {own["id"] for own in found["borderline"]} == {table["example_id"][int(i)].as_py() for i in nearest}
    scores = {own["example_id"]: own for own in made.scores.to_pylist()}
    assert all(own["components"]["diversity"] == scores[own["id"]]["diversity"] for own in found["top"])


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 0), (2, 2)])
def test_readers_share_the_order_without_duplicates(made: Made, world: int, workers: int) -> None:
    run, seen = Run.open(made.store.root), []
    for rank in range(world):
        own = OrderedDataset(run, rank=rank, world=world)
        loader = DataLoader(
            own, batch_size=7, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        batches = [batch["position"].tolist() for batch in loader]
        seen.append([position for batch in batches for position in batch])
        assert len(seen[-1]) == len(own)
    assert sorted(position for own in seen for position in own) == list(range(made.selection.num_rows))
    if workers == 0:
        assert all(own == list(range(rank, made.selection.num_rows, world)) for rank, own in enumerate(seen))
    rows = {row["position"]: row for row in made.selection.to_pylist()}
    first = next(iter(run.ordered()))
    assert first["example_id"] == rows[0]["example_id"]
    at = made.corpus["example_id"].to_pylist().index(first["example_id"])
    assert first["x"].tolist() == made.corpus["x"][at].as_py()
    assert first["label"] == made.corpus["label"][at].as_py()


def test_equal_shares_where_asked_for(made: Made) -> None:
    run = Run.open(made.store.root)
    shares = [len(list(OrderedDataset(run, rank=rank, world=5, drop_last=True))) for rank in range(5)]
    assert shares == [made.selection.num_rows // 5] * 5


def test_texts_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[31mb\x00\r\n\tc\u202ed\u200fe") == "a[31mb cde"
    assert snippet(None, 5) == ""
    assert snippet("abcdef", 6) == "abcdef"
    assert snippet("abcdefg", 6) == "abcde…"
    assert snippet("日本語日本語", 7) == "日本語…"
    assert snippet("שלום", 10).startswith(ISOLATE)
    family = "👩‍👩‍👧‍👦"
    assert snippet(f"ab{family}cdefghijkl", 6) in (f"ab{family}c…", f"ab{family}…", "ab…")
    assert snippet("e\u0301" * 9, 4) == "e\u0301" * 3 + "…"
    assert len(snippet("x" * 10**7, 40)) == 40


def test_ids_and_classes_cannot_steer_the_terminal_either(tmp_path: Path) -> None:
    rule = dict.fromkeys(("distance", "probability", "plan")) | {"text": "left: not of class a\x1b[2Jb"}
    found = dict.fromkeys(("quarantine", "example", "components", "combined", "order", "history", "neighbours"))
    assert list(why_lines(found | {"id": "x", "state": "left", "rule": rule}))[1] == "  left: not of class a[2Jb"
    made = Asked(rows=60, parts=1, ranges=1, partitions=False).make(tmp_path / "run")
    part = made.manifests["corpus"].parts[0]
    ids = [f"{'near' if row < 2 else 'far'}-\x1b[2J{row}" for row in range(part.rows)]
    table = made.store.read_table(part.file)
    made.store.write_table(part.file, table.set_column(0, "example_id", pa.array(ids)))
    for asked, words in (
        ("near", r"2 examples \(near-\[2J0, near-\[2J1\)"),
        ("near-\x1b[2J0x", r"did you mean near-\[2J0"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            Run.open(made.store.root).why(asked)
        assert "\x1b" not in str(caught.value)


def test_the_arrow_of_an_empty_selection_of_columns_is_the_ids(made: Made) -> None:
    assert Run.open(made.store.root).scores([]).equals(pa.table({"example_id": made.scores["example_id"]}))
