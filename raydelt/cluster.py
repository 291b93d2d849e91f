"""The one wrapper over Ray: connecting, parallel tasks, actor pools, a shuffle, and progress.

Work items are published files (`parts`) whose boundaries depend on the data alone, so results do not depend on how
many tasks, actors or nodes there are. Arrow tables travel through the object store, which spills to disk; the driver
sees counts and file names only.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayTaskError

from raydelt import errors, metrics
from raydelt.config import Actors
from raydelt.config import Cluster as ClusterSpec
from raydelt.errors import InputError, RaydeltError, SpecError
from raydelt.scorers.protocol import Reducer
from raydelt.storage import access

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")

TASK_RETRIES = 3
STALL_SECONDS = 600
FAILED = "failed"
ROWS = "rows"
SECONDS = "seconds"
CONNECT_SECONDS = 10
STARTS = 3
SLOW_STARTS = ("timed out during startup", "Timed out while waiting for GCS")
RELEASE_SECONDS = 20
# Where Ray tells the driver of a submitted job how it was submitted.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# By resource, what the spec says that an autoscaler may grow the cluster to.
_most: dict[str, float] = {}
# Ray Train takes one report per poll and worker; at its default of 2 s a short training waits more than it works.
TRAIN_POLL_SECONDS = "0.2"


@contextlib.contextmanager
def connected(spec: ClusterSpec) -> Iterator[None]:
    """Ray for the length of a run: the cluster that the spec or RAY_ADDRESS names, or one inside this process.

    A Ray that was already initialised is used and left running.
    """
    _quiet()
    _most.clear()
    if spec.most is not None:
        _most.update(CPU=spec.most.cpus, GPU=spec.most.gpus)
    if ray.is_initialized():
        _settings()
        yield
        return
    address = spec.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    embedded = address == "local"
    if not embedded:
        _check_reachable(address)
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
        _start(options, _runtime_environment(embedded), STARTS if embedded else 1)
    except (ConnectionError, ValueError) as error:
        raise InputError(
            f"cluster.address {address!r} cannot be reached ({error}): check that Ray runs there"
        ) from error
    try:
        _settings()
        yield
    finally:
        ray.shutdown()


def _start(options: dict[str, Any], environment: dict[str, Any], attempts: int) -> None:
    """Start Ray or connect to it; a node of its own that is not up after Ray's half a minute is tried again."""
    for attempt in range(attempts):
        try:
            ray.init(logging_level=logging.ERROR, runtime_env=environment, **options)
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


def _runtime_environment(embedded: bool) -> dict[str, Any]:
    """What workers need to import what the driver can, to stay quiet, and to reach the stores that it reaches.

    Ray writes a runtime environment into logs and command lines, so credentials go another way: in a function that
    each worker of this job fetches and calls as it starts. Workers of an embedded Ray inherit them.
    """
    paths = [path for path in sys.path if path and os.path.isdir(path)]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "RAY_TRAIN_V2_ENABLED": "1"}
    found: dict[str, Any] = {"env_vars": variables}
    if not embedded:
        plain, secret = access.of_this_process()
        # What the job was submitted with holds already, and Ray refuses to be told twice.
        job = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env") or {}
        found["env_vars"] = {n: v for n, v in (variables | plain).items() if n not in job.get("env_vars", {})}
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


def cpus() -> int:
    """CPUs of the cluster, at least one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def session() -> str | None:
    """The name of the session of Ray that this process is connected to, which its processes' commands carry."""
    node = getattr(ray._private.worker.global_worker, "node", None)
    return node.session_name if node is not None and ray.is_initialized() else None


def capacity() -> dict[str, Any]:
    """CPUs, GPUs, machines and object-store bytes of the cluster; `most` is what its autoscaler may grow it to."""
    there = ray.cluster_resources()
    return {
        "cpus": cpus(),
        "gpus": there.get("GPU", 0.0),
        "machines": max(1, sum(node["Alive"] for node in ray.nodes())),
        "object_store_bytes": int(there.get("object_store_memory", 0)),
        "most": {"cpus": _most["CPU"], "gpus": _most["GPU"]} if _most else None,
    }


def require(resource: str, amount: float, field: str) -> None:
    """Fail at once where the cluster can never satisfy a request that Ray would wait for."""
    there = max(ray.cluster_resources().get(resource, 0.0), _most.get(resource, 0.0))
    if amount > there:
        raise SpecError(f"{field} asks for {amount:g} {resource} but the cluster has {there:g}: lower it or add nodes")


