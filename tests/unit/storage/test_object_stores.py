"""What is read from a store is what was put there, whatever the way does to it; what fails is told in one sentence."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from raydelt.errors import InputError
from raydelt.storage import Stage, Store, fingerprint, refuse_credentials
from raydelt.storage.store import PART_BYTES
from tests.s3proxy import Proxy, proxy
from tests.s3server import BUCKET, Server, using

LARGE = np.random.default_rng(0).bytes(2 * PART_BYTES + 1234)
ROUNDS = 20
TABLE = pa.table({"a": np.arange(1000), "b": np.arange(1000) / 7})
WIDE = pa.table({"id": np.arange(1_200_000), "x": np.random.default_rng(1).standard_normal(1_200_000)})


@pytest.fixture
def place() -> str:
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture
def faulty(rclone_server: Server) -> Iterator[Proxy]:
    """rclone behind a proxy that fails every sixth request in some way."""
    rates = dict.fromkeys(("slowdown", "reset", "lost", "truncated", "shortened", "slow"), 0.03)
    with proxy(rclone_server.endpoint, **rates) as between, using(rclone_server.at(between.endpoint)):
        yield between


def test_a_run_of_puts_and_reads_is_exact_through_faults(faulty: Proxy, place: str) -> None:
    store = Store(place)
    for index in range(ROUNDS):
        data = np.random.default_rng(index).bytes(5000 + index)
        part = store.put(f"many/{index:03d}", data)
        assert store.read_bytes(part.file) == data
        assert store.write_table(f"tables/{index}.parquet", TABLE) == store.described(f"tables/{index}.parquet")
        assert store.read_table(f"tables/{index}.parquet", ["b"]) == TABLE.select(["b"])
    assert len(store.at("many").names()) == ROUNDS
    happened = set(faulty.faults)
    assert {"slowdown", "reset", "lost", "truncated", "shortened"} <= happened, f"only {happened}: it proved nothing"


def test_a_large_file_goes_up_in_parts_and_comes_back_in_ranges_through_faults(faulty: Proxy, place: str) -> None:
    store = Store(place)
    store.put("large", LARGE)
    assert faulty.counts["POST"] >= 2, "no multipart upload: it proved nothing"
    assert store.read_bytes("large") == LARGE


def test_columns_of_a_large_table_are_read_by_ranges_through_faults(faulty: Proxy, place: str) -> None:
    store = Store(place)
    part = store.write_table("wide.parquet", WIDE)
    assert part.bytes > 8 << 20, "the file is read whole: it proved nothing"
    for _ in range(5):
        assert store.read_table("wide.parquet", ["id"]) == WIDE.select(["id"])


def test_a_store_in_s3_publishes_as_a_local_one_does(s3: Server, place: str) -> None:
    store = Store(place)
    first, second = (Stage(store, "scores", fingerprint(name)) for name in "ab")
    old = [store.write_table(first.file("part", index), TABLE) for index in range(3)]
    aside = store.write_table(first.file("part-score", 0, folder="quarantine"), TABLE)
    assert first.published() is None
    first.publish(old, {"k": 1}, {"quarantine": [aside]})
    assert first.published() is not None
    store.put(old[0].file, b"cut")
    assert first.published() is None
    new = store.write_table(second.file("part", 0), TABLE)
    second.publish([new], {})
    assert store.at("scores").names() == ["manifest.json", new.file.removeprefix("scores/")]
    assert not store.exists(aside.file)
    store.delete("scores")
    assert store.names() == []


def test_looking_and_reading_list_nothing(rclone_server: Server, place: str) -> None:
    with proxy(rclone_server.endpoint) as between, using(rclone_server.at(between.endpoint)):
        store = Store(place)
        for index in range(20):
            assert not store.exists(f"{index}")
            part = store.write_table(f"{index}", TABLE)
            assert store.exists(part.file)
            assert store.size(part.file) == part.bytes
            store.read_table(part.file, ["a"])
        assert between.counts["LIST"] == 0
        store.remove([f"{index}" for index in range(20)])
        assert between.counts["LIST"] == 0
        assert between.counts["POST"] == 1


def test_a_published_stage_is_recognised_by_as_many_listings_as_it_has_folders(
    rclone_server: Server, place: str
) -> None:
    with proxy(rclone_server.endpoint) as between, using(rclone_server.at(between.endpoint)):
        counts = []
        for parts in (2, 40):
            stage = Stage(Store(place), "scores", fingerprint(parts))
            written = [stage.run.write_table(stage.file("part", index), TABLE) for index in range(parts)]
            stage.publish(written, {})
            between.counts.clear()
            assert stage.published() is not None
            counts.append(dict(between.counts))
        assert counts[0] == counts[1]
        assert counts[0]["LIST"] == 1


def told(place: str) -> str:
    with pytest.raises(InputError) as found:
        Store(place).check_writable()
    assert len(str(found.value)) < 300
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, r"the store refuses the credentials (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, r"the store refuses the credentials (InvalidAccessKeyId)"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, r"the store cannot be reached: check AWS_ENDPOINT_URL"),
    ],
)
def test_what_the_environment_has_wrong_is_told(
    rclone_server: Server, place: str, changes: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydelt.storage.places.ATTEMPTS", 2)
    started = time.monotonic()
    with using(rclone_server, **changes):
        assert sentence in told(place)
        with pytest.raises(InputError) as found:
            Store(place).exists("spec.json")
        assert sentence in str(found.value)
    assert time.monotonic() - started < 120


def test_a_store_that_never_answers_is_given_up(
    rclone_server: Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydelt.storage.places.ATTEMPTS", 1)
    monkeypatch.setattr("raydelt.storage.places.SILENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with using(rclone_server, AWS_ENDPOINT_URL=endpoint):
            assert "the store does not answer: check AWS_ENDPOINT_URL" in told(place)
            monkeypatch.setattr("raydelt.storage.store.QUESTION_SECONDS", 0.5)
            with pytest.raises(InputError, match="the store does not answer"):
                Store(place).exists("spec.json")


def test_missing_credentials_and_profiles_are_told(
    rclone_server: Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with using(rclone_server):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "there are no credentials: set AWS_PROFILE" in told(place)
    with using(rclone_server, AWS_PROFILE="nobody"):
        assert "AWS_PROFILE" in told(place)


def test_a_missing_bucket_is_told(s3: Server) -> None:
    assert "its bucket does not exist (NoSuchBucket)" in told("s3://nowhere/run")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDenied", "cannot be written: the store denies it (AccessDenied)"),
        ("RequestTimeTooSkewed", "this machine's clock is not the store's (RequestTimeTooSkewed): set the clock"),
        ("ExpiredToken", "the store refuses the credentials (ExpiredToken)"),
    ],
)
def test_what_the_store_refuses_is_told(rclone_server: Server, place: str, code: str, sentence: str) -> None:
    with proxy(rclone_server.endpoint) as between, using(rclone_server.at(between.endpoint)):
        between.refuse = lambda kind, path: (403, code) if kind == "PUT" or code != "AccessDenied" else None
        assert sentence in told(place)
        if code != "AccessDenied":
            with pytest.raises(InputError) as found:
                # The answer to a HEAD says 403 and nothing more.
                Store(place).exists("spec.json")
            assert sentence in str(found.value)


def test_a_store_that_fails_at_every_try_is_given_up(
    rclone_server: Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydelt.storage.places.ATTEMPTS", 2)
    with proxy(rclone_server.endpoint, slowdown=1.0) as between, using(rclone_server.at(between.endpoint)):
        assert "the store failed at every try (SlowDown)" in told(place)
        assert between.counts["PUT"] > 2


def test_a_file_that_is_gone_is_told(s3: Server, place: str) -> None:
    with pytest.raises(InputError, match=r"part\.parquet cannot be read: it is not there, or no longer"):
        Store(place).read_table("part.parquet")


def test_a_body_that_stays_short_is_given_up(rclone_server: Server, place: str) -> None:
    with proxy(rclone_server.endpoint) as between, using(rclone_server.at(between.endpoint)):
        store = Store(place)
        store.put("a", b"x" * 1000)
        between.rates = {"shortened": 1.0}
        with pytest.raises(InputError, match=r"a cannot be read: it came cut short 5 times"):
            store.read_bytes("a")


@pytest.mark.parametrize(
    "url",
    [
        *("s3://key:hush@bucket/x", "s3://key@bucket", "gs://a:hush@b/c", "s3://AKIA:hush/7+hush@bucket/x"),
        *("https://me:hush/9@host:81/x", "simplecache::s3://key:hush@bucket/x"),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="holds credentials: leave them out") as found:
        Store(url).exists("x")
    assert "hush" not in str(found.value)


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket/a@b", "hf://datasets/a/b@main/x", "http://host:8080/a@b", "a@b/c:d@e"),
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/a@b",
    ],
)
def test_an_at_sign_in_a_path_is_no_credential(url: str) -> None:
    refuse_credentials(url)


def test_a_place_that_can_only_be_read_is_no_output() -> None:
    with pytest.raises(InputError, match="can only be read"):
        Store("hf://datasets/someone/set").check_writable()


def test_the_package_that_a_scheme_needs_is_named() -> None:
    with pytest.raises(InputError, match=r"needs the package gcsfs: pip install gcsfs"):
        Store("gs://bucket/run").names()
