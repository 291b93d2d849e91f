"""The atomic publication of a stage's output.

A stage writes its files under names that carry the stage's fingerprint and publishes them by one put of
`manifest.json`, which lists them. A reader goes through the manifest, so it sees one whole version or the one before
it, never a mixture, on local disks and on object stores alike (no rename is needed). Files of an earlier fingerprint
are deleted after the new manifest stands.

Whoever works under a lease publishes within `guarded`, so that a job which has lost it does not put its stage over
that of the job which has it now.

Caution: a reader that globs the folder instead of reading the manifest can meet files that are not published yet.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

import xxhash

from raydelt.storage.store import Part, Store

MANIFEST = "manifest.json"
_checks: ContextVar[tuple[Callable[[], object], ...]] = ContextVar("checks before a publication", default=())


@contextlib.contextmanager
def guarded(check: Callable[[], object]) -> Iterator[None]:
    """Call `check` before every publication within the context, and let what it raises end that."""
    token = _checks.set((*_checks.get(), check))
    try:
        yield
    finally:
        _checks.reset(token)


def fingerprint(value: Any) -> str:
    """32 hex digits that identify a JSON-serialisable value."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


@dataclass(frozen=True)
class Manifest:
    """What a published stage says of itself: fingerprint, files, and facts that later stages and the report read.

    `parts` are the stage's own rows in order; `sides` are files of other kinds (a held-out split, models, quarantine).
    """

    stage: str
    fingerprint: str
    parts: list[Part]
    sides: dict[str, list[Part]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> list[Part]:
        return [*self.parts, *(part for parts in self.sides.values() for part in parts)]

    @property
    def digest(self) -> str:
        """Identifies the published rows by the bytes of their files."""
        return fingerprint([part.digest for part in self.parts])


@dataclass(frozen=True)
class Stage:
    """One stage's folder in a run directory, at one fingerprint of everything that determines its output."""

    run: Store
    name: str
    fingerprint: str

    def file(self, kind: str, index: int, suffix: str = "parquet", *, folder: str | None = None) -> str:
        """Name below the run directory of a file that this stage writes; it carries the fingerprint."""
        return f"{folder or self.name}/{kind}-{self.fingerprint[:10]}-{index:05d}.{suffix}"

    def published(self) -> Manifest | None:
        """The manifest, if this very output stands complete: same fingerprint, every file there at its full size.

        One listing for each folder that files lie in.
        """
        manifest = read_manifest(self.run, self.name)
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        folders = sorted({posixpath.dirname(part.file) for part in manifest.files})
        stand = {f"{folder}/{name}": size for folder in folders for name, size in self.run.at(folder).sizes().items()}
        return manifest if all(stand.get(part.file) == part.bytes for part in manifest.files) else None

    def publish(
        self, parts: Sequence[Part], facts: dict[str, Any], sides: dict[str, list[Part]] | None = None
    ) -> Manifest:
        """Make the stage's files visible by one atomic put, then delete what earlier fingerprints left."""
        for check in _checks.get():
            check()
        earlier = read_manifest(self.run, self.name)
        manifest = Manifest(self.name, self.fingerprint, list(parts), sides or {}, facts)
        self.run.write_json(f"{self.name}/{MANIFEST}", asdict(manifest))
        keep = {part.file for part in manifest.files} | {f"{self.name}/{MANIFEST}"}
        found = {f"{self.name}/{name}": size for name, size in self.run.at(self.name).sizes().items()}
        files = {name for name, size in found.items() if size is not None}
        self.run.remove((files | {part.file for part in (earlier.files if earlier else [])}) - keep)
        for folder in sorted(set(found) - files):
            if not any(name.startswith(f"{folder}/") for name in keep):
                self.run.delete(folder)
        return manifest


def read_manifest(run: Store, stage: str) -> Manifest | None:
    """The published manifest of a stage, or None where the stage was never published."""
    if not run.exists(f"{stage}/{MANIFEST}"):
        return None
    raw = run.read_json(f"{stage}/{MANIFEST}")
    sides = {kind: [Part(**part) for part in parts] for kind, parts in raw["sides"].items()}
    return Manifest(raw["stage"], raw["fingerprint"], [Part(**part) for part in raw["parts"]], sides, raw["facts"])