def wait_for_free(resource: str, amount: float) -> None:
    """Give actors of an earlier stage up to `RELEASE_SECONDS` to end, so that a group of workers finds room at once.

    An actor ends with the last handle to it, and Ray Data leaves some of its in cycles; meanwhile it keeps its CPUs,
    and a group that cannot start whole waits a minute between two attempts.
    """
    until = time.monotonic() + RELEASE_SECONDS
    while ray.available_resources().get(resource, 0.0) < amount and time.monotonic() < until:
        gc.collect()
        time.sleep(0.1)


def shared(function: Callable[..., Any], *args: Any, label: str, num_gpus: float = 0.0) -> Any:
    """A reference to `function(*args)`, computed by a task and kept in the object store for other tasks to read."""
    return ray.remote(function).options(num_gpus=num_gpus, max_retries=TASK_RETRIES, name=label).remote(*args)


def cancelled(references: Sequence[Any]) -> None:
    """Stop the tasks that these references stand for, running or waiting, and see them end."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(list(references), num_returns=len(references), timeout=RELEASE_SECONDS)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Let an error that is meant for the user out of a task's or an actor's wrapping."""
    try:
        yield
    except Exception as error:
        told = _user_error(error)
        if told is None or told is error:
            raise
        raise told from None


def _user_error(error: BaseException | None) -> RaydeltError | None:
    """The RaydeltError that an exception wraps, at any depth; Ray's own wrappers of it do not count as it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RaydeltError) and not isinstance(error, RayTaskError):
            return error
        # The errors of a worker group lie beside it, one for each worker that failed.
        failures = getattr(error, "worker_failures", {}).values()
        told = next(filter(None, map(_user_error, failures)), None)
        if told is not None:
            return told
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def parallel(
    function: Callable[..., R], calls: Sequence[tuple[Any, ...]], *, label: str, num_gpus: float = 0.0
) -> list[R]:
    """Results of `function(*call)` as Ray tasks, in the order of the calls; object references are resolved by Ray.

    At most four tasks per CPU are in flight, so a long list of calls costs no memory.
    """
    remote = ray.remote(function).options(num_gpus=num_gpus, max_retries=TASK_RETRIES, name=label)
    results: list[Any] = [None] * len(calls)
    waiting = iter(enumerate(calls))
    flying: dict[Any, int] = {}
    with plain_errors(), _progress(label, len(calls)) as advance:
        for index, call in itertools.islice(waiting, 4 * cpus()):
            flying[remote.remote(*call)] = index
        while flying:
            [done], _ = ray.wait(list(flying), num_returns=1)
            results[flying.pop(done)] = ray.get(done)
            advance()
            for index, call in itertools.islice(waiting, 1):
                flying[remote.remote(*call)] = index
    return results


def scatter(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], outputs: int, *, label: str) -> list[Any]:
    """References [calls][outputs] to the results of every `function(*call)`, which stay in the object store."""
    remote = ray.remote(function).options(num_returns=outputs, max_retries=TASK_RETRIES, name=label)
    return [remote.remote(*call) for call in calls]


def fetched(references: Sequence[Any]) -> list[Any]:
    """What the references stand for, brought to the driver."""
    with plain_errors():
        return list(ray.get(list(references)))


def actor_map(
    worker: type, items: Sequence[Mapping[str, Any]], *, options: Mapping[str, Any], actors: Actors, label: str
) -> Iterator[dict[str, Any]]:
    """The row that `worker(**options)` returns for each item, from a Ray Data pool of actors.

    The pool grows from `actors.min` to `actors.max` (default: as many as the CPUs carry); a killed actor is replaced
    and its item done again. An error that is meant for the user ends the map, from an actor's start as from its work.
    `rows` of an item, where it says so, are what it counts for in the metrics.
    """
    most = actors.max or max(actors.min, cpus(), int(_most.get("CPU", 0)))
    pool = ray.data.ActorPoolStrategy(min_size=actors.min, max_size=max(actors.min, min(most, len(items))))
    rows = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
    rows.set_name(label)
    scored = rows.map_batches(
        _Telling,
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=actors.num_cpus,
        num_gpus=actors.num_gpus or None,
        fn_constructor_kwargs={"worker": worker, "options": dict(options), "labels": metrics.labels()},
    )
    metrics.queued(len(items))
    with plain_errors():
        for number, row in enumerate(scored.iter_rows(), start=1):
            if row[FAILED]:
                kind, _, text = row[FAILED].partition(":")
                raise getattr(errors, kind)(text)
            metrics.part_done(row[ROWS], row[SECONDS], len(items) - number)
            yield row


class _Telling:
    """An actor's worker whose errors for the user come back as rows.

    Ray starts an actor that cannot start again and again, and an exception out of a Ray Data actor loses its cause on
    the way; a row does neither.
    """

    def __init__(self, worker: type, options: dict[str, Any], labels: dict[str, str]) -> None:
        self.failure, self.work = "", None
        metrics.actor_here(labels)
        try:
            self.work = worker(**options)
        except RaydeltError as error:
            self.failure = _told(error)

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        counted = sum(batch[ROWS].to_pylist()) if ROWS in batch.column_names else 0
        if self.work is not None:
            started = time.perf_counter()
            try:
                rows: dict[str, list[Any]] = self.work(batch)
                spent = time.perf_counter() - started
                return rows | {FAILED: [""], ROWS: [counted], SECONDS: [spent]}
            except RaydeltError as error:
                self.failure = _told(error)
        return {"done": [""], FAILED: [self.failure], ROWS: [0], SECONDS: [0.0]}


def _told(error: RaydeltError) -> str:
    """An error's kind, as `raydelt.errors` has it, and text."""
    kind = next(base for base in type(error).__mro__ if base.__module__ == errors.__name__)
    return f"{kind.__name__}:{error}"


