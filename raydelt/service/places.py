"""The paths of a spec as the cluster will see them: what lies only on the submitting machine is refused at once.

A path stays where every node sees it (a URL, a built-in corpus, a hub name), becomes relative to the job's working
directory where the package holds it, and becomes absolute where the cluster is this machine or shares its disks.

Caution: a scorer of a third party may name files in fields that nothing here knows as paths; those are recognised only
where they are written as a path to something that exists here.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from raydelt.errors import SpecError
from raydelt.storage.places import refuse_credentials

ALWAYS = re.compile(r"output|corpus\.(pool|source(\.\d+)?|(validation|test)\.source)|model\.checkpoint(\.\d+)?")
WHERE_THERE = re.compile(r"(model|encoder|score)\..*?(path|adapter|reference|encoder|starts|target)(\.\d+)?")
AS_A_PATH = ("/", "./", "../", "~/")
LOCAL = ("file://", "local://")


def localise(
    spec: dict[str, Any], *, folder: Path | None, shipped: Collection[str], everywhere: bool
) -> dict[str, Any]:
    """The spec with its paths as the job will see them.

    Args:
        spec: a resolved spec.
        folder: what is packed, if anything.
        shipped: names of the packed files, relative to the folder.
        everywhere: every node sees this machine's paths.

    Raises:
        SpecError: a path that the cluster cannot see.
        InputError: a URL that holds credentials.
    """

    def moved(field: str, value: str) -> str:
        if "://" in value and not value.startswith(LOCAL):
            refuse_credentials(value, field)
            return value
        plain = value.split("://", 1)[-1]
        if not _is_path(field, plain):
            return value
        path = os.path.abspath(os.path.expanduser(plain))
        if everywhere:
            return path
        if field == "output":
            raise SpecError(
                f"output {value!r} would be written on a node of the cluster and lost: give a URL such as s3://…, or "
                "--shared if every node sees this path"
            )
        return _packed(field, value, Path(path), folder, shipped)

    result: dict[str, Any] = _mapped(spec, "", moved)
    return result


def _mapped(value: Any, field: str, change: Callable[[str, str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(item, f"{field}.{key}" if field else key, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, f"{field}.{index}", change) for index, item in enumerate(value)]
    return change(field, value) if isinstance(value, str) else value


def _is_path(field: str, value: str) -> bool:
    if ALWAYS.fullmatch(field):
        return True
    there = os.path.exists(os.path.expanduser(value))
    if WHERE_THERE.fullmatch(field) and value != "validation":
        return there or value.startswith(AS_A_PATH)
    return there and value.startswith(AS_A_PATH) and len(value) > 2


def _packed(field: str, value: str, path: Path, folder: Path | None, shipped: Collection[str]) -> str:
    """The path relative to the packed folder, if all that it stands for is shipped."""
    if folder is None or not path.is_relative_to(folder):
        raise SpecError(
            f"{field} {value!r} lies on this machine only: put it where the cluster reads it (s3://…), below the "
            "working directory that is shipped, or pass --shared if every node sees this path"
        )
    files = [name.relative_to(folder).as_posix() for name in _files(path)]
    if not files:
        raise SpecError(f"{field} {value!r} does not exist: check the path")
    left = [name for name in files if name not in shipped]
    if left:
        raise SpecError(
            f"{field} {value!r} is not shipped ({len(left)} of its {len(files)} files are left out, such as "
            f"{left[0]!r}): put it where the cluster reads it (s3://…), or pass --include {path.relative_to(folder)}"
        )
    return path.relative_to(folder).as_posix()


def _files(path: Path) -> list[Path]:
    """The files that a path, folder or glob stands for here."""
    found = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    return [
        file for place in found for file in (sorted(place.rglob("*")) if place.is_dir() else [place]) if file.is_file()
    ]
