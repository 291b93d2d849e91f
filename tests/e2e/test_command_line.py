"""The program as a user meets it: exit codes, one sentence for what can be mended, resuming, doing nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flow import digests, spec, write_digits

ROOT = Path(__file__).parents[2]


def raydelt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raydelt", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def write_spec(folder: Path, **changes: Any) -> Path:
    """A small spec on real digits; see tests.flow.spec."""
    source = folder / "in"
    if not source.exists():
        write_digits(source, rows=300)
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec(source, folder / "out", cluster={"num_cpus": 2}, **changes).resolved()))
    return path


def change(path: Path, **fields: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("raydelt: ")
    assert all(word in last for word in words), last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_needs_neither_torch_nor_ray() -> None:
    code = "import sys, raydelt.cli; print([m for m in ('torch', 'ray', 'pandas', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    assert raydelt("--help").returncode == 0


def test_the_schema_is_json() -> None:
    assert "properties" in json.loads(raydelt("schema").stdout)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"selct": {}}, ["selct", "did you mean 'select'?"]),
        ({"select": {"value": 0}}, ["value 0.0 must lie in (0, 1]"]),
        ({"corpus": {"source": "no/such/file.parquet", "label_column": "label"}}, ["no/such/file.parquet"]),
        ({"corpus": {"source": "builtin://digitz"}}, ["builtin://digitz"]),
        ({"model": {"kind": "torch", "factory": "no.such:thing"}}, ["model.factory 'no.such:thing' cannot be loaded"]),
        ({"corpus": {"source": "x.csv", "label_column": "y", "test": {"fraction": 0}}}, ["leaves no test split"]),
        ({"rank": {"method": "score"}}, ["set model.checkpoint"]),
        ({"cluster": {"address": "127.0.0.1:1"}}, ["cluster.address '127.0.0.1:1' cannot be reached"]),
    ],
)
def test_a_wrong_spec_is_exit_code_2_with_one_sentence(
    tmp_path: Path, fields: dict[str, Any], words: list[str]
) -> None:
    path = write_spec(tmp_path)
    change(path, **fields)
    assert_one_sentence(raydelt("run", str(path)), 2, *words)


def test_places_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = write_spec(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert_one_sentence(raydelt("run", str(path), "-o", f"output={tmp_path}/file/x"), 2, "cannot be written")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    assert_one_sentence(raydelt("run", str(path), "-o", f"output={tmp_path}/full"), 2, "holds no raydelt run")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_showing_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert_one_sentence(raydelt("verify", str(tmp_path)), 2, "holds no raydelt run")
    assert_one_sentence(raydelt("show", str(tmp_path)), 2, "holds no raydelt run")


@pytest.mark.timeout(900)
def test_a_run_ends_with_its_result_and_a_second_does_nothing(tmp_path: Path) -> None:
    path = write_spec(tmp_path)
    first = raydelt("run", str(path))
    assert first.returncode == 0, first.stderr
    assert "Traceback" not in first.stderr
    for stage in ("corpus", "proxies", "scores", "ranking", "selection", "ordered", "model", "report"):
        assert f"{stage} " in first.stderr
    assert "kept" in first.stdout
    assert (tmp_path / "out" / "report" / "index.html").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    second = raydelt("run", str(path))
    assert second.returncode == 0
    assert "nothing to do" in second.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")} == before

    found = json.loads(raydelt("show", str(tmp_path / "out"), "--json").stdout)
    assert found["summary"]["selection"]["kept"] > 0

    verified = raydelt("verify", str(tmp_path / "out"), "--json")
    assert verified.returncode == 0, verified.stderr
    assert {verdict["accepted"] for verdict in json.loads(verified.stdout)} == {True}
    third = raydelt("run", str(path), "-o", "select.value=0.25")
    lines = {line.split()[0]: line for line in third.stderr.splitlines() if line}
    assert all("up to date" in lines[stage] for stage in ("corpus", "proxies", "scores", "ranking"))
    assert all("up to date" not in lines[stage] for stage in ("selection", "ordered", "model", "report"))

    assert_one_sentence(raydelt("run", str(path), "-o", "seed=6"), 2, "belongs to another spec", "seed is 5 there")


@pytest.mark.timeout(900)
def test_a_run_killed_in_the_middle_goes_on_from_its_finished_stages(tmp_path: Path) -> None:
    path = write_spec(tmp_path)
    whole = raydelt("order", str(path), "-o", f"output={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen(
        [sys.executable, "-m", "raydelt", "order", str(path)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "out" / "proxies" / "manifest.json").exists():
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    again = raydelt("order", str(path))
    assert again.returncode == 0, again.stderr
    lines = {line.split()[0]: line for line in again.stderr.splitlines() if line}
    assert "up to date" in lines["corpus"]
    assert "up to date" in lines["proxies"]
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
