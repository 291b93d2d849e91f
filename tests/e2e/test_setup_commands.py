"""From one's own CSV to a report by the commands that a new user takes, and what they say where that cannot be."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sklearn.datasets import load_iris

ROOT = Path(__file__).parents[2]


def raydelt(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raydelt", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


def write_flowers(path: Path) -> None:
    bundle = load_iris()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sepal length", "sepal width", "petal length", "petal width", "species"])
        for x, y in zip(bundle.data, bundle.target, strict=True):
            writer.writerow([*x, bundle.target_names[y]])


@pytest.mark.slow
def test_init_doctor_and_run_on_a_csv_of_ones_own(tmp_path: Path) -> None:
    write_flowers(tmp_path / "my flowers.csv")
    made = raydelt("init", "my flowers.csv", "--json", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["label"] == "species"

    checked = raydelt("doctor", "spec.yaml", "--json", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    checks = {check["check"]: check for check in json.loads(checked.stdout)["checks"]}
    assert checks["ray"]["state"] == "ok"
    assert checks["classes"]["state"] == "ok"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my flowers.csv", "spec.yaml"]

    fewer = ("-o", "train.seeds=[0]", "-o", "train.recipe.steps=50", "-o", "rank.folds=2", "-o", "rank.rounds=2")
    done = raydelt("run", "spec.yaml", *fewer, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "my-flowers" / "report" / "index.html").exists()
    assert "kept" in done.stdout

    again = raydelt("init", "my flowers.csv", folder=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "--force" in again.stderr


def test_doctor_says_what_would_stop_a_run(tmp_path: Path) -> None:
    write_flowers(tmp_path / "d.csv")
    assert raydelt("init", "d.csv", "--to", "s.yaml", folder=tmp_path).returncode == 0
    raw = yaml.safe_load((tmp_path / "s.yaml").read_text())
    raw |= {"output": "/sys/nowhere", "cluster": {"actors": {"num_gpus": 64}, "address": "127.0.0.1:1"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(raw))
    done = raydelt("doctor", "s.yaml", folder=tmp_path)
    assert done.returncode == 2
    failed = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("fail")}
    assert "/sys/nowhere" in failed["output"]
    assert "127.0.0.1:1" in failed["ray"]
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rnu", "spec.yaml"), "Did you mean 'run'?"),
        (("plan", "prob", "spec.yaml"), "Did you mean 'probe'?"),
        (("label", "nxt"), "Did you mean 'next'?"),
        (("run", "--josn", "spec.yaml"), "--json"),
        (("run", "spec.yml"), "did you mean 'spec.yaml'?"),
        (("init", "flowers.cvs", "--to", "new.yaml"), "did you mean 'flowers.csv'?"),
        (("show", "runs/flowrs"), "flowers'?"),
    ],
)
def test_a_slip_is_answered_with_the_nearest(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    write_flowers(tmp_path / "flowers.csv")
    (tmp_path / "spec.yaml").write_text("name: x\n")
    (tmp_path / "runs" / "flowers").mkdir(parents=True)
    done = raydelt(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())
