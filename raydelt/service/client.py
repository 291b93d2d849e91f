"""The connection to a cluster's Jobs API: addresses, tokens, bounded waits, and one sentence for every fault.

Ray's own client carries the requests, with its token from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH where RAY_AUTH_MODE
is `token`. It has no time-outs, and lets RAY_ADDRESS override an address that was asked for; both are mended here.

Caution: whoever may submit a job may run anything on the cluster, so its dashboard belongs behind a token and a
private address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.dashboard.utils import get_address_for_submission_client
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from raydelt import environment
from raydelt.errors import InputError, SpecError
from raydelt.service import tokens
from raydelt.service.identity import shown

CONNECT_SECONDS = 10
ANSWER_SECONDS = 120
SILENT_SECONDS = 60
PATIENCE_SECONDS = 300
OVERRIDES = "RAY_API_SERVER_ADDRESS"
PORTS = {"http": 80, "https": 443}
ITS_OWN_TYPE = re.compile(r"node_?[0-9a-f]{56}", re.IGNORECASE)


class Refused(RuntimeError):
    """An answer of the cluster that is not a success."""

    def __init__(self, status: int, text: str) -> None:
        lines = [line for line in text.splitlines() if line.strip()]
        super().__init__(lines[-1].strip() if lines else f"HTTP {status}")
        self.status, self.text = status, text


class Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client with bounded waits, and refusals that keep their status."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), **options)

    def _raise_error(self, r: requests.Response) -> None:
        raise Refused(r.status_code, r.text)

    def fetched(self, path: str) -> Any:
        """The `data` of a JSON answer of the dashboard.

        Raises:
            Refused: the dashboard has no such page, or cannot answer.
        """
        answer = self._do_request("GET", path)
        if answer.status_code != 200:
            self._raise_error(answer)
        return answer.json()["data"]


@dataclass(frozen=True)
class Node:
    """A node that is alive: its address, and the resources it has in total."""

    ip: str
    resources: dict[str, float]


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster; `fixed` where nothing adds to them, None where that is not known."""

    alive: list[Node]
    fixed: bool | None

    @property
    def here(self) -> bool:
        """Whether every node is this machine; a forwarded port on loopback does not make it so."""
        return bool(self.alive) and all(_is_own(node.ip) for node in self.alive)


def connect(address: str) -> Client:
    """A client of the cluster at `http(s)://host:port`, `ray://host:port`, `host:port` of its GCS, or `auto`.

    Raises:
        InputError: nothing answers within `CONNECT_SECONDS`, it is no Ray dashboard, or it refuses the token.
    """
    if address != "auto":
        _check_reachable(address)
    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # So that an address that was asked for stands: Ray prefers the one in the environment.
    with plain(address), environment.having(**{OVERRIDES: address}):
        try:
            url = os.environ[OVERRIDES] = _url(address)
            return Client(url)
        except (requests.JSONDecodeError, requests.HTTPError, KeyError, RuntimeError) as error:
            raise InputError(
                f"what answers at {shown(address)!r} is not the dashboard of a Ray cluster: check --address"
            ) from error


def _url(address: str) -> str:
    """The dashboard of an address; `head:8265` is taken for one where Ray would try for a GCS for 40 s."""
    if "://" not in address and address != "auto":
        with contextlib.suppress(requests.RequestException):
            requests.get(f"http://{address}/api/version", timeout=CONNECT_SECONDS)
            return f"http://{address}"
    url: str = get_address_for_submission_client(address)
    return url


