"""`raydelt doctor`: everything that would stop a run or slow it down, asked before the run, with what helps.

Nothing is left behind: no file, no folder, no process. No check can hang the command: each has a deadline.
"""

from __future__ import annotations

from raydelt.config import Cluster, RunConfig
from raydelt.errors import RaydeltError
from raydelt.setup import checkpoints, look, machine, ray_start, stores
from raydelt.setup.findings import Check, Finding, answered, parted
from raydelt.storage import scheme

STORE_SECONDS, READ_SECONDS = 30.0, 60.0
STORE = "see whether the store is up: check AWS_ENDPOINT_URL and the network"


def examine(
    config: RunConfig | None, *, address: str | None = None, with_ray: bool = True, seconds: float | None = None
) -> tuple[list[Finding], bool]:
    """The findings of all checks that fit, and whether one was late; `seconds`, where given, is every deadline.

    The thread of a late check goes on; what it copied for a look is deleted.
    """
    checks = [*_of_machine(config), *(_of_spec(config) if config is not None else [])]
    if with_ray:
        cluster = config.cluster if config is not None else Cluster()
        if address is not None:
            cluster = cluster.model_copy(update={"address": address})
        limit = ray_start.SECONDS if seconds is None else seconds
        ask = Check("ray", lambda: ray_start.ray(cluster, config, seconds=limit), limit + 2 * ray_start.GRACE_SECONDS)
        checks.append(ask)
    if seconds is not None:
        checks = [Check(c.name, c.ask, c.seconds if c.name == "ray" else seconds, c.late) for c in checks]
    findings, late = answered(checks)
    if late:
        look.forget()
    return findings, late


def _of_machine(config: RunConfig | None) -> list[Check]:
    return [
        Check("python", machine.python),
        Check("libraries", machine.libraries),
        Check("cores", lambda: machine.cores(config)),
        Check("memory", machine.memory),
        Check("shared memory", machine.shared_memory),
        Check("disk of Ray", machine.ray_disk),
        Check("open files", machine.open_files),
        Check("proxies", machine.proxies),
        Check("gpus", lambda: machine.gpus(config), late="see whether `nvidia-smi` answers: the driver may hang"),
    ]


def _of_spec(config: RunConfig) -> list[Check]:
    sources = [
        *config.corpus.sources,
        *filter(None, (config.corpus.test.source, config.corpus.validation.source, config.corpus.pool)),
    ]
    places = [*sources, config.output]
    checks = [
        Check("spec", lambda: _spec(config)),
        Check("extras", lambda: machine.extras(config)),
        Check("source", lambda: stores.sources(config), READ_SECONDS, STORE),
        Check("output", lambda: stores.output(config), STORE_SECONDS, STORE),
    ]
    if scheme(config.output) == "":
        checks.append(Check("disk of output", lambda: machine.disk(config.output, "disk of output")))
    if any(scheme(place) for place in places):
        checks.append(Check("credentials", lambda: stores.credentials(places), STORE_SECONDS, STORE))
        checks.append(Check("clock", lambda: stores.clocks(places), STORE_SECONDS, STORE))
    if config.model.paths or config.model.checkpoints or config.encoder or _references(config):
        checks.append(Check("model", lambda: checkpoints.models(config), READ_SECONDS, STORE))
    return checks


def _references(config: RunConfig) -> bool:
    return any(hasattr(spec, "reference") for spec in config.score)


def _spec(config: RunConfig) -> Finding:
    """Whether the sections of the spec go together, up to a whole run."""
    from raydelt.pipeline import STAGES
    from raydelt.precheck import check

    try:
        check(config, STAGES)
    except RaydeltError as error:
        told, cure = parted(error)
        if "stop before training" in str(error):
            return Finding("spec", "warn", told, "`raydelt order` goes as far as a spec without labels can")
        return Finding("spec", "fail", told, cure)
    return Finding("spec", "ok", f"{config.name}: {len(config.score)} scorers, {config.model.kind}")
