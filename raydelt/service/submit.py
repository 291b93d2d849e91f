"""A run as a job of a cluster: checked here, shipped, submitted under its own id, and followed to its exit code.

    spec -> nodes, package, paths, demands -> id -> the job that stands, or a new attempt

Whatever can be refused is refused before anything is sent. Ctrl-C leaves the job running.

Caution: Ray shows the runtime environment of a job, the values of its variables included, to all who reach the
dashboard, and on command lines of its processes; secrets belong on the cluster's nodes (Kubernetes secrets, instance
roles), not in a submission.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.job_submission import JobDetails

from raydelt.config import RunConfig
from raydelt.errors import RaydeltError, SpecError
from raydelt.service import client as service
from raydelt.service import demands, identity, package
from raydelt.service.client import Client, Refused
from raydelt.service.places import localise
from raydelt.storage.places import AUTHORITY, masked

SPEC = "raydelt-job.json"
SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|PASSPHRASE|PGPASS|DATABASE_URL|CONNECTION_STRING|(^|_)(PASS|PAT|DSN)(_|$)|_PWD",
    re.IGNORECASE,
)
OURS = re.compile(r"PYTHONPATH|RAY_.*")
EXIT_CODES = (0, 1, 2, 3)
STOP_SECONDS = 15


@dataclass(frozen=True)
class Request:
    """What a submission says beside the spec; see `raydelt submit --help`."""

    job: str = "run"
    arguments: Sequence[str] = ()
    id: str | None = None
    owner: str | None = None
    again: bool = False
    folder: Path | None = None
    ship: bool = True
    wheels: Sequence[Path] = ()
    include: Sequence[str] = ()
    leave: Sequence[Path] = ()
    limit: int = 100 << 20
    shared: bool = False
    env: Sequence[str] = ()
    allow_secrets: bool = False
    pip: Sequence[str] = ()
    entry: demands.Entry = field(default_factory=demands.Entry)


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted now (`new`), or the one that stood already, with the status it then had."""

    id: str
    new: bool
    status: str
    warnings: Sequence[str] = ()