def _check_reachable(address: str) -> None:
    """Find out in seconds what Ray would try for minutes: whether anything listens there."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if parts.scheme not in ("", "ray", *PORTS) or not parts.hostname or port is None:
        raise SpecError(
            f"--address {shown(address)!r} must read http(s)://host:port, ray://host:port, host:port or auto"
        )
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(_unreachable(address, error)) from error


def _unreachable(address: str, error: object) -> str:
    return f"no cluster answers at {shown(address)!r} ({error}): check --address, and that its dashboard runs there"


@contextlib.contextmanager
def plain(address: str) -> Iterator[None]:
    """Tell what can go wrong between here and the cluster in one sentence each."""
    place = shown(address)
    try:
        yield
    except Refused as error:
        if error.status == 404:
            raise InputError(f"{error} at {place!r}: `raydelt list` shows what there is") from error
        raise InputError(f"the cluster at {place!r} refuses ({error})") from error
    except AuthenticationError as error:
        raise InputError(tokens.told(place, error)) from None
    except (requests.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise InputError(_unreachable(address, _brief(error))) from error


def _brief(error: BaseException) -> str:
    """The innermost cause; urllib3 nests four of them."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def nodes(client: Client) -> Nodes:
    """The nodes of the cluster, as far as its dashboard tells."""
    try:
        found = client.fetched("/api/v0/nodes?detail=1&limit=10000")["result"]["result"]
        report = (client.fetched("/api/cluster_status") or {}).get("clusterStatus") or {}
    except (Refused, KeyError):
        return Nodes([], None)
    alive = [Node(node["node_ip"], node["resources_total"]) for node in found if node["state"] == "ALIVE"]
    return Nodes(alive, _fixed(report.get("autoscalerReport")))


def _fixed(report: dict[str, Any] | None) -> bool | None:
    """Whether the autoscaler's report is that of a cluster without one.

    Ray then names a node type after each node; of an autoscaler's limits the dashboard tells nothing.
    """
    types = [name for key in ("activeNodes", "idleNodes") for name in (report or {}).get(key) or {}]
    return all(ITS_OWN_TYPE.fullmatch(name) for name in types) if types else None


def _is_own(ip: str) -> bool:
    """Whether an address is one of this machine's: only those can be bound."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def follow(client: Client, job: str, write: Callable[[str], object]) -> JobDetails:
    """Write a job's log from its beginning until the job has ended; a connection that drops is taken up again.

    Raises:
        ConnectionError: nothing was heard of the job for `PATIENCE_SECONDS`.
        Refused: the cluster refuses to tell, or has said for as long that there is no such job.
    """
    return asyncio.run(_follow(client, job, write))


async def _follow(client: Client, job: str, write: Callable[[str], object]) -> JobDetails:
    written = 0
    lost: float | None = None
    while True:
        place = 0
        try:
            if not client.get_job_info(job).status.is_terminal():
                lost = None
            async with contextlib.aclosing(_tail(client, job)) as texts:
                async for text in texts:
                    place += len(text)
                    if place > written:
                        write(text[written - place :])
                        written, lost = place, None
            details = client.get_job_info(job)
            if details.status.is_terminal():
                return details
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            lost = time.monotonic() if lost is None else lost
            if not _passes(error) or time.monotonic() - lost > PATIENCE_SECONDS:
                if isinstance(error, Refused):
                    raise
                raise ConnectionError(f"the log of {job} broke off: {error}") from error
        await asyncio.sleep(1)


async def _tail(client: Client, job: str) -> AsyncGenerator[str, None]:
    """What Ray's own tail tells. Of a head that vanished it tells nothing, so after a silence the job is asked about.

    Raises:
        OSError: nobody answers, or the job has ended without the tail's noticing.
    """
    texts = client.tail_job_logs(job)
    following: asyncio.Future[str] | None = None
    try:
        while True:
            # A wait that cancels would end the tail at every silence.
            following = following or asyncio.ensure_future(anext(texts))
            await asyncio.wait([following], timeout=SILENT_SECONDS)
            if following.done():
                yield following.result()
                following = None
            elif client.get_job_info(job).status.is_terminal():
                raise ConnectionError("it says nothing, and the job has ended")
    except StopAsyncIteration:
        return
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await texts.aclose()


def _passes(error: Exception) -> bool:
    """Whether a fault may pass: a head that starts again knows its jobs only after a while."""
    return not isinstance(error, Refused) or error.status == 404 or error.status >= 500
