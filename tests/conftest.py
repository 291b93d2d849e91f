"""One Ray instance for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raydelt import cluster
from raydelt.config import Cluster


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """An embedded Ray of two CPUs and one logical GPU that every run within the session joins."""
    with cluster.connected(Cluster(address="local", num_cpus=2, num_gpus=1, object_store_bytes=300_000_000)):
        yield
