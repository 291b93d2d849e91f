"""A run whose corpus and output lie in S3 gives the bytes of a local one, through faults and kills; no secret is told.

The runs are processes of their own: their Ray starts with the environment of the store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from raydelt import pipeline
from raydelt.storage import Store, read_manifest
from tests import s3server
from tests.flow import spec, write_digits
from tests.s3proxy import proxy
from tests.s3server import BUCKET, SECRET, Server, free_port, using

OUTPUT = f"s3://{BUCKET}/out"
RATES = {"slowdown": 0.01, "reset": 0.01, "lost": 0.01, "truncated": 0.01, "slow": 0.01}
STAGES = ("scores", "ranking", "selection")
# What may list: looking at the output and the sources, and for each stage whether it stands and what it left behind.
LISTINGS = 45
SECONDS = 280
REFUSALS: dict[str, Any] = {
    "read-only": lambda kind, path: (403, "AccessDenied") if kind == "PUT" else None,
    "skew": lambda kind, path: (403, "RequestTimeTooSkewed"),
    # What the run has put itself is gone when it looks for it.
    "emptied": lambda kind, path: (404, "NoSuchKey") if kind in ("GET", "HEAD") and "/corpus/part" in path else None,
}
QUICK: dict[str, Any] = {
    "score": [{"kind": "difficulty"}, {"kind": "diversity"}],
    "rank": {
        "folds": 2,
        "rounds": 1,
        "proxy": {"epochs": 2},
        "combine": {"weights": {"difficulty": 1.0, "diversity": 1.0}, "gate": None},
    },
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with s3server.rclone(tmp_path / "s3") as found:
        yield found


@pytest.fixture
def tmpdir() -> Iterator[Path]:
    """A folder for Ray with a short name, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def write_spec(folder: Path, name: str, output: str = OUTPUT, **changes: Any) -> Path:
    config = spec(f"s3://{BUCKET}/in", output, **changes)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config.resolved()))
    return path


def started(command: str, path: Path | str, environment: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    """A command of raydelt in a process of its own."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **environment}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    arguments = [sys.executable, "-m", "raydelt", command, str(path), *options]
    return subprocess.Popen(arguments, env=inherited | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(command: str, path: Path | str, environment: Mapping[str, str], *options: str, code: int = 0) -> str:
    """What a command printed, on both streams."""
    process = started(command, path, environment, *options)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err[-3000:]
    return out + err


def digests(output: str, stages: tuple[str, ...] = STAGES) -> dict[str, list[str]]:
    found = {}
    for stage in stages:
        manifest = read_manifest(Store(output), stage)
        assert manifest is not None, f"{stage} is not published"
        found[stage] = [part.digest for part in manifest.parts]
    return found


class Watched:
    """The command lines of all processes on this machine, looked at while a body works."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._ended = threading.Event()

    def __enter__(self) -> Watched:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or []))


def assert_nowhere(secret: str, *folders: Path) -> None:
    """No file below these folders holds the secret."""
    looked_at = 0
    for folder in folders:
        for path in (p for p in folder.rglob("*") if p.is_file()):
            looked_at += 1
            assert secret.encode() not in path.read_bytes(), path
    assert looked_at > 20, "hardly any file was looked at"


@pytest.mark.usefixtures("ray_session")
def test_a_flow_in_s3_through_faults_gives_the_bytes_of_a_local_one_and_tells_no_secret(
    server: Server, tmp_path: Path, tmpdir: Path
) -> None:
    source = write_digits(tmp_path / "s3" / BUCKET / "in", files=2, rows=400)
    with proxy(server.endpoint, **RATES) as between, Watched() as watched:
        environment = server.at(between.endpoint).environment | {"RAY_TMPDIR": str(tmpdir)}
        told = finished("select", write_spec(tmp_path, "spec", **QUICK), environment)
        assert sum(between.faults.values()) > 5, "hardly a fault: it proved nothing"
        assert between.counts["LIST"] <= LISTINGS, between.counts
    with using(server):
        pipeline.execute(spec(source, tmp_path / "local", **QUICK), until="selection")
        assert digests(OUTPUT) == digests(str(tmp_path / "local"))
    assert SECRET not in told
    assert watched.seen
    assert not any(SECRET in line for line in watched.seen)
    assert_nowhere(SECRET, tmpdir, tmp_path / "s3")


