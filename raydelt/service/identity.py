"""Who a job is: an id that the same spec and code always get, and the metadata that tell jobs apart.

    id = name-fingerprint(spec, code, settings)[:10]      attempts after the first: id-2, id-3, ...

Caution: the content of the corpus is not part of it; a corpus that changed in place is run again by `--again`.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from raydelt import __version__
from raydelt.errors import SpecError
from raydelt.storage import fingerprint
from raydelt.storage.places import masked

PREFIX = "raydelt."
WHO = f"{PREFIX}identity"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DONE = ("FAILED", "STOPPED")


@dataclass(frozen=True)
class Attempt:
    """The id under which to submit, or the job that stands already, with its status."""

    id: str
    status: str | None = None


def identity(spec: Mapping[str, Any], code: str, settings: Mapping[str, Any]) -> str:
    """32 hex digits over the spec as shipped, the digest of the code, and what else changes a job."""
    return fingerprint([spec, code, settings])


def base_id(name: str, who: str, *, chosen: str | None = None) -> str:
    """The id of the first attempt.

    Raises:
        SpecError: the chosen id could not be a file's name or a part of a URL.
    """
    if chosen is not None and not NAME.fullmatch(chosen):
        raise SpecError(f"--id {chosen!r} must be letters, digits, '.', '_' and '-', at most 100 of them")
    return chosen or f"{name}-{who[:10]}"


def attempt(base: str, who: str, jobs: Mapping[str, tuple[str, Mapping[str, str]]], *, again: bool = False) -> Attempt:
    """What to do, given id -> (status, metadata) of the jobs there: the job that stands, or the id of a new attempt.

    A job that waits, runs or has succeeded stands; after one that failed or was stopped comes another attempt, and
    `again` passes over one that has succeeded.

    Raises:
        SpecError: the id belongs to a job of another spec or code.
    """
    number = 1
    while True:
        name = base if number == 1 else f"{base}-{number}"
        if name not in jobs:
            return Attempt(name)
        status, metadata = jobs[name]
        if metadata.get(WHO) != who:
            raise SpecError(f"--id {name!r} belongs to a job of another spec or code: choose another, or leave it out")
        if status not in DONE and not (again and status == "SUCCEEDED"):
            return Attempt(name, status)
        number += 1


def metadata(spec: Mapping[str, Any], code: str, who: str, *, job: str, owner: str | None) -> dict[str, str]:
    """What the cluster shows of a job; nothing that could hold a credential."""
    source = spec["corpus"]["source"]
    sources = [source] if isinstance(source, str) else source
    facts = {
        "identity": who,
        "spec": fingerprint(spec),
        "code": code,
        "name": str(spec["name"]),
        "job": job,
        "corpus": ", ".join(shown(place) for place in sources),
        "owner": owner or _user(),
        "version": __version__,
    }
    return {PREFIX + key: value for key, value in facts.items()}


def shown(place: str) -> str:
    """A path or URL without the user, password and query it may carry."""
    if "://" not in place:
        return place
    parts = urlsplit(masked(place))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
