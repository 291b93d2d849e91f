"""Asking a run as a user does: `why`, `diff`, `show` and `export`, on a run that was made without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.asked import Asked, Made

ROOT = Path(__file__).parents[2]
NASTY = ("<script>alert(1)</script>", "שלום עולם", "a\x1b[2Jb\x00", "👩‍👩‍👧‍👦 fine", "x" * 100_000)


def raydelt(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raydelt", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Asked(rows=500, texts=NASTY).make(tmp_path_factory.mktemp("asked") / "a run")


def test_why_answers_in_words_and_as_json(made: Made) -> None:
    place, lowest = made.store.root, made.selection.slice(0, 1).to_pylist()[0]
    told = raydelt("why", place, lowest["example_id"]).stdout
    assert f"{lowest['example_id']}: kept" in told
    assert f"position {lowest['position']} of {made.selection.num_rows}" in told
    assert "above the cut" in told
    found = json.loads(raydelt("why", place, lowest["example_id"][:10], "--json").stdout)
    keys = {"id", "run", "version", "state", "split", "example", "components", "percentiles", "combined", "rule"}
    assert keys | {"order", "history", "neighbours", "quarantine"} <= found.keys()
    assert found["combined"]["rank"] == lowest["rank"]
    assert (
        json.loads(raydelt("why", place, made.test["example_id"][0].as_py(), "--json").stdout)["state"] == "held out"
    )


def test_a_wrong_question_is_one_sentence(made: Made, tmp_path: Path) -> None:
    place = made.store.root
    (tmp_path / "mine" / "work").mkdir(parents=True)
    for arguments, words in (
        (["why", place, "no-such-id"], "no example 'no-such-id'"),
        (["why", str(tmp_path), "x"], "holds no raydelt run"),
        (["diff", place, f"{place}@4"], "has no version 4"),
        (["show", place, "--top", "-1"], "give 0 or more"),
        (["export", place, "--to", "csv", "--out", str(tmp_path / "o")], "--to 'csv' is no format"),
        (["export", place, "--to", "jsonl", "--out", str(tmp_path / "mine" / "work")], "--force"),
        (
            ["export", place, "--to", "jsonl", "--out", str(tmp_path / "mine"), "--force"],
            "other things than an export",
        ),
    ):
        done = raydelt(*arguments, code=2)
        [line] = done.stderr.strip().splitlines()
        assert line.startswith("raydelt: ")
        assert words in line
        assert done.stdout == ""


def test_show_lists_examples_that_cannot_steer_the_terminal(made: Made) -> None:
    told = raydelt("show", made.store.root, "--top", "8", "--bottom", "8", "--borderline", "8").stdout
    assert "\x1b" not in told
    assert "\x00" not in told
    assert max(map(len, told.splitlines())) < 400
    found = json.loads(raydelt("show", made.store.root, "--top", "3", "--json").stdout)
    assert [own["id"] for own in found["top"]] == made.ranking["example_id"].to_pylist()[-3:][::-1]


def test_diff_of_two_runs(made: Made, tmp_path: Path) -> None:
    other = Asked(rows=500, seed=1, share=0.2).make(tmp_path / "other")
    told = raydelt("diff", made.store.root, other.store.root).stdout
    assert "spec select.value: 0.4 -> 0.2" in told
    found = json.loads(raydelt("diff", made.store.root, other.store.root, "--json").stdout)
    assert found["selection"]["both"] == len(made.kept & other.kept)


def test_export_writes_the_selection_and_all(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out put"
    raydelt("export", made.store.root, "--to", "parquet", "--out", str(out))
    first = pq.ParquetFile(out / "part-00000.parquet").read()
    assert first["position"].to_pylist() == list(range(made.selection.num_rows))
    found = json.loads(
        raydelt("export", made.store.root, "--to", "hf", "--out", str(out), "--all", "--force", "--json").stdout
    )
    assert found["rows"] == made.scores.num_rows
    assert not (out / "part-00000.parquet").exists()
