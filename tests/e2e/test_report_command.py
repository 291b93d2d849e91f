"""`raydelt report` on what is no finished run: exit code 2 and one sentence that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.asked import Asked, Made
from tests.reported import finish

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return finish(Asked(rows=300).make(tmp_path / "a run"))


def refused(*arguments: str) -> str:
    """The sentence that a command ends with."""
    command = [sys.executable, "-m", "raydelt", "report", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("raydelt: ")
    return line


def test_a_directory_without_a_run_or_with_half_of_one(tmp_path: Path) -> None:
    assert "holds no raydelt run" in refused(str(tmp_path))
    unfinished = Asked(rows=200, trained=False).make(tmp_path / "half")
    assert "is not finished (it has no model)" in refused(unfinished.store.root)
    assert "has no version 4" in refused(f"{unfinished.store.root}@4")


def test_a_run_that_lost_a_file_or_is_of_another_version(made: Made) -> None:
    place, file = made.store.root, made.manifests["ranking"].parts[1].file
    data = made.store.read_bytes(file)
    made.store.delete(file)
    assert f"{file} is missing: delete the folder 'ranking'" in refused(place)
    made.store.write_bytes(file, data)
    spec = made.store.read_json("spec.json")
    made.store.write_json("spec.json", spec | {"rank": spec["rank"] | {"folds": "many"}})
    assert "cannot read it (rank.folds" in refused(place)


def test_settings_are_given_to_specs_alone(made: Made) -> None:
    assert "-o changes a spec" in refused(made.store.root, "-o", "report.html=false")
