"""Images are pinned, small in what they hold, run as nobody special, and tell whether they are well."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.manifests import ROOT

DOCKER = ROOT / "docker"
KINDS = ("cpu", "gpu")
INSTRUCTION = re.compile(r"^(?P<name>[A-Z]+)\s+(?P<rest>.*)$", re.DOTALL)


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and argument of every instruction, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [INSTRUCTION.match(line) for line in joined.splitlines()]
    return [(own["name"], own["rest"]) for own in found if own is not None]


def lint(text: str) -> str:
    """What hadolint has against a Dockerfile; empty where nothing."""
    program = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("hadolint is not installed")
    command = [program, "--no-color", "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stdout


def dockerfile(kind: str) -> str:
    return (DOCKER / f"Dockerfile.{kind}").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_linter_has_nothing_to_say(kind: str) -> None:
    assert lint(dockerfile(kind)) == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("python:3.11.14-slim-bookworm", "python:latest", "DL3007"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("--no-install-recommends ", "", "DL3015"),
        ("COPY raydelt", "ADD raydelt", "DL3020"),
        ("pip install --no-cache-dir", "pip install", "DL3042"),
    ],
)
def test_the_linter_finds_a_planted_fault(old: str, new: str, told: str) -> None:
    text = dockerfile("cpu")
    assert old in text
    if "latest" in new:
        # The linter does not look through arguments.
        old, new = "FROM ${BASE_IMAGE} AS build", f"FROM {new} AS build"
    assert told in lint(text.replace(old, new))


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_pinned_built_in_two_stages_and_not_root(kind: str) -> None:
    found = instructions(dockerfile(kind))
    [base] = [rest for name, rest in found if name == "ARG" and rest.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=[a-z]+:\d+\.\d+\.\d+-[a-z-]+", base), "an exact version, and no registry's host"
    stages = [rest for name, rest in found if name == "FROM"]
    assert stages == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    last = found[max(index for index, (name, _) in enumerate(found) if name == "FROM") :]
    assert [rest for name, rest in last if name == "USER"] == ["1000:1000"]
    users = [index for index, (name, _) in enumerate(last) if name == "USER"]
    assert all(name not in ("RUN", "COPY") for name, _ in last[users[0] :]), "root work after USER"
    assert sum(name == "HEALTHCHECK" for name, _ in last) == 1
    assert ("ENTRYPOINT", '["raydelt"]') in last
    for name, rest in found:
        assert name != "ADD"
        if name == "RUN" and "pip install" in rest:
            assert rest.count("--constraint constraints.txt") == rest.count("pip install")


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_copied_exists_and_is_let_in_and_nothing_else_is(kind: str) -> None:
    let_in = {
        line[1:] for line in (DOCKER / f"Dockerfile.{kind}.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = set()
    for name, rest in instructions(dockerfile(kind)):
        if name == "COPY" and "--from" not in rest:
            copied |= {source.rstrip("/") for source in rest.split()[:-1]}
    assert copied == let_in
    for source in copied:
        assert (ROOT / source).exists(), source


def test_both_images_differ_in_nothing_but_the_gpu() -> None:
    cpu, gpu = instructions(dockerfile("cpu")), instructions(dockerfile("gpu"))
    assert [rest for _, rest in gpu if "NVIDIA" in rest]
    assert [own for own in gpu if "NVIDIA" not in own[1] and own[0] != "LABEL"] == [
        own for own in cpu if own[0] != "LABEL"
    ]


def test_without_an_engine_nothing_is_built_and_it_says_so(tmp_path: Path) -> None:
    # An empty PATH but for what the script itself needs.
    for name in ("bash", "dirname", "sed", "env"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(DOCKER / "build"), "cpu"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 69
    assert "nothing is built" in done.stderr


def test_an_unknown_image_is_refused() -> None:
    done = subprocess.run([str(DOCKER / "build"), "tpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tpu" in done.stderr


@contextmanager
def agent(status: int) -> Iterator[int]:
    """Something that answers for a Ray node's agent."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/api/healthz" else 404)
            self.end_headers()
            self.wfile.write(b"answered")

        def log_message(self, *args: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def healthy(tmp_path: Path, port: int) -> int:
    environment = {"RAY_TMPDIR": str(tmp_path), "RAY_AGENT_PORT": str(port)}
    return subprocess.run([sys.executable, str(DOCKER / "healthy.py")], env=environment, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_the_node_says(tmp_path: Path, status: int, code: int) -> None:
    (tmp_path / "ray" / "session_latest").mkdir(parents=True)
    with agent(status) as port:
        assert healthy(tmp_path, port) == code


def test_a_node_that_does_not_answer_is_not_well_and_no_node_is_no_illness(tmp_path: Path) -> None:
    with agent(200) as port:
        pass
    assert healthy(tmp_path, port) == 0
    (tmp_path / "ray" / "session_latest").mkdir(parents=True)
    assert healthy(tmp_path, port) == 1
