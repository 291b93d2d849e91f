"""What a store does to checkpoints of Ray Train is one sentence: by its own code, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow.fs
import pytest
import ray.train
import torch
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from raydelt.errors import InputError
from raydelt.storage import Store
from raydelt.train import job
from raydelt.train.job import plain_checkpoints
from tests.s3proxy import Proxy, proxy
from tests.s3server import BUCKET, Server, using


@pytest.fixture
def between(rclone_server: Server) -> Iterator[Proxy]:
    with proxy(rclone_server.endpoint) as found, using(rclone_server.at(found.endpoint)):
        yield found


@pytest.fixture
def place() -> Store:
    return Store(f"s3://{BUCKET}/{uuid4().hex}")


def storage(place: Store) -> StorageContext:
    """What Ray Train makes of a place, as `raydelt.train.job` gives it."""
    fs = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(place.fs))
    return StorageContext(storage_path=place.path(), experiment_dir_name="own", storage_filesystem=fs)


def upload(place: Store, folder: Path, name: str) -> ray.train.Checkpoint:
    (folder / "state.pt").write_bytes(b"x" * 1000)
    return job.upload(place.at("own"), ray.train.Checkpoint.from_directory(str(folder)), name)


def test_a_checkpoint_that_is_refused_is_one_sentence(between: Proxy, place: Store, tmp_path: Path) -> None:
    context = storage(place)
    found = upload(place, tmp_path, "first")
    assert found.path == context.build_checkpoint_path_from_name("first"), "where Ray Train looks for it"
    with found.as_directory() as folder:
        assert (Path(folder) / "state.pt").read_bytes() == b"x" * 1000
    between.refuse = lambda kind, path: (403, "AccessDenied") if kind == "PUT" else None
    with pytest.raises(InputError, match=r"cannot be written: the store denies it") as told:
        upload(place, tmp_path, "second")
    assert str(told.value).startswith(place.root)
    assert told.value.exit_code == 2


def test_a_state_comes_back_as_it_was_through_faults(
    rclone_server: Server, place: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"step": 7, "weights": torch.arange(100_000, dtype=torch.float32)}
    torch.save(state, tmp_path / job.STATE)
    monkeypatch.setattr(job, "_job", place)
    rates = dict.fromkeys(("slowdown", "reset", "lost", "truncated"), 0.1)
    with proxy(rclone_server.endpoint, **rates) as faulty, using(rclone_server.at(faulty.endpoint)):
        for turn in range(5):
            kept = job.upload(place, ray.train.Checkpoint.from_directory(str(tmp_path)), f"checkpoint_{turn}")
            monkeypatch.setattr(ray.train, "get_checkpoint", lambda own=kept: own)
            found = job.committed()
            assert found is not None
            assert found["step"] == 7
            assert torch.equal(found["weights"], state["weights"])
        assert faulty.faults, "no fault: it proved nothing"


def test_a_place_that_is_refused_from_the_start_is_one_sentence(between: Proxy, place: Store) -> None:
    between.refuse = lambda kind, path: (403, "InvalidAccessKeyId") if kind == "PUT" else None
    with pytest.raises(InputError, match="the store refuses the credentials"), plain_checkpoints(place.root):
        storage(place)


def test_a_place_that_was_emptied_is_one_sentence(between: Proxy, place: Store, tmp_path: Path) -> None:
    context = storage(place)
    (tmp_path / "state.pt").write_bytes(b"x")
    place.delete("")
    with pytest.raises(InputError, match="what was written there is gone"), plain_checkpoints(place.root):
        context.persist_current_checkpoint(ray.train.Checkpoint.from_directory(str(tmp_path)), "first")


def test_a_failure_of_the_controller_is_found(between: Proxy, place: Store) -> None:
    between.refuse = lambda kind, path: (403, "AccessDenied") if kind == "PUT" else None
    with pytest.raises(PermissionError) as raw:
        storage(place)
    with pytest.raises(InputError, match="the store denies it"), plain_checkpoints(place.root):
        raise ControllerError(raw.value)


def test_other_errors_of_a_worker_stay_as_they_are() -> None:
    with pytest.raises(ValueError, match="its own fault"), plain_checkpoints("s3://data/run"):
        raise ValueError("its own fault")
    with pytest.raises(WorkerGroupError), plain_checkpoints("s3://data/run"):
        raise WorkerGroupError("own", {0: ValueError("own")})
