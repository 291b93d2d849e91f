"""Connecting to Ray: the cluster that is named, or one inside this process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
from ray.exceptions import AuthenticationError

from raydelt import environment
from raydelt.cluster.resources import may_grow_to
from raydelt.config import Cluster
from raydelt.errors import InputError, SpecError
from raydelt.service import tokens
from raydelt.storage import access

log = logging.getLogger(__name__)

STALL_SECONDS = 600
CONNECT_SECONDS = 10
STARTS = 3
SLOW_STARTS = ("timed out during startup", "Timed out while waiting for GCS")
# Where Ray tells the driver of a submitted job how it was submitted.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Ray Train takes one report per poll and worker; at its default of 2 s a short training waits more than it works.
TRAIN_POLL_SECONDS = "0.2"


@contextlib.contextmanager
def connected(spec: Cluster) -> Iterator[None]:
    """Ray for the length of a run: the cluster that the spec or RAY_ADDRESS names, or one inside this process.

    A Ray that was already initialised is used and left running.
    """
    _quiet()
    may_grow_to(spec.most)
    if ray.is_initialized():
        _settings()
        yield
        return
    address, embedded = spec.joined or "local", spec.joined is None
    if spec.joined is not None:
        _check_reachable(spec.joined)
    options: dict[str, Any] = {"address": address, "log_to_driver": bool(os.environ.get("RAYDELT_DEBUG"))}
    if embedded:
        options |= {
            "num_cpus": spec.num_cpus,
            "num_gpus": spec.num_gpus,
            "object_store_memory": spec.object_store_bytes,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        if embedded:
            # In a runtime environment this would cost every worker a second start of Python, and the workers that Ray
            # starts ahead would be of no use.
            with environment.having(PYTHONPATH=_search_path()):
                _start(options, STARTS)
        else:
            _start(options | {"runtime_env": _runtime_environment()}, 1)
    except AuthenticationError as error:
        raise InputError(tokens.told(address, error)) from None
    except (ConnectionError, ValueError) as error:
        # Of a token that the cluster does not take Ray says no more than of a cluster that is not there.
        raise InputError(
            f"cluster.address {address!r} cannot be joined ({error}): check that Ray runs there, and your token if it "
            f"wants one ({tokens.CURE})"
        ) from error
    try:
        _settings()
        yield
    finally:
        ray.shutdown()


def _start(options: dict[str, Any], attempts: int) -> None:
    """Start Ray or connect to it; a node of its own that is not up after Ray's half a minute is tried again."""
    for attempt in range(attempts):
        try:
            ray.init(logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            # Ray raises no narrower class for this.
            if not any(sign in str(error) for sign in SLOW_STARTS):
                raise
            ray.shutdown()
            if attempt + 1 == attempts:
                raise InputError(
                    f"Ray did not start on this machine within half a minute, {attempts} times: it has too little "
                    "processor time or memory left"
                ) from error
            log.warning("Ray did not start within half a minute: trying again")


def _check_reachable(address: str) -> None:
    """Find out in seconds what Ray would try for minutes: whether anything listens at `host:port`."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        raise SpecError(f"cluster.address {address!r} must be auto, local, host:port or ray://host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"cluster.address {address!r} cannot be reached ({error}): check that Ray runs there"
        ) from error


def _search_path() -> str:
    """Where this process imports from, so that workers can import the same."""
    return os.pathsep.join(path for path in sys.path if path and os.path.isdir(path))


def _runtime_environment() -> dict[str, Any]:
    """What the workers of a cluster need to import what the driver can, and to reach the stores that it reaches.

    Ray writes a runtime environment into logs and command lines, so credentials go another way: in a function that
    each worker of this job fetches and calls as it starts.
    """
    plain, secret = access.of_this_process()
    # What the job was submitted with holds already, and Ray refuses to be told twice.
    job = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env") or {}
    variables = {"PYTHONPATH": _search_path()} | plain
    found: dict[str, Any] = {"env_vars": {n: v for n, v in variables.items() if n not in job.get("env_vars", {})}}
    if secret:
        found["worker_process_setup_hook"] = access.giver(secret)
    return found


def _quiet() -> None:
    """Keep Ray's own chatter from a terminal that shows our lines; RAYDELT_DEBUG brings it back."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", TRAIN_POLL_SECONDS)
    if os.environ.get("RAYDELT_DEBUG"):
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _settings() -> None:
    """Ray Data settings of every run: progress bars on a terminal only, and no silent stall."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.execution_no_progress_timeout_s = STALL_SECONDS
    context.enable_auto_log_stats = False


def session() -> str | None:
    """The name of the session of Ray that this process is connected to, which its processes' commands carry."""
    node = getattr(ray._private.worker.global_worker, "node", None)
    return node.session_name if node is not None and ray.is_initialized() else None
