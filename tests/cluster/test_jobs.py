"""Jobs on a real cluster with token authentication: ids, exit codes, following, stopping, refusals, secrets."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.flow import spec, write_digits

ROOT = Path(__file__).parents[2]
TOKEN = "planted-token-0123456789abcdef"
CHEAP = {"score": [{"kind": "difficulty"}], "rank": {"folds": 2, "rounds": 1, "combine": {"gate": None}}}
SLOW = "import sys, time, raydelt\nprint('from', raydelt.__file__, file=sys.stderr, flush=True)\ntime.sleep(600)\n"


@dataclass(frozen=True)
class Head:
    """A cluster of one node on loopback, which wants a token."""

    port: int
    gcs: str
    folder: Path
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetched(self, path: str) -> str:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def command(self, *arguments: str, cwd: Path = ROOT, **environment: str | None) -> list[Any]:
        changed = self.environment | environment
        kept = {name: value for name, value in changed.items() if value is not None}
        return [[sys.executable, "-m", "raydelt", *arguments, "--address", self.url], {"cwd": cwd, "env": kept}]

    def raydelt(
        self, *arguments: str, cwd: Path = ROOT, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        command, options = self.command(*arguments, cwd=cwd, **environment)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, **options)

    def jobs(self) -> list[dict[str, Any]]:
        return [job for job in json.loads(self.fetched("/api/jobs/")) if job["submission_id"]]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))
    ports = _free_ports(6)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "port": ports[0],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports[1],
        "node-ip-address": "127.0.0.2",  # Ray takes 127.0.0.1 for a wish to be reached from outside
        "num-cpus": 2,
        "object-store-memory": 100_000_000,
        "temp-dir": folder / "ray",
        "dashboard-agent-listen-port": ports[2],
        "dashboard-agent-grpc-port": ports[3],
        "metrics-export-port": ports[4],
        "ray-client-server-port": ports[5],
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    with open(folder / "head.log", "wb") as log:
        process = psutil.Popen(
            [*ray, *(f"--{name}={value}" for name, value in options.items())],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    head = Head(ports[1], f"127.0.0.2:{ports[0]}", folder, environment)
    try:
        _wait_until_up(head, process)
        yield head
        assert process.poll() is None, (folder / "head.log").read_text()
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Free ports between those of Ray's workers and those that connections take."""
    free: list[int] = []
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
        if len(free) == count:
            return free
    raise AssertionError("no free ports")


def _wait_until_up(head: Head, process: psutil.Popen) -> None:
    """Up means that the node is known, and that the monitor has reported that no autoscaler is there."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, (head.folder / "head.log").read_text()
        with contextlib.suppress(OSError):
            if re.search("node_?[0-9a-f]{56}", head.fetched("/api/cluster_status"), re.IGNORECASE):
                return
        time.sleep(0.5)
    raise AssertionError((head.folder / "head.log").read_text())


def _end(process: psutil.Popen) -> None:
    """End exactly what this head started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def project(folder: Path, **changes: Any) -> Path:
    """A working directory with a spec, and data beside it."""
    work = folder / "work"
    work.mkdir()
    config = spec(write_digits(folder / "in", rows=120), folder / "out", **changes).resolved()
    (work / "spec.yaml").write_text(yaml.safe_dump(config))
    return work


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("raydelt: ")
    assert all(word in line for word in words), line


