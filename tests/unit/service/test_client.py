"""The way to a cluster: bounded, told in one sentence, and nothing of a job that could be secret comes out."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import ray
from aiohttp import web
from ray.job_submission import JobDetails

from raydelt.errors import InputError, SpecError
from raydelt.service import client
from raydelt.service.client import Node, Nodes, connect
from raydelt.service.submit import described, environment, exit_code


def details(status: str, code: int | None = None, **fields: object) -> JobDetails:
    return JobDetails(type="SUBMISSION", status=status, entrypoint="e", driver_exit_code=code, **fields)


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is no dashboard, and answers everything with a page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def dashboard() -> Iterator[tuple[str, list[int]]]:
    """A dashboard whose connections break off in the middle of a job's log; the list counts them."""
    lines = [f"line {number}\n" for number in range(30)]
    breaks = [0, 7, 7, 19]

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__})

    async def job(request: web.Request) -> web.Response:
        status = "SUCCEEDED" if len(seen) > len(breaks) else "RUNNING"
        return web.json_response({"type": "SUBMISSION", "status": status, "entrypoint": "e", "driver_exit_code": 0})

    async def tail(request: web.Request) -> web.WebSocketResponse:
        stream = web.WebSocketResponse()
        await stream.prepare(request)
        seen.append(len(seen))
        for number, line in enumerate(lines):
            if len(seen) <= len(breaks) and number == breaks[len(seen) - 1]:
                assert request.transport is not None
                request.transport.abort()
                break
            await stream.send_str(line)
        return stream

    seen: list[int] = []
    loop = asyncio.new_event_loop()
    application = web.Application()
    application.router.add_get("/api/version", version)
    application.router.add_get("/api/jobs/it", job)
    application.router.add_get("/api/jobs/it/logs/tail", tail)
    runner = web.AppRunner(application)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_log_is_written_once_however_often_the_connection_drops(dashboard: tuple[str, list[int]]) -> None:
    address, seen = dashboard
    written: list[str] = []
    ended = client.follow(connect(address), "it", written.append)
    assert "".join(written) == "".join(f"line {number}\n" for number in range(30))
    assert len(seen) == 5
    assert ended.driver_exit_code == 0


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "127.0.0.1:1", "ray://127.0.0.1:1", "http://no.invalid:8265"]
)
def test_no_cluster_is_one_sentence_soon(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="no cluster answers at"):
        connect(address)
    assert time.monotonic() - started < 2 * client.CONNECT_SECONDS


@pytest.mark.parametrize("address", ["head", "ftp://head:1", "http://head:port", "", "https://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SpecError, match="--address"):
        connect(address)


def test_a_server_that_is_no_dashboard_is_told(stranger: str) -> None:
    for address in (stranger, stranger.removeprefix("http://")):
        with pytest.raises(InputError, match="is not the dashboard of a Ray cluster"):
            connect(address)


def test_a_listener_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="no cluster answers at"):
        connect(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_the_address_that_was_asked_for_is_used_and_the_environment_left(
    stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="is not the dashboard"):
        connect(stranger)
    assert client.os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:1"


def test_a_cluster_is_here_only_where_all_its_nodes_are() -> None:
    own, other = Node("127.0.0.1", {}), Node("192.0.2.77", {})
    assert Nodes([own], True).here
    assert not Nodes([own, other], True).here
    assert not Nodes([other], True).here
    assert not Nodes([], None).here


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", 1, 1),
        ("FAILED", 137, 1),
        ("FAILED", -9, 1),
        ("FAILED", None, 1),
        ("FAILED", 0, 1),
        ("STOPPED", None, 1),
    ],
)
def test_the_exit_code_is_the_entry_points(status: str, code: int | None, expected: int) -> None:
    assert exit_code(details(status, code)) == expected


def test_variables_pass_by_name_and_secrets_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLOUR", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "Db_Password", "PYTHONPATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "planted")
    assert environment(["COLOUR"], allow_secrets=False) == {"COLOUR": "planted"}
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "Db_Password"):
        with pytest.raises(SpecError, match="looks like a secret") as caught:
            environment([name], allow_secrets=False)
        assert "planted" not in str(caught.value)
        assert environment([name], allow_secrets=True) == {name: "planted"}
    for name in ("PYTHONPATH", "RAY_AUTH_MODE"):
        with pytest.raises(SpecError, match="leave it out"):
            environment([name], allow_secrets=True)
    with pytest.raises(SpecError, match="takes a name") as caught:
        environment(["X=planted"], allow_secrets=True)
    assert "planted" not in str(caught.value)
    with pytest.raises(SpecError, match="not set here"):
        environment(["NOT_SET_ANYWHERE"], allow_secrets=False)


def test_a_described_job_names_its_variables_without_their_values() -> None:
    told = described(details("RUNNING", runtime_env={"env_vars": {"COLOUR": "planted"}}, metadata={"a": "b"}))
    assert told["env"] == ["COLOUR"]
    assert "planted" not in str(told)


def test_a_cluster_is_fixed_where_every_node_is_its_own_type() -> None:
    own = "node" + "24C9Ba82" * 7
    assert client._fixed({"activeNodes": {own: 1}, "idleNodes": {}}) is True
    assert client._fixed({"activeNodes": {}, "idleNodes": {own: 1}}) is True
    assert client._fixed({"activeNodes": {"head": 1, own: 1}}) is False
    assert client._fixed({"activeNodes": {}}) is None
    assert client._fixed(None) is None
