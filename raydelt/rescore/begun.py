"""What a version is made of: its spec, its source files, its models. A version that was begun is finished with those.

Kept as `made-of.json` in the version's directory before any stage is written there, so that a job which goes on after
it was killed can tell what has changed since. Cost: the sources are listed, and the models' files are read.

Caution: a file counts as changed when its size or the store's mark of it (its modification time on a disk) does.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from raydelt import rundir
from raydelt.config import RunConfig
from raydelt.corpus.sources import find
from raydelt.errors import InputError
from raydelt.models import folder
from raydelt.models.identity import own_models, references
from raydelt.storage import Store

FILE = "made-of.json"
FITTED = "rescore.fitted"
# Where a run lies and on what it is computed is no part of what it is.
ELSEWHERE = ("output", "cluster", "name", "report", "monitor", "rescore", "label")


def made_of(config: RunConfig, *, fitted: str, resting: str | None = None) -> dict[str, dict[str, Any]]:
    """What determines a version: fields of the spec, source files with size and mark, models with their digests.

    `resting` identifies who rests, where the selection leaves those out.
    """
    models: dict[str, Any] = {"model": own_models(config.model)[1], "references": references(config.score)}
    if config.encoder is not None:
        models["encoder"] = folder.fingerprint(config.encoder.path)
    files = {f"{file.split}: {file.path}": [file.size, file.mark] for file in find(config.corpus)}
    told = {**_spec(config), FITTED: fitted}
    told |= {"monitor.retire (who rests)": resting} if resting is not None else {}
    return {"spec": told, "files": files, "models": models}


def same_but_files(place: Store, now: dict[str, dict[str, Any]]) -> bool:
    """Whether a version that stands was made by this spec with these models; its source files may be others.

    The first version says by its record what spec it was made by, and nothing of models.
    """
    if place.exists(FILE):
        then = place.read_json(FILE)
        return bool(then["spec"] == now["spec"] and then["models"] == now["models"])
    if not place.exists(rundir.RECORD):
        return False
    try:
        spec = _spec(RunConfig.model_validate(place.read_json(rundir.RECORD)["spec"]))
    except (KeyError, ValidationError):
        return False
    return {**spec, FITTED: now["spec"][FITTED]} == now["spec"]


def _spec(config: RunConfig) -> dict[str, Any]:
    """The fields of a spec that a version depends on, each scorer by itself."""
    spec = {name: value for name, value in config.resolved().items() if name not in ELSEWHERE}
    return {**spec, **{f"score.{index}": entry for index, entry in enumerate(spec.pop("score"))}}


def differences(then: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """What changed, a phrase each."""
    found = []
    for kind, what in (("spec", "{} of the spec"), ("models", "the files of {}"), ("files", "the file {}")):
        for name in sorted({*then[kind], *now[kind]}):
            if name not in then[kind]:
                found.append(f"{what.format(name)} is new")
            elif name not in now[kind]:
                found.append(f"{what.format(name)} is gone")
            elif then[kind][name] != now[kind][name]:
                found.append(f"{what.format(name)} changed")
    return found


def begin(place: Store, config: RunConfig, now: dict[str, dict[str, Any]], *, restart: bool) -> None:
    """Take the directory of a version for a spec: empty, or begun with the same.

    Raises:
        InputError: it was begun with something else, and `restart` does not allow to throw that away.
    """
    if place.exists(FILE):
        changed = differences(place.read_json(FILE), now)
        if not changed:
            return
        if not restart:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise InputError(
                f"{place.root} was begun and not finished, and since then {changed[0]}{more}: undo that to go on, or "
                "give --restart to begin the version anew"
            )
    for name in place.names():
        place.delete(name)
    rundir.claim(place, config)
    place.write_json(FILE, now)
