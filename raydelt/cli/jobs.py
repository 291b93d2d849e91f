"""Commands of a service: runs as jobs of a Ray cluster."""

from __future__ import annotations

import enum
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from raydelt.cli.app import SERVICE, Json, Override, RunOrSpec, app

DASHBOARD = "http://127.0.0.1:8265"
Address = Annotated[
    str,
    typer.Option(envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="The cluster's dashboard, http://head:8265."),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that `raydelt submit` printed.")]
Many = list[str] | None


class Job(enum.StrEnum):
    """How far a job goes; each is the command of that name."""

    run = "run"
    score = "score"
    rank = "rank"
    select = "select"
    order = "order"
    train = "train"
    rescore = "rescore"


class Code(enum.StrEnum):
    """Where the raydelt of a job comes from."""

    ship = "ship"
    image = "image"


@app.command(rich_help_panel=SERVICE)
def submit(
    spec: RunOrSpec,
    address: Address = DASHBOARD,
    job: Annotated[Job, typer.Option(help="How far to go; rescore scores again.")] = Job.run,
    since: Annotated[str | None, typer.Option(help="With --job rescore: its --since.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the log, and end with the job's exit code.")] = False,
    job_id: Annotated[str | None, typer.Option("--id", help="Default: name and fingerprint of spec and code.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run again what has succeeded already.")] = False,
    owner: Annotated[str | None, typer.Option(help="Whose job it is; default: the user here.")] = None,
    working_dir: Annotated[Path, typer.Option(file_okay=False, exists=True, help="What is shipped.")] = Path("."),
    bare: Annotated[bool, typer.Option("--bare", help="Ship nothing of the working directory.")] = False,
    include: Annotated[Many, typer.Option(help="Ship this path or glob although it is ignored; repeatable.")] = None,
    code: Annotated[Code, typer.Option(help="Ship this raydelt, or use the image's.")] = Code.ship,
    wheel: Annotated[list[Path] | None, typer.Option(help="A pure Python wheel to ship; repeatable.")] = None,
    package_mib: Annotated[int, typer.Option(min=1, max=400, help="The most that may be shipped.")] = 100,
    shared: Annotated[bool, typer.Option("--shared", help="Every node sees this machine's paths.")] = False,
    env: Annotated[Many, typer.Option(help="Pass this variable on, by name; repeatable. Ray shows it.")] = None,
    allow_secret_env: Annotated[
        bool, typer.Option("--allow-secret-env", help="Even one named like a secret.")
    ] = False,
    pip: Annotated[Many, typer.Option(help="A requirement to install on the cluster; repeatable.")] = None,
    num_cpus: Annotated[float, typer.Option(min=0, help="CPUs of the entry point itself.")] = 0,
    num_gpus: Annotated[float, typer.Option(min=0, help="GPUs of the entry point itself.")] = 0,
    memory: Annotated[int, typer.Option(min=0, help="Bytes of memory of the entry point itself.")] = 0,
    resource: Annotated[Many, typer.Option(help="name=amount of the entry point; repeatable.")] = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Run a spec, or a run's own, as a job of a Ray cluster; the same spec and code are the same job."""
    from raydelt.specfile import load_or_resume

    config = load_or_resume(spec, override)
    from raydelt.service import submit as service
    from raydelt.service.demands import Entry

    request = service.Request(
        job=job.value,
        arguments=_arguments(job, since),
        id=job_id,
        owner=owner,
        # What is scored again is scored again once more, unless its id says which time it is.
        again=again or (job is Job.rescore and job_id is None),
        folder=None if bare else working_dir,
        ship=code is Code.ship,
        wheels=wheel or [],
        include=include or [],
        leave=[Path(spec)],
        limit=package_mib << 20,
        shared=shared,
        env=env or [],
        allow_secrets=allow_secret_env,
        pip=pip or [],
        entry=Entry(num_cpus, num_gpus, memory, _amounts(resource or [])),
    )
    done = service.submit(config, request, address)
    for warning in done.warnings:
        typer.echo(f"raydelt: warning: {warning}", err=True)
    if as_json:
        typer.echo(json.dumps({"id": done.id, "new": done.new, "status": done.status}, indent=2))
    elif done.new:
        typer.echo(f"submitted {done.id}")
    else:
        hint = "; --again runs it again" if done.status == "SUCCEEDED" else ""
        typer.echo(f"{done.id} is there already, {done.status.lower()}{hint}")
    if wait:
        service.wait(address, done.id, _write)


@app.command(rich_help_panel=SERVICE)
def status(job: JobId, address: Address = DASHBOARD, as_json: Json = False) -> None:
    """Tell how a job stands."""
    from raydelt.service import submit as service

    found = service.status_of(address, job)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    ended = f", exit code {found['exit_code']}" if found["exit_code"] is not None else ""
    typer.echo(f"{found['id']}: {found['status'].lower()}{ended}")
    for key, value in sorted(found["metadata"].items()):
        typer.echo(f"  {key.removeprefix('raydelt.'):10} {value}")


@app.command(rich_help_panel=SERVICE)
def logs(
    job: JobId,
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
) -> None:
    """Print the log of a job."""
    from raydelt.service import submit as service

    if follow:
        service.follow(address, job, _write)
    else:
        _write(service.log_of(address, job))


@app.command(rich_help_panel=SERVICE)
def stop(job: JobId, address: Address = DASHBOARD) -> None:
    """Stop a job; what it has published stays, and the same submission goes on from there."""
    from raydelt.service import submit as service

    typer.echo(f"{job}: {service.stop(address, job).lower()}")


@app.command("list", rich_help_panel=SERVICE)
def list_jobs(
    address: Address = DASHBOARD,
    everyone: Annotated[bool, typer.Option("--all", help="Also jobs that raydelt did not submit.")] = False,
    as_json: Json = False,
) -> None:
    """List the jobs of a cluster."""
    from raydelt.service import submit as service

    found = service.jobs_of(address, everyone=everyone)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for job in found:
        typer.echo(_line(job))
    if not found:
        typer.echo("no jobs")


def _line(job: dict[str, Any]) -> str:
    facts = {key.removeprefix("raydelt."): value for key, value in job["metadata"].items()}
    started = time.strftime("%Y-%m-%d %H:%M", time.gmtime(job["started"])) if job["started"] else "-"
    words = [job["id"], job["status"].lower(), started, *(facts.get(key, "-") for key in ("job", "owner", "corpus"))]
    return "  ".join(words)


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _arguments(job: Job, since: str | None) -> list[str]:
    """What the command of a job is called with, beside the spec."""
    from raydelt.errors import SpecError
    from raydelt.rescore import since as times

    if since is None:
        return ["--first"] if job is Job.rescore else []
    if job is not Job.rescore:
        raise SpecError(f"--since {since!r} is for --job rescore: drop it, or say that job")
    times.since(since, now=time.time())
    return ["--first", "--since", since]


def _amounts(pairs: list[str]) -> dict[str, float]:
    from raydelt.errors import SpecError

    amounts = {}
    for pair in pairs:
        name, _, amount = pair.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError as error:
            raise SpecError(f"--resource {pair!r} must read name=amount") from error
    return amounts