def test_a_run_succeeds_is_the_same_job_twice_and_shows_no_secret(head: Head, tmp_path: Path) -> None:
    folder = project(tmp_path, **CHEAP)
    arguments = ["submit", "spec.yaml", "--job", "order", "--owner", "ada", "--env", "COLOUR"]
    done = head.raydelt(*arguments, "--wait", cwd=folder, COLOUR="mauve", AWS_SECRET_ACCESS_KEY="planted-key")
    assert done.returncode == 0, done.stdout + done.stderr
    name = done.stdout.splitlines()[0].removeprefix("submitted ")
    assert json.loads((tmp_path / "out/run.json").read_text())["stages"]["ordered"]["rows"] > 0
    assert "ordered" in done.stdout

    [job] = [job for job in head.jobs() if job["submission_id"] == name]
    assert job["status"] == "SUCCEEDED"
    assert job["metadata"]["raydelt.owner"] == "ada"
    assert job["metadata"]["raydelt.corpus"] == str(tmp_path / "in")
    assert job["runtime_env"]["env_vars"] == {"COLOUR": "mauve"}

    told = head.raydelt(*arguments, "--json", cwd=folder, COLOUR="mauve")
    assert json.loads(told.stdout) == {"id": name, "new": False, "status": "SUCCEEDED"}
    status = head.raydelt("status", name, "--json").stdout
    assert json.loads(status)["exit_code"] == 0
    assert "mauve" not in status

    written = [path for path in (head.folder / "ray").rglob("*") if path.is_file() and not path.is_symlink()]
    arguments_of_all = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    shown = [head.fetched("/api/jobs/"), status, done.stdout, done.stderr, *arguments_of_all]
    for secret in (TOKEN, "planted-key"):
        assert not any(secret in text for text in shown)
        assert not [path for path in written if secret.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_rescoring_is_a_job_that_is_submitted_again_once_it_has_ended(head: Head, tmp_path: Path) -> None:
    folder = project(tmp_path, **CHEAP)
    arguments = ["submit", "spec.yaml", "--job", "rescore"]
    first = head.raydelt(*arguments, "--wait", cwd=folder)
    assert first.returncode == 0, first.stdout + first.stderr
    name = first.stdout.splitlines()[0].removeprefix("submitted ")
    assert (tmp_path / "out" / "scores" / "manifest.json").exists(), "a run that never was scored is"
    again = head.raydelt("submit", str(tmp_path / "out"), "--job", "rescore", "--since", "1d", "--wait", cwd=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing changed" in again.stdout
    timed = [head.raydelt(*arguments, "--id", "due-1", "--wait", cwd=folder).stdout for _ in range(2)]
    assert timed[0].startswith("submitted due-1")
    assert timed[1].startswith("due-1 is there already, succeeded")
    assert head.raydelt(*arguments, cwd=folder).stdout == f"submitted {name}-2\n"
    wrong = head.raydelt("submit", "spec.yaml", "--since", "1d", cwd=folder)
    assert_one_sentence(wrong, "--since '1d' is for --job rescore")


def test_a_failing_job_ends_with_its_exit_code_and_is_attempted_anew(head: Head, tmp_path: Path) -> None:
    folder = project(tmp_path, model={"kind": "torch", "factory": "absent:net"})
    first = head.raydelt("submit", "spec.yaml", "--wait", cwd=folder)
    assert_one_sentence(first, "failed (exit code 2)")
    assert "raydelt: model.factory 'absent:net' cannot be loaded" in first.stdout
    name = first.stdout.splitlines()[0].removeprefix("submitted ")
    (folder / "absent.py").write_text(SLOW)
    changed = head.raydelt("submit", "spec.yaml", "--id", name, cwd=folder)
    assert_one_sentence(changed, "belongs to a job of another spec or code")
    (folder / "absent.py").unlink()
    again = head.raydelt("submit", "spec.yaml", cwd=folder)
    assert again.stdout == f"submitted {name}-2\n"


@pytest.mark.slow
def test_ctrl_c_leaves_a_job_running_and_stop_ends_it(head: Head, tmp_path: Path) -> None:
    folder = project(tmp_path, model={"kind": "torch", "factory": "slow:net"})
    (folder / "slow.py").write_text(SLOW)
    command, options = head.command("submit", "spec.yaml", "--id", "slow", "--wait", cwd=folder)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "submitted slow\n"
        origin = next(line for line in waiting.stdout if line.startswith("from "))
        assert "working_dir_files" in origin, "the raydelt of the submitter is the one that runs"
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "job 'slow' goes on" in told
    assert "raydelt stop slow" in told
    again = head.raydelt("submit", "spec.yaml", "--id", "slow", cwd=folder)
    assert again.stdout == "slow is there already, running\n", again.stderr
    assert head.raydelt("stop", "slow").stdout == "slow: stopped\n"
    listed = json.loads(head.raydelt("list", "--json").stdout)
    assert {"slow": "STOPPED"}.items() <= {job["id"]: job["status"] for job in listed}.items()


WITHOUT: list[tuple[dict[str, str | None], list[str]]] = [
    ({"RAY_AUTH_TOKEN": "wrong-token-0123456789"}, ["refuses this token"]),
    ({"RAY_AUTH_TOKEN": None}, ["wants a token", "RAY_AUTH_TOKEN_PATH"]),
    ({"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None}, ["wants a token", "RAY_AUTH_MODE=token"]),
    ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": "/no/such/file"}, ["token"]),
]


def test_a_wrong_or_missing_token_is_one_sentence(head: Head) -> None:
    with futures.ThreadPoolExecutor() as pool:
        running = [pool.submit(head.raydelt, "list", **environment) for environment, _ in WITHOUT]
        for done, (_, words) in zip(running, WITHOUT, strict=True):
            assert_one_sentence(done.result(), head.url, *words)
            assert "wrong-token" not in done.result().stderr


@pytest.mark.parametrize("environment", [environment for environment, _ in WITHOUT])
def test_a_run_that_joins_without_the_right_token_is_told_of_it(
    head: Head, tmp_path: Path, environment: dict[str, str | None]
) -> None:
    folder = project(tmp_path, cluster={"address": head.gcs})
    [command, options] = head.command("rank", "spec.yaml", cwd=folder, **environment)
    done = subprocess.run(command[:-2], capture_output=True, text=True, check=False, timeout=200, **options)
    assert_one_sentence(done, head.gcs, "token", "RAY_AUTH_TOKEN")
    assert "wrong-token" not in done.stderr


def test_what_cannot_work_is_refused_before_anything_is_submitted(head: Head, tmp_path: Path) -> None:
    folder = project(tmp_path)
    before = len(head.jobs())
    gpus = head.raydelt("submit", "spec.yaml", "--num-gpus", "4", cwd=folder)
    assert_one_sentence(gpus, "--num-gpus asks for 4 GPU but no node has more than 0")
    actors = head.raydelt("submit", "spec.yaml", "-o", "cluster.actors.num_gpus=2", cwd=folder)
    assert_one_sentence(actors, "cluster.actors.num_gpus asks for 2 GPU but no node has more than 0")
    assert_one_sentence(head.raydelt("status", "no-such-job"), "no-such-job does not exist")
    assert len(head.jobs()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "changes", "code"), [("run", {}, 0), ("rank", {}, 0), ("score", {"name": "a b"}, 2)]
)
def test_the_entry_points_work_with_plain_ray_job_submit(
    head: Head, tmp_path: Path, script: str, changes: dict[str, Any], code: int
) -> None:
    folder = project(tmp_path, **CHEAP)
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    overrides = [word for key, value in changes.items() for word in ("-o", f"{key}={value}")]
    submit = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", head.url, "--working-dir", "."]
    command = [*submit, "--submission-id", f"plain-{script}", "--", "python", f"jobs/{script}.py", "spec.yaml"]
    subprocess.run([*command, *overrides], cwd=folder, env=head.environment, check=False, capture_output=True)
    [job] = [job for job in head.jobs() if job["submission_id"] == f"plain-{script}"]
    assert job["driver_exit_code"] == code


@pytest.mark.slow
def test_an_exceeded_error_budget_is_exit_code_3(head: Head, tmp_path: Path) -> None:
    folder = project(tmp_path)
    (tmp_path / "in" / "broken.parquet").write_bytes(b"PAR1 no parquet")
    done = head.raydelt("submit", "spec.yaml", "--wait", "-o", "corpus.error_budget=0", cwd=folder)
    assert_one_sentence(done, "failed (exit code 3)", code=3)
