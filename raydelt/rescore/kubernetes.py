"""A Kubernetes CronJob that scores a run again on the Ray cluster that stands there, as `cluster/kubernetes` has it.

    submit --job rescore --id … --wait   the pod submits a job and follows it; one in its place finds it by its id
    concurrencyPolicy Forbid             a job that is late is not overtaken; the lease of the run fences the rest
    startingDeadlineSeconds              a missed time is caught up once, within this many seconds
    podFailurePolicy                     too many bad rows (3) are not tried again; code 2 is also a head that restarts

It differs from the component `scheduled` in its name, spec, times and image alone. The token comes from the secret
`raydelt-auth` of the namespace, credentials of stores from the cluster's own nodes, never from this file.

Caution: the spec is read from a ConfigMap of the CronJob's name, which is written into the same file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from croniter import croniter

from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.rescore.schedule import Cron

MOUNT = "/etc/raydelt"
SPEC = "run.yaml"
LIMIT = 52
NAMES = re.compile("jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat", re.IGNORECASE)


def manifests(name: str, spec: str, cron: str, *, image: str, zone: str, address: str) -> str:
    """The ConfigMap with the text of a spec and the CronJob that runs it, as YAML.

    Raises:
        SpecError: the run's name makes no name in Kubernetes, or it has no such times.
    """
    own = "raydelt-" + re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if own == "raydelt-" or len(own) > LIMIT:
        raise SpecError(f"name {name!r} makes no name of a CronJob of at most {LIMIT} characters: choose another name")
    labels = {"app.kubernetes.io/part-of": "raydelt", "app.kubernetes.io/instance": own}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": own, "labels": labels},
        "data": {SPEC: spec},
    }
    job = _cron_job(own, labels, in_numbers(cron), image, zone, address)
    return yaml.safe_dump_all([config, job], sort_keys=False)


def in_numbers(cron: str) -> str:
    """A cron line as lists of numbers: Kubernetes knows no Sunday 7, and no range that goes over the end.

    Raises:
        SpecError: it names times that Kubernetes has no words for.
    """
    if re.search("[a-z#]", NAMES.sub("", cron), re.IGNORECASE) and not cron.startswith("@"):
        raise SpecError(
            f"--cron {cron!r} is none to Kubernetes: give numbers, names of months and days, and *,/- alone, or leave "
            "--manifest out"
        )
    fields, _ = croniter.expand(cron)
    return " ".join(",".join(map(str, field)) for field in fields)


def write(file: str, config: RunConfig, cron: Cron, *, image: str, address: str) -> None:
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


def _cron_job(name: str, labels: dict[str, str], cron: str, image: str, zone: str, address: str) -> dict[str, Any]:
    failure = {"action": "FailJob", "onExitCodes": {"containerName": "submit", "operator": "In", "values": [3]}}
    template = {"metadata": {"labels": labels}, "spec": _pod(name, image, address)}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "schedule": cron,
            "timeZone": zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 80_000,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {"backoffLimit": 3, "podFailurePolicy": {"rules": [failure]}, "template": template}
            },
        },
    }


def _pod(name: str, image: str, address: str) -> dict[str, Any]:
    job = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}}
    token = {"secretKeyRef": {"name": "raydelt-auth", "key": "auth_token"}}
    container = {
        "name": "submit",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            *("submit", f"{MOUNT}/{SPEC}", "--job=rescore", f"--address={address}", "--id=$(JOB_NAME)"),
            *("--bare", "--code=image", "--wait"),
        ],
        "env": [
            {"name": "JOB_NAME", **job},
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [{"name": "spec", "mountPath": MOUNT, "readOnly": True}],
    }
    user = {"runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "restartPolicy": "Never",
        "serviceAccountName": "raydelt-worker",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, **user},
        "containers": [container],
        "volumes": [{"name": "spec", "configMap": {"name": name}}],
    }
