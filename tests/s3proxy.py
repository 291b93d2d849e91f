"""A proxy before an S3 server that counts requests, and fails a seeded share of them in the ways that networks do."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
HOPS = ("connection", "keep-alive", "transfer-encoding", "te", "upgrade")
# The kinds of fault: an answer of the server's own, and what happens to connections and bodies.
FAULTS = ("slowdown", "reset", "lost", "truncated", "shortened", "slow")
SLOW_SECONDS = 0.1


@dataclass
class Proxy:
    """The running proxy: `rates` are shares of requests by kind of fault, `refuse` answers for the server.

    `slowdown` is a 503, `reset` a connection reset before the request reaches the server, `lost` one after the server
    has done it, `truncated` a body that breaks off, `shortened` one that breaks off and a header that hides it.
    """

    endpoint: str
    rates: Mapping[str, float] = field(default_factory=dict)
    refuse: Callable[[str, str], tuple[int, str] | None] = lambda kind, path: None
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    _random: random.Random = field(default_factory=lambda: random.Random(11))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def drawn(self, kind: str) -> str | None:
        """Count a request, and draw what happens to it."""
        with self._lock:
            self.counts[kind] += 1
            u = self._random.random()
            for fault, rate in self.rates.items():
                if u < rate:
                    self.faults[fault] += 1
                    return fault
                u -= rate
        return None


@contextlib.contextmanager
def proxy(upstream: str, **rates: float) -> Iterator[Proxy]:
    """A proxy before the server at this URL."""
    assert not set(rates) - set(FAULTS)
    answers = {f"do_{method}": _Handler.answer for method in ("GET", "HEAD", "PUT", "POST", "DELETE")}
    handler = type("Handler", (_Handler,), {"upstream": urlsplit(upstream), **answers})
    server = _Server(("127.0.0.1", 0), handler)
    server.proxy = handler.proxy = Proxy(f"http://127.0.0.1:{server.server_port}", rates)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield handler.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: Proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: Any
    proxy: Proxy

    def answer(self) -> None:
        """Count the request, and answer it or let it fail."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = _kind(self.command, self.path)
        fault = self.proxy.drawn(kind)
        refused = self.proxy.refuse(kind, self.path)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        if fault == "reset":
            self._reset()
        elif refused is not None or fault == "slowdown":
            self._refuse(*(refused or (503, "SlowDown")))
        else:
            self._forward(body, fault)

    def _forward(self, body: bytes, fault: str | None) -> None:
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in (*HOPS, "expect"):
                connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        data = answer.read()
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        connection.close()
        if fault == "lost":
            self._reset()
            return
        cut = len(data) // 2 if fault in ("truncated", "shortened") and answer.status in (200, 206) else len(data)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in (*HOPS, "content-length"):
                self.send_header(name, value)
        if length is not None and answer.status != 204:
            self.send_header("Content-Length", str(cut if fault == "shortened" else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
            self.wfile.flush()
        if fault == "truncated" and cut < len(data):
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        data = ERROR.format(code=code).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _kind(method: str, path: str) -> str:
    """What a request asks for: LIST, or its method."""
    parts = urlsplit(path)
    listing = method == "GET" and ("list-type" in parse_qs(parts.query) or parts.path.strip("/").count("/") == 0)
    return "LIST" if listing else method