@contextlib.contextmanager
def head(tmpdir: Path) -> Iterator[str]:
    """A Ray of its own, started without any credentials; its address."""
    port = free_port()
    arguments = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    arguments += ["--num-cpus=2", f"--temp-dir={tmpdir}", f"--ray-client-server-port={free_port()}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", *arguments, "--disable-usage-stats"],
        env=clean | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        s3server.listening(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        _kill(process)


@pytest.mark.slow
def test_workers_of_another_cluster_are_given_credentials_that_nothing_shows(
    server: Server, tmp_path: Path, tmpdir: Path
) -> None:
    write_digits(tmp_path / "s3" / BUCKET / "in", rows=400)
    with head(tmpdir) as address, Watched() as watched:
        path = write_spec(tmp_path, "spec", cluster={"address": address}, **QUICK)
        environment = server.environment | {"RAY_AUTH_MODE": "disabled"}
        told = finished("select", path, environment)
    with using(server):
        assert len(digests(OUTPUT)["scores"]) > 1
    assert SECRET not in told
    assert not any(SECRET in line for line in watched.seen)
    assert_nowhere(SECRET, tmpdir, tmp_path / "s3")


@pytest.mark.slow
def test_listings_do_not_grow_with_the_parts(server: Server, tmp_path: Path, tmpdir: Path) -> None:
    counts = []
    for rows in (300, 1700):
        write_digits(tmp_path / "s3" / BUCKET / "in", rows=rows)
        with proxy(server.endpoint) as between:
            environment = server.at(between.endpoint).environment | {"RAY_TMPDIR": str(tmpdir)}
            output = f"s3://{BUCKET}/out-{rows}"
            finished("select", write_spec(tmp_path, f"spec-{rows}", output), environment)
            counts.append(between.counts)
    with using(server):
        small, large = (len(digests(f"s3://{BUCKET}/out-{rows}")["scores"]) for rows in (300, 1700))
    assert large > 3 * small
    assert counts[1]["LIST"] <= counts[0]["LIST"], counts


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_a_whole_run_in_s3_is_killed_resumed_verified_and_reported(
    server: Server, tmp_path: Path, tmpdir: Path
) -> None:
    source = write_digits(tmp_path / "s3" / BUCKET / "in", rows=400)
    changes: dict[str, Any] = {"train": {"recipe": {"steps": 900}, "seeds": [0], "checkpoint_every": 100}}
    path = write_spec(tmp_path, "spec", **changes)
    training = tmp_path / "s3" / BUCKET / "out" / ".training"
    with proxy(server.endpoint, **RATES) as between:
        environment = server.at(between.endpoint).environment | {"RAY_TMPDIR": str(tmpdir)}
        _killed_when(lambda: list(training.glob("*/checkpoint_*/state.pt")), started("run", path, environment))
        told = finished("run", path, environment)
        assert "corpus     up to date" in told
        finished("verify", OUTPUT, environment)
        assert "accuracy" in finished("show", OUTPUT, environment)
    with using(server):
        run = pipeline.execute(spec(source, tmp_path / "local", **changes))
        assert digests(OUTPUT) == digests(str(tmp_path / "local"))
        store, model = Store(OUTPUT), read_manifest(Store(OUTPUT), "model")
        assert model is not None
        assert model.sides["model"][0].digest == run.manifests["model"].sides["model"][0].digest
        assert store.exists("report/index.html")
        assert not store.at(".training").names()
    assert_nowhere(SECRET, tmpdir, tmp_path / "s3")


@pytest.mark.slow
def test_a_run_in_s3_is_scored_again_watched_and_scheduled_and_no_secret_is_written(
    server: Server, tmp_path: Path, tmpdir: Path
) -> None:
    folder = tmp_path / "s3" / BUCKET / "in"
    write_digits(folder, rows=300)
    environment = server.environment | {"RAY_TMPDIR": str(tmpdir)}
    path, manifest = write_spec(tmp_path, "spec", **QUICK), tmp_path / "job.yaml"
    with Watched() as watched:
        told = finished("rescore", path, environment, "--first")
        write_digits(folder / "more", rows=330)
        time.sleep(1.5)  # until rclone has forgotten its listing
        told += finished("rescore", OUTPUT, environment, "--since", "1d")
        told += finished("monitor", OUTPUT, environment)
        told += finished("schedule", path, environment, "--cron", "0 3 * * *", "--manifest", str(manifest))
    assert "version 1" in told
    for line in (told, manifest.read_text(), *watched.seen):
        assert SECRET not in line
    assert_nowhere(SECRET, tmpdir, tmp_path / "s3")


def _killed_when(ready: Any, process: subprocess.Popen[str]) -> None:
    """Kill a run and all that it started as soon as there is what to wait for."""
    until = time.monotonic() + SECONDS
    while not ready():
        assert process.poll() is None, "the run ended by itself: it proved nothing"
        assert time.monotonic() < until
        time.sleep(0.05)
    _kill(process)


def _kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all that it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("credentials", "the store refuses the credentials (SignatureDoesNotMatch)"),
        ("bucket", "bucket does not exist (NoSuchBucket)"),
        ("read-only", "cannot be written: the store denies it (AccessDenied)"),
        ("skew", "this machine's clock is not the store's (RequestTimeTooSkewed): set the clock"),
        ("emptied", "it is not there, or no longer: if something deleted it, run again"),
    ],
)
def test_what_is_wrong_with_the_store_is_one_sentence_and_code_2(
    server: Server, tmp_path: Path, case: str, sentence: str
) -> None:
    write_digits(tmp_path / "s3" / BUCKET / "in", rows=100)
    with proxy(server.endpoint) as between:
        environment = server.at(between.endpoint).environment
        output = OUTPUT
        if case == "credentials":
            environment |= {"AWS_SECRET_ACCESS_KEY": "wrong"}
        elif case == "bucket":
            output = "s3://nowhere/out"
        else:
            between.refuse = REFUSALS[case]
        told = finished("select", write_spec(tmp_path, "spec", output), environment, code=2)
    *before, last = told.splitlines()
    assert last.startswith("raydelt: ")
    assert sentence in last
    # What was done before the store failed is told; nothing else is.
    assert all(line.startswith("corpus ") for line in before), told