class JobEnded(RaydeltError):
    """A followed job that did not succeed; its exit code is that of the entry point."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class LeftRunning(RaydeltError):
    """Following was interrupted; the job goes on."""

    exit_code = 130


def submit(config: RunConfig, request: Request, address: str) -> Submitted:
    """Submit a run, or find the job that the same spec and code already have.

    Raises:
        RaydeltError: no such cluster, a wrong token, paths or resources that the cluster does not have; one sentence.
    """
    variables = environment(request.env, allow_secrets=request.allow_secrets)
    check_requirements(request.pip)
    client = service.connect(address)
    with service.plain(address):
        nodes = service.nodes(client)
        folder = request.folder.resolve() if request.folder is not None else None
        packed = package.collect(
            folder,
            ship=request.ship,
            wheels=request.wheels,
            include=request.include,
            leave=request.leave,
            limit=request.limit,
        )
        spec = on_cluster(config, folder=folder, packed=packed, everywhere=request.shared or nodes.here)
        warnings = demands.check(nodes, request.entry, config)
        settings = {"job": request.job, "env": variables, "pip": list(request.pip), "ship": request.ship}
        settings |= {"arguments": list(request.arguments)} if request.arguments else {}
        who = identity.identity(spec, packed.digest, settings)
        base = identity.base_id(config.name, who, chosen=request.id)
        facts = identity.metadata(spec, packed.digest, who, job=request.job, owner=request.owner)
        while True:
            found = identity.attempt(base, who, _jobs(client), again=request.again)
            if found.status is not None:
                return Submitted(found.id, False, found.status, warnings)
            if _send(client, found.id, spec, packed, variables, facts, request):
                return Submitted(found.id, True, "PENDING", warnings)


def on_cluster(config: RunConfig, *, folder: Path | None, packed: package.Package, everywhere: bool) -> dict[str, Any]:
    """The resolved spec as the job will read it: its paths, and the cluster that it runs on."""
    spec = localise(config.resolved(), folder=folder, shipped=packed.files.keys(), everywhere=everywhere)
    alone = {"address": "auto", "num_cpus": None, "num_gpus": None, "object_store_bytes": None}
    return spec | {"cluster": spec["cluster"] | alone}


def environment(names: Sequence[str], *, allow_secrets: bool) -> dict[str, str]:
    """The variables to pass, with their values from here.

    Raises:
        SpecError: one that is not set, that Ray or raydelt sets itself, or that looks like a secret.
    """
    for name in names:
        if "=" in name:
            raise SpecError(
                f"--env {name.split('=')[0]!r} takes a name, and its value from your environment: set it there"
            )
        if OURS.fullmatch(name):
            raise SpecError(f"--env {name!r} is set on the cluster by Ray or by raydelt: leave it out")
        if not allow_secrets and (SECRET.search(name) or AUTHORITY.search(os.environ.get(name, ""))):
            raise SpecError(
                f"--env {name!r} looks like a secret, and Ray shows the values of a job's variables to all who reach "
                "its dashboard: give it to the cluster's nodes, or pass --allow-secret-env"
            )
        if name not in os.environ:
            raise SpecError(f"--env {name!r} is not set here: export it, or leave it out")
    return {name: os.environ[name] for name in sorted(set(names))}


def check_requirements(requirements: Sequence[str]) -> None:
    """Refuse requirements that hold credentials.

    Raises:
        SpecError: the URL of one has a user or a token in it.
    """
    for requirement in requirements:
        # Git's user of ssh is a name; its key stays where it is.
        if AUTHORITY.search(requirement.replace("ssh://git@", "ssh://")):
            raise SpecError(
                f"--pip {masked(requirement)!r} holds credentials, and Ray shows a job's requirements to all who "
                "reach its dashboard: put the package into the image, or ship its wheel by --wheel"
            )


def _jobs(client: Client) -> dict[str, tuple[str, dict[str, str]]]:
    jobs = [job for job in client.list_jobs() if job.submission_id is not None]
    return {job.submission_id: (str(job.status), job.metadata or {}) for job in jobs}


def _send(
    client: Client,
    name: str,
    spec: dict[str, Any],
    packed: package.Package,
    variables: dict[str, str],
    facts: dict[str, str],
    request: Request,
) -> bool:
    """Submit; False where another submission has taken the id in between."""
    entry = request.entry
    with tempfile.TemporaryDirectory(prefix="raydelt-") as scratch:
        archive = Path(scratch) / "job.zip"
        packed.write(archive, {SPEC: json.dumps(spec, indent=2).encode()})
        runtime: dict[str, Any] = {"working_dir": str(archive)}
        if variables:
            runtime["env_vars"] = variables
        if request.pip:
            runtime["pip"] = list(request.pip)
        try:
            client.submit_job(
                entrypoint=shlex.join(["python", "-m", "raydelt", request.job, SPEC, *request.arguments]),
                submission_id=name,
                runtime_env=runtime,
                metadata=dict(facts),
                entrypoint_num_cpus=entry.num_cpus or None,
                entrypoint_num_gpus=entry.num_gpus or None,
                entrypoint_memory=entry.memory or None,
                entrypoint_resources=dict(entry.resources) or None,
            )
        except Refused as refused:
            if "already exists" not in refused.text:
                raise
            return False
    return True


def wait(address: str, job: str, write: Callable[[str], object]) -> None:
    """Follow a job to its end.

    Raises:
        JobEnded: it did not succeed; the exit code is the entry point's where that is one of ours, else 1.
        LeftRunning: Ctrl-C.
    """
    details = follow(address, job, write)
    code = exit_code(details)
    if code:
        ended = f"exit code {details.driver_exit_code}" if details.driver_exit_code is not None else details.message
        raise JobEnded(f"job {job!r} {str(details.status).lower()} ({textwrap.shorten(str(ended), 300)})", code)


def follow(address: str, job: str, write: Callable[[str], object]) -> JobDetails:
    """Write a job's log until it has ended, and tell how it ended.

    Raises:
        LeftRunning: Ctrl-C; the job goes on.
    """
    client = service.connect(address)
    try:
        with service.plain(address):
            client.get_job_info(job)
            return service.follow(client, job, write)
    except KeyboardInterrupt:
        place = f"--address {identity.shown(address)}"
        raise LeftRunning(
            f"job {job!r} goes on: `raydelt logs {job} --follow {place}` follows it again, and "
            f"`raydelt stop {job} {place}` stops it"
        ) from None


def exit_code(details: JobDetails) -> int:
    """The exit code that stands for how a job ended: 0 only where it succeeded."""
    if str(details.status) == "SUCCEEDED":
        return 0
    code = details.driver_exit_code
    return int(code) if code in EXIT_CODES and code != 0 else 1


def stop(address: str, job: str) -> str:
    """Ask a job to end and wait a little for it; its status then."""
    client = service.connect(address)
    with service.plain(address):
        client.stop_job(job)
        until = time.monotonic() + STOP_SECONDS
        while True:
            details = client.get_job_info(job)
            if details.status.is_terminal() or time.monotonic() > until:
                return str(details.status)
            time.sleep(0.5)


def log_of(address: str, job: str) -> str:
    """The whole log of a job so far."""
    client = service.connect(address)
    with service.plain(address):
        return str(client.get_job_logs(job))


def status_of(address: str, job: str) -> dict[str, Any]:
    """How a job stands; of its environment only the names."""
    client = service.connect(address)
    with service.plain(address):
        return described(client.get_job_info(job))


def jobs_of(address: str, *, everyone: bool) -> list[dict[str, Any]]:
    """The jobs of the cluster, newest first; those that `raydelt submit` made, or all that were submitted."""
    client = service.connect(address)
    with service.plain(address):
        found = [described(job) for job in client.list_jobs() if job.submission_id is not None]
    chosen = [job for job in found if everyone or identity.WHO in job["metadata"]]
    return sorted(chosen, key=lambda job: (-(job["started"] or 0), job["id"]))


def described(details: JobDetails) -> dict[str, Any]:
    """A job as plain data; the values of its environment stay where they are."""
    return {
        "id": details.submission_id,
        "status": str(details.status),
        "exit_code": details.driver_exit_code,
        "message": details.message,
        "started": details.start_time / 1000 if details.start_time else None,
        "ended": details.end_time / 1000 if details.end_time else None,
        "entrypoint": details.entrypoint,
        "metadata": details.metadata or {},
        "env": sorted((details.runtime_env or {}).get("env_vars") or {}),
    }