def reduce_parts(reducer: Reducer[S, R], read: Callable[[int], pa.RecordBatch], parts: int, *, label: str) -> R:
    """`reducer` over all parts: one state per part as a task, merged in the order of the parts."""
    total = reducer.zero()
    for state in parallel(_state_of, [(reducer, read, index) for index in range(parts)], label=label):
        total = reducer.merge(total, state)
    return reducer.finish(total)


def _state_of(reducer: Reducer[S, Any], read: Callable[[int], pa.RecordBatch], index: int) -> S:
    return reducer.add(reducer.zero(), read(index))


def shuffle(
    inputs: Sequence[Any],
    split: Callable[[Any, int], list[pa.Table]],
    merge: Callable[[int, list[pa.Table]], R],
    partitions: int,
    *,
    label: str,
) -> list[R]:
    """Every input is split into `partitions` tables by one task each; every partition is merged by one task.

    `inputs` may be object references. The pieces of a partition arrive in the order of the inputs; a merge that must
    not depend on the layout of its input sorts them. Memory of a task: one input, or one partition.
    """
    return parallel(_merge, _pieces(inputs, split, merge, partitions, label), label=label)


def regroup(
    inputs: Sequence[Any],
    split: Callable[[Any, int], list[pa.Table]],
    merge: Callable[[int, list[pa.Table]], pa.Table],
    partitions: int,
    *,
    label: str,
) -> list[Any]:
    """A shuffle whose merged tables stay in the object store: references, one per partition, for a next step."""
    merger = ray.remote(_merge).options(max_retries=TASK_RETRIES, name=label)
    return [merger.remote(*call) for call in _pieces(inputs, split, merge, partitions, label)]


def _pieces(inputs: Sequence[Any], split: Any, merge: Any, partitions: int, label: str) -> list[tuple[Any, ...]]:
    splitter = ray.remote(_split).options(num_returns=partitions, max_retries=TASK_RETRIES, name=f"{label}: split")
    rows = [splitter.remote(split, item, partitions) for item in inputs]
    return [(merge, index, *(row if partitions == 1 else row[index] for row in rows)) for index in range(partitions)]


def _split(split: Callable[[Any, int], list[pa.Table]], item: Any, partitions: int) -> Any:
    pieces = split(item, partitions)
    return pieces[0] if partitions == 1 else pieces


def _merge(merge: Callable[[int, list[pa.Table]], R], index: int, *pieces: pa.Table) -> R:
    return merge(index, list(pieces))


@contextlib.contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    with _bar(label, total) as bar:
        yield lambda: bar(1.0)


@contextlib.contextmanager
def remote_progress(label: str, total: int) -> Iterator[Any]:
    """An actor whose `advance.remote(amount)` moves a bar on the driver's terminal; None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    counter = ray.remote(_Counter).options(num_cpus=0).remote()
    ended = threading.Event()

    def follow(bar: Callable[[float], None]) -> None:
        while not ended.wait(0.5):
            bar(ray.get(counter.taken.remote()))

    with _bar(label, total) as bar:
        thread = threading.Thread(target=follow, args=(bar,), daemon=True)
        thread.start()
        try:
            yield counter
        finally:
            ended.set()
            thread.join()
            ray.kill(counter)


class _Counter:
    """Counts up from anywhere; the driver takes what has come together."""

    def __init__(self) -> None:
        self.count = 0.0

    def advance(self, amount: float) -> None:
        self.count += amount

    def taken(self) -> float:
        count, self.count = self.count, 0.0
        return count


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[float], None]]:
    if not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda amount: progress.advance(task, amount)
