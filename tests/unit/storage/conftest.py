"""S3 servers for the tests of this folder: one of each kind, for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import s3server
from tests.s3server import Server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3server.rclone(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with s3server.moto() as server:
        yield server


@pytest.fixture
def s3(rclone_server: Server) -> Iterator[Server]:
    """The environment of this process set for rclone."""
    with s3server.using(rclone_server):
        yield rclone_server
