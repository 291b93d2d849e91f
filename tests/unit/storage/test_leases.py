"""What only one may create has one creator, and what only one may hold has one holder, wherever it lies."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from raydelt.errors import InputError
from raydelt.storage import Store, exclusive, lease
from raydelt.storage.lease import acquire, held
from tests.s3proxy import proxy
from tests.s3server import BUCKET, Server, using

WRITERS = 8


@pytest.fixture(params=["local", "moto", "rclone"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A local folder, a store with conditional puts, and one without."""
    if request.param == "local":
        yield Store(str(tmp_path))
        return
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 1.0)
    with using(request.getfixturevalue(f"{request.param}_server")):
        yield Store(f"s3://{BUCKET}/{uuid4().hex}")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(lease, "GRACE_SECONDS", 0.0)
    return Store(str(tmp_path))


def test_of_many_writers_at_once_one_creates_the_file(store: Store) -> None:
    barrier = threading.Barrier(WRITERS)

    def create(writer: int) -> bool:
        barrier.wait()
        return store.create_only("slot", f"writer {writer}".encode())

    won = [False]
    with ThreadPoolExecutor(WRITERS) as pool:
        while not any(won):  # in an election all may withdraw, if the machine is slow
            won = list(pool.map(create, range(WRITERS)))
    assert sum(won) == 1
    assert store.read_bytes("slot") == f"writer {won.index(True)}".encode()
    assert store.names() == ["slot"]
    assert not store.create_only("slot", b"later")


def test_moto_honours_conditions_and_rclone_does_not(moto_server: Server, rclone_server: Server) -> None:
    for server, expected in ((moto_server, True), (rclone_server, False)):
        with using(server):
            assert exclusive.honours_conditions(f"s3://{BUCKET}/probed") is expected
            assert Store(f"s3://{BUCKET}/probed").names() == []


def test_a_put_whose_answer_was_lost_is_known_as_ones_own(moto_server: Server) -> None:
    with proxy(moto_server.endpoint) as between, using(moto_server.at(between.endpoint)):
        store = Store(f"s3://{BUCKET}/{uuid4().hex}")
        assert store.create_only("first", b"me")
        between.rates = {"lost": 0.3}
        for index in range(5):
            assert store.create_only(f"slot-{index}", b"me")
            assert not store.create_only(f"slot-{index}", b"another")
        assert between.faults["lost"] > 2


def test_a_dead_candidate_blocks_nobody(rclone_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(exclusive, "ABANDONED", 5)
    with using(rclone_server):
        store = Store(f"s3://{BUCKET}/{uuid4().hex}")
        store.put(f"slot{exclusive.CANDIDATE}000", b"dead")
        assert not store.create_only("slot", b"me"), "a candidate that came first and may live wins"
        time.sleep(2.5)
        # Who is slow withdraws, and tries again.
        assert any(store.create_only("slot", b"me") for _ in range(10))
        assert store.names() == ["slot"]


def test_a_folder_without_hard_links_creates_exclusively_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = Store(str(tmp_path))
    assert store.create_only("slot", b"me")
    assert not store.create_only("slot", b"another")
    assert (store.read_bytes("slot"), store.names()) == (b"me", ["slot"])


def test_a_second_holder_is_told_who_holds_it_and_until_when(store: Store) -> None:
    with held(store, "rescore", owner="the first", seconds=60) as fence:
        assert fence.token == 1
        fence.check()
        with pytest.raises(InputError, match=r"'rescore' of .* is held by the first until 20..-..-..T..:..:..Z"):
            acquire(store, "rescore", owner="the second", seconds=60)
    assert store.exists("leases/rescore/00000001.done")


def test_of_many_takers_at_once_one_holds_it(store: Store) -> None:
    barrier = threading.Barrier(WRITERS)

    def take(writer: int) -> int | None:
        barrier.wait()
        try:
            return acquire(store, "rescore", owner=f"{writer}", seconds=60).token
        except InputError:
            return None

    tokens: list[int | None] = [None]
    with ThreadPoolExecutor(WRITERS) as pool:
        while not any(tokens):
            tokens = list(pool.map(take, range(WRITERS)))
    assert [token for token in tokens if token] == [1]


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_finds_out(local: Store) -> None:
    first = acquire(local, "rescore", owner="one that stalls", seconds=0.3)
    time.sleep(0.4)
    second = acquire(local, "rescore", owner="another", seconds=60)
    assert second.token > first.token
    with pytest.raises(InputError, match="was not renewed in time"):
        first.check()
    first._renewed = time.monotonic()
    with pytest.raises(InputError, match="was taken over: nothing was published"):
        first.check()
    with pytest.raises(InputError, match="was taken over"):
        first.renew()
    second.check()


def test_a_lease_that_is_renewed_outlives_its_term(local: Store) -> None:
    with held(local, "rescore", owner="a slow one", seconds=0.6) as fence:
        time.sleep(1.5)
        fence.check()
        with pytest.raises(InputError, match="is held by a slow one"):
            acquire(local, "rescore", owner="another", seconds=1)


def test_a_holder_that_raises_gives_the_lease_back(local: Store) -> None:
    with pytest.raises(ZeroDivisionError), held(local, "rescore", owner="one", seconds=60):
        raise ZeroDivisionError
    acquire(local, "rescore", owner="another", seconds=60)


def test_tokens_only_grow_and_files_do_not_pile_up(local: Store) -> None:
    tokens = []
    for turn in range(50):
        with held(local, "rescore", owner=f"{turn}", seconds=60) as fence:
            tokens.append(fence.token)
    assert tokens == list(range(1, 51))
    assert len(local.at("leases/rescore").names()) <= 3


def test_ages_are_by_the_stores_clock_whatever_this_machines_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire(store, "rescore", owner="one", seconds=60)
    now = time.time
    # Signatures need the true time, so only what asks for the time in seconds is led astray.
    monkeypatch.setattr(lease.time, "time", lambda: now() + 3600)
    with pytest.raises(InputError, match="is held by one"):
        acquire(store, "rescore", owner="another", seconds=60)
    assert not [name for name in store.at("leases/rescore").names() if "probe" in name]


def test_a_slow_taker_of_a_number_that_was_given_up_withdraws(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(local, "rescore", owner="one", seconds=60):
        pass
    place = local.at("leases/rescore")
    real = lease._refuse_if_held

    def stall(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(lease, "_refuse_if_held", real)
        with held(local, "rescore", owner="two", seconds=60):
            pass
        acquire(local, "rescore", owner="three", seconds=60)

    monkeypatch.setattr(lease, "_refuse_if_held", stall)
    with pytest.raises(InputError, match="is held by three"):
        acquire(local, "rescore", owner="slow", seconds=60)
    assert json.loads(place.read_bytes("00000003"))["owner"] == "three"
    assert not place.exists("00000002")
