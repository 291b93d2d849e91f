"""Commands that score again, as a user meets them before there is anything to score."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.flow import spec, write_digits

ROOT = Path(__file__).parents[2]


def raydelt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raydelt", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    config = spec(write_digits(tmp_path / "in", rows=50), tmp_path / "run")
    path.write_text(yaml.safe_dump(config.resolved()))
    return path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("rescore", "nowhere"), "holds no raydelt run"),
        (("rescore", "{spec}"), "run `raydelt score SPEC` first"),
        (("rescore", "{spec}", "--until", "scores"), "'scores' is not one of"),
        (("schedule", "{spec}", "--cron", "0 3 * * *", "--until", "scores"), "'scores' is not one of"),
        (("rescore", "{spec}", "--since", "yesterday"), "--since 'yesterday' is no time"),
        (("rescore", "{spec}", "--since", "2999-01-01"), "lies in the future"),
        (("submit", "{spec}", "--since", "1d"), "--since '1d' is for --job rescore"),
        (("submit", "{spec}", "--job", "rescore", "--since", "soon"), "--since 'soon' is no time"),
        (("schedule", "{spec}", "--cron", "now and then"), "is no cron line"),
        (("schedule", "{spec}", "--cron", "0 3 * * *", "--timezone", "Mars"), "is not known"),
        (
            ("schedule", "{spec}", "--cron", "0 3 * * *", "--until", "model", "--manifest", "x"),
            "--until model is not",
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(spec_file: Path, arguments: tuple[str, ...], told: str) -> None:
    done = raydelt(*(argument.format(spec=spec_file) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_manifest_holds_the_spec_and_the_times(spec_file: Path, tmp_path: Path) -> None:
    made = tmp_path / "job.yaml"
    done = raydelt("schedule", str(spec_file), "--cron", "0 3 * * *", "--manifest", str(made))
    assert done.returncode == 0, done.stderr
    config, job = yaml.safe_load_all(made.read_text())
    assert yaml.safe_load(config["data"]["run.yaml"])["name"] == "small"
    assert job["spec"]["schedule"] == "0 3 * * *"
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:3] == ["submit", "/etc/raydelt/run.yaml", "--job=rescore"]
