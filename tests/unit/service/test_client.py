"""The way to a cluster: bounded, told in one sentence, and nothing of a job that could be secret comes out."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import ray
from aiohttp import web
from ray.job_submission import JobDetails

from raydelt.errors import InputError, SpecError
from raydelt.service import client
from raydelt.service.client import Node, Nodes, connect
from raydelt.service.submit import check_requirements, described, environment, exit_code


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


LINES = [f"line {number}\n" for number in range(30)]


@dataclass
class Dashboard:
    """What a dashboard does: each tail of the log breaks off, or falls silent, after so many lines; the last is whole.

    While `away`, it does not know the job.
    """

    breaks: list[int]
    silent: bool = False
    away: int = 0
    tails: int = 0
    url: str = ""

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__})

    async def job(self, request: web.Request) -> web.Response:
        if self.away:
            self.away -= 1
            return web.Response(status=404, text="Job it does not exist")
        ended = self.tails > len(self.breaks) or (self.silent and self.tails)
        status = "SUCCEEDED" if ended else "RUNNING"
        return web.json_response({"type": "SUBMISSION", "status": status, "entrypoint": "e", "driver_exit_code": 0})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        stream = web.WebSocketResponse()
        await stream.prepare(request)
        self.tails += 1
        for number, line in enumerate(LINES):
            if self.tails <= len(self.breaks) and number == self.breaks[self.tails - 1]:
                if self.silent:
                    await asyncio.sleep(60)
                assert request.transport is not None
                request.transport.abort()
                break
            await stream.send_str(line)
        return stream


@contextlib.contextmanager
def serving(dashboard: Dashboard) -> Iterator[Dashboard]:
    loop = asyncio.new_event_loop()
    application = web.Application()
    application.router.add_get("/api/version", dashboard.version)
    application.router.add_get("/api/jobs/it", dashboard.job)
    application.router.add_get("/api/jobs/it/logs/tail", dashboard.tail)
    runner = web.AppRunner(application, shutdown_timeout=1)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    dashboard.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield dashboard
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SILENT_SECONDS", 0.3), ("ANSWER_SECONDS", 0.3), ("PATIENCE_SECONDS", 2)):
        monkeypatch.setattr(client, name, seconds)


def test_a_log_is_written_once_however_often_the_connection_drops() -> None:
    written: list[str] = []
    with serving(Dashboard([0, 7, 7, 19])) as dashboard:
        ended = client.follow(connect(dashboard.url), "it", written.append)
    assert written == LINES
    assert dashboard.tails == 5
    assert ended.driver_exit_code == 0


def test_a_head_that_starts_again_may_not_know_the_job_for_a_while() -> None:
    written: list[str] = []
    with serving(Dashboard([7])) as dashboard:
        there = connect(dashboard.url)
        dashboard.away = 3
        client.follow(there, "it", written.append)
    assert written == LINES


def test_a_job_that_stays_unknown_is_given_up(hasty: None) -> None:
    with serving(Dashboard([])) as dashboard:
        there = connect(dashboard.url)
        dashboard.away = 10**6
        with pytest.raises(InputError, match="does not exist"), client.plain(dashboard.url):
            client.follow(there, "it", lambda text: None)


def test_a_log_that_falls_silent_although_the_job_has_ended_is_taken_up_again(hasty: None) -> None:
    written: list[str] = []
    with serving(Dashboard([7], silent=True)) as dashboard:
        client.follow(connect(dashboard.url), "it", written.append)
    assert written == LINES
    assert dashboard.tails == 2


def test_a_head_that_says_nothing_any_more_is_given_up(hasty: None) -> None:
    with serving(Dashboard([])) as dashboard, socket.create_server(("127.0.0.1", 0)) as silent:
        there = connect(dashboard.url)
        there._address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(InputError, match="no cluster answers"), client.plain(dashboard.url):
            client.follow(there, "it", lambda text: None)
    assert time.monotonic() - started < 20


def test_a_head_that_vanishes_while_its_log_is_read_is_given_up(hasty: None) -> None:
    written: list[str] = []
    with serving(Dashboard([7], silent=True)) as dashboard, socket.create_server(("127.0.0.1", 0)) as silent:
        there = connect(dashboard.url)

        def write(text: str) -> None:
            written.append(text)
            there._address = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(InputError, match="no cluster answers"), client.plain(dashboard.url):
            client.follow(there, "it", write)
    assert written == LINES[:7]


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


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASS",
        "PGPASS",
        "SMTP_PWD",
        "GH_PAT",
        "DATABASE_URL",
        "AZURE_STORAGE_CONNECTION_STRING",
        "SENTRY_DSN",
        "DSN",
    ],
)
def test_names_of_what_holds_a_secret_are_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "planted")
    with pytest.raises(SpecError, match="looks like a secret"):
        environment([name], allow_secrets=False)


def test_a_value_that_holds_credentials_is_a_secret_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER", "redis://me:planted@host:6379/0")
    with pytest.raises(SpecError, match="'BROKER' looks like a secret") as caught:
        environment(["BROKER"], allow_secrets=False)
    assert "planted" not in str(caught.value)
    for name in ("COMPASS", "MY_PATH", "PATTERN"):
        monkeypatch.setenv(name, "http://host:80/x")
        assert environment([name], allow_secrets=False) == {name: "http://host:80/x"}


@pytest.mark.parametrize(
    "requirement",
    [
        "tool @ git+https://planted@github.com/a/tool.git",
        "--extra-index-url https://me:planted@host/simple --index-url https://you:planted@host/simple",
    ],
)
def test_a_requirement_with_credentials_is_refused(requirement: str) -> None:
    with pytest.raises(SpecError, match="holds credentials") as caught:
        check_requirements([requirement])
    assert "planted" not in str(caught.value)


def test_a_requirement_by_ssh_holds_none() -> None:
    check_requirements(["numpy>=2", "tool @ git+ssh://git@github.com/a/tool.git@main"])


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
