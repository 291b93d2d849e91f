"""A Kubernetes CronJob that scores a run again: the cluster's controller keeps the time, one job runs at a time.

    concurrencyPolicy Forbid            a job that is late is not overtaken; the lease of the run fences the rest
    startingDeadlineSeconds             a missed time is caught up once, within this many seconds
    backoffLimit, restartPolicy         a job that was killed goes on where it was

Credentials come from the service account or a secret of the namespace, never from this file.

Caution: the spec is read from a ConfigMap of the CronJob's name, which is written into the same file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.rescore.schedule import Cron

MOUNT = "/etc/raydelt"
LIMIT = 52


def manifests(name: str, spec: str, cron: str, *, image: str, zone: str, address: str | None) -> str:
    """The ConfigMap with the text of a spec and the CronJob that runs it, as YAML.

    Raises:
        SpecError: the run's name makes no name in Kubernetes.
    """
    own = "raydelt-" + re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if own == "raydelt-" or len(own) > LIMIT:
        raise SpecError(f"name {name!r} makes no name of a CronJob of at most {LIMIT} characters: choose another name")
    labels = {"app.kubernetes.io/name": "raydelt", "app.kubernetes.io/instance": own}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": own, "labels": labels},
        "data": {"spec.yaml": spec},
    }
    return yaml.safe_dump_all([config, _cron_job(own, labels, cron, image, zone, address)], sort_keys=False)


def write(file: str, config: RunConfig, cron: Cron, *, image: str, address: str | None) -> None:
    """Write them for a run to a file.

    Raises:
        InputError: the file cannot be written.
    """
    spec = yaml.safe_dump(config.resolved(), sort_keys=False)
    text = manifests(config.name, spec, cron.line, image=image, zone=cron.zone, address=address)
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--manifest {file!r} cannot be written ({error}): give another file") from error


def _cron_job(
    name: str, labels: dict[str, str], cron: str, image: str, zone: str, address: str | None
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "rescore",
        "image": image,
        "args": ["rescore", f"{MOUNT}/spec.yaml", "--json"],
        "volumeMounts": [{"name": "spec", "mountPath": MOUNT, "readOnly": True}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}},
    }
    if address is not None:
        container["env"] = [{"name": "RAY_ADDRESS", "value": address}]
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "spec", "configMap": {"name": name}}],
    }
    job = {"backoffLimit": 3, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "schedule": cron,
            "timeZone": zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": job},
        },
    }
