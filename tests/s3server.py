"""S3 servers on loopback over real HTTP: rclone, which serves a folder, and moto, which honours conditional puts."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

KEY, SECRET, BUCKET = "raydeltkey", "raydelt-planted-secret-5f1c9e", "data"
READY_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and the keys that it takes."""

    endpoint: str
    key: str = KEY
    secret: str = SECRET

    def at(self, endpoint: str) -> Server:
        """The same server behind another address, such as a proxy's."""
        return replace(self, endpoint=endpoint)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@contextlib.contextmanager
def using(server: Server, **changes: str) -> Iterator[Server]:
    """This process's environment set for a server, and filesystems of an earlier one forgotten."""
    wanted = server.environment | changes
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    _forget()
    try:
        yield server
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _forget()


def _forget() -> None:
    from raydelt.storage import exclusive, places
    from raydelt.storage.s3 import PatientS3

    PatientS3.clear_instance_cache()
    places.forget()
    exclusive.honours_conditions.cache_clear()


@contextlib.contextmanager
def rclone(root: Path, *, remember: str = "1s") -> Iterator[Server]:
    """rclone serving a folder whose subfolders are the buckets; the bucket `data` is there.

    What others than the server put into the folder is seen once it stops to `remember` its listings.
    """
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    port = free_port()
    # Keys on a command line are for all to see: the server reads them from its environment.
    command = [_binary("rclone"), "serve", "s3", str(root), "--addr", f"127.0.0.1:{port}", "--log-level", "ERROR"]
    command.append(f"--dir-cache-time={remember}")
    with _running(command, port, {"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"', "RCLONE_CONFIG": os.devnull}):
        yield Server(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    """A moto server with the bucket `data`."""
    port = free_port()
    with _running([_binary("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, {}):
        server = Server(f"http://127.0.0.1:{port}")
        with using(server):
            from raydelt.storage.places import filesystem

            fs, _ = filesystem(f"s3://{BUCKET}")
            fs.mkdir(BUCKET)
        yield server


def _binary(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed: pip install 'raydelt[dev]'"
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], port: int, environment: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        listening(process, port)
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a process listens."""
    until = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        assert time.monotonic() < until, f"{process.args!r} does not listen"
        time.sleep(0.05)
