"""The run directory as a whole: whose it is, and `run.json`, its record and commit point."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from raydelt import __version__
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.estimate.beside import ESTIMATE, beside
from raydelt.estimate.memory import START
from raydelt.storage import Manifest, Store
from raydelt.storage.near import near

SPEC = "spec.json"
RECORD = "run.json"
PACKAGES = (
    "raydelt",
    "ray",
    "torch",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "transformers",
    "sentence-transformers",
    "peft",
)


def claim(store: Store, config: RunConfig) -> None:
    """Take a place for this spec: empty, or held by a run of the same name, seed and corpus source.

    Other fields may change: the stages that they determine are then computed anew.

    Raises:
        InputError: the place cannot be written, or belongs to another spec or to something else.
    """
    refuse_others(store, config)
    store.check_writable()
    store.write_json(SPEC, config.resolved())


def refuse_others(store: Store, config: RunConfig) -> None:
    """Refuse a place that belongs to another spec or to something else."""
    if store.exists(SPEC):
        held = store.read_json(SPEC)
        there, here = _identity(held, store), _identity(config.resolved(), store)
        for field in here:
            if there[field] != here[field]:
                raise InputError(
                    f"output {store.root!r} belongs to another spec ({field} is {_short(there[field])} there and "
                    f"{_short(here[field])} here): choose another `output`, or delete that directory"
                )
    elif store.names():
        raise InputError(
            f"output {store.root!r} is not empty and holds no raydelt run: choose another `output`, or empty it"
        )


def config_of(store: Store) -> RunConfig:
    """The spec of the run that holds a place.

    Raises:
        InputError: there is no run, or this version of raydelt does not understand its spec.
    """
    if not store.exists(SPEC):
        cure = near(store.root, otherwise="give the `output` of a spec")
        raise InputError(f"{store.root!r} holds no raydelt run: {cure}")
    try:
        return RunConfig.model_validate(store.read_json(SPEC))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise foreign(store, SPEC, f" ({where}: {first['msg']})") from error


def foreign(store: Store, name: str, detail: str = "") -> InputError:
    """What to say of a file of a run that another version of raydelt wrote."""
    told = store.read_json(RECORD) if store.exists(RECORD) else {}
    wrote = told.get("versions", {}).get("raydelt", "of another version")
    return InputError(
        f"{store.url(name)} was written by raydelt {wrote}, and raydelt {__version__} cannot read it{detail}: run the "
        "spec again"
    )


def _identity(spec: dict[str, Any], store: Store) -> dict[str, Any]:
    """The fields that say which run this is."""
    try:
        return {"name": spec["name"], "seed": spec["seed"], "corpus.source": spec["corpus"]["source"]}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{store.url(SPEC)} does not say whose run it is ({error}), as one of another version of raydelt may not: "
            "choose another `output`, or delete that directory"
        ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def record(
    store: Store,
    config: RunConfig,
    manifests: dict[str, Manifest],
    seconds: dict[str, float],
    measured: Mapping[str, Any],
) -> None:
    """Write `run.json`: resolved spec, versions, and of every stage fingerprint, counts and the seconds it took.

    `seconds` and the peaks of memory in `measured` are those of the stages that ran now; of the others the earlier
    ones stay. Where the place holds an estimate of this very spec, it stands beside what was measured.
    """
    earlier = store.read_json(RECORD) if store.exists(RECORD) else {"stages": {}}
    # Those of stages that this execution has not come to yet are not in `stages`, and must not be forgotten.
    recorded = {name: entry["seconds"] for name, entry in earlier.get("stages", {}).items()}
    known = recorded | earlier.get("seconds", {}) | seconds
    peaks = earlier.get("peaks", {}) | measured["peaks"]
    stages = {
        name: {
            "fingerprint": manifest.fingerprint,
            "rows": manifest.rows,
            "seconds": known.get(name),
            "bytes": sum(part.bytes for part in manifest.files),
            "files": len(manifest.files),
            "facts": {
                key: value for key, value in manifest.facts.items() if key not in ("orders", "results", "summary")
            },
        }
        for name, manifest in manifests.items()
    }
    found = {
        "name": config.name,
        "spec": config.resolved(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "git_sha": _git_sha(),
        "cluster": measured["cluster"],
        "start": earlier.get("start", measured["start"]),
        "stages": stages,
        "seconds": known,
        "peaks": {name: peak for name, peak in peaks.items() if name == START or name in known},
    }
    estimate = store.read_json(ESTIMATE) if store.exists(ESTIMATE) else None
    store.write_json(RECORD, found | {"estimated": beside(estimate, found)})


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_sha() -> str | None:
    """The commit of the working directory, where it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
