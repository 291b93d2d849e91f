"""One file-system layer for local paths and object stores, and the atomic publication of a stage's output.

A stage writes its files under names that carry the stage's fingerprint and publishes them by one put of
`manifest.json`, which lists them. A reader goes through the manifest, so it sees one whole version or the one before
it, never a mixture, on local disks and on object stores alike (no rename is needed). Files of an earlier fingerprint
are deleted after the new manifest stands.

Caution: a reader that globs the folder instead of reading the manifest can meet files that are not published yet.
"""

from __future__ import annotations

import functools
import io
import json
import os
import posixpath
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from raydelt.errors import InputError

MANIFEST = "manifest.json"


def fingerprint(value: Any) -> str:
    """32 hex digits that identify a JSON-serialisable value."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


@functools.lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, path = fsspec.core.url_to_fs(root)
    return fs, path


def absolute(path: str) -> str:
    """A local path made absolute, since workers have working directories of their own; URLs as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


@dataclass(frozen=True)
class Store:
    """A folder on a local disk or in an object store, addressed by absolute path or URL. Picklable."""

    root: str

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return _filesystem(self.root)[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)

    def path(self, name: str = "") -> str:
        base = _filesystem(self.root)[1]
        if ".." in name.split("/"):
            raise InputError(f"path {name!r} leaves {self.root}: names inside a run must not contain '..'")
        return posixpath.join(base, name) if name else base

    def at(self, name: str) -> Store:
        return Store(self.root.rstrip("/") + "/" + name)

    def exists(self, name: str = "") -> bool:
        return bool(self.fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        return int(self.fs.size(self.path(name)))

    def names(self) -> list[str]:
        """Names of the files and folders directly in this folder, sorted; empty where it does not exist."""
        try:
            found = self.fs.ls(self.path(), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(posixpath.basename(str(entry).rstrip("/")) for entry in found)

    def read_bytes(self, name: str) -> bytes:
        data: bytes = self.fs.cat_file(self.path(name))
        return data

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put a whole file atomically: a reader finds the old content or the new."""
        target = self.path(name)
        if not self.is_local:
            self.fs.pipe_file(target, data)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise

    def delete(self, name: str) -> None:
        path = self.path(name)
        if self.fs.isdir(path):
            self.fs.rm(path, recursive=True)
        elif self.fs.exists(path):
            self.fs.rm_file(path)

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise InputError(
                f"{self.path(name)} is not valid JSON ({error}): delete the file and run again"
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        self.write_bytes(name, (json.dumps(value, indent=2, default=str) + "\n").encode())

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One Parquet file, read whole."""
        with self.fs.open(self.path(name), "rb") as file:
            return pq.read_table(file, columns=list(columns) if columns else None)

    def write_table(self, name: str, table: pa.Table, *, plain: Sequence[str] = ()) -> Part:
        """Put one Parquet file atomically; the same table gives the same bytes.

        `plain` names columns whose values hardly repeat, such as ids: a dictionary of them costs time and saves none.
        """
        buffer = io.BytesIO()
        dictionary = [name for name in table.column_names if name not in plain]
        pq.write_table(table, buffer, compression="zstd", use_dictionary=dictionary if plain else True)
        return self.put(name, buffer.getvalue(), rows=table.num_rows)

    def put(self, name: str, data: bytes, *, rows: int = 0) -> Part:
        """Put a whole file atomically, and describe it."""
        self.write_bytes(name, data)
        return Part(name, rows, len(data), xxhash.xxh3_128_hexdigest(data))

    def described(self, name: str) -> Part:
        """A Parquet file that stands already."""
        data = self.read_bytes(name)
        rows = pq.read_metadata(pa.BufferReader(data)).num_rows
        return Part(name, rows, len(data), xxhash.xxh3_128_hexdigest(data))

    def check_writable(self) -> None:
        """Fail with one sentence where nothing can be written here."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self.delete(probe)
        except Exception as error:
            raise InputError(
                f"output {self.root!r} cannot be written ({error}): choose another `output` or mend its permissions"
            ) from error


@dataclass(frozen=True)
class Part:
    """One published file: its name below the run directory, rows, bytes and xxh3-128 digest."""

    file: str
    rows: int
    bytes: int
    digest: str


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
        """The manifest, if this very output stands complete: same fingerprint, every file there at its full size."""
        manifest = read_manifest(self.run, self.name)
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        whole = all(self.run.exists(p.file) and self.run.size(p.file) == p.bytes for p in manifest.files)
        return manifest if whole else None

    def publish(
        self, parts: Sequence[Part], facts: dict[str, Any], sides: dict[str, list[Part]] | None = None
    ) -> Manifest:
        """Make the stage's files visible by one atomic put, then delete what earlier fingerprints left."""
        earlier = read_manifest(self.run, self.name)
        manifest = Manifest(self.name, self.fingerprint, list(parts), sides or {}, facts)
        self.run.write_json(f"{self.name}/{MANIFEST}", asdict(manifest))
        keep = {part.file for part in manifest.files} | {f"{self.name}/{MANIFEST}"}
        found = {f"{self.name}/{name}" for name in self.run.at(self.name).names()}
        for file in (found | {part.file for part in (earlier.files if earlier else [])}) - keep:
            self.run.delete(file)
        return manifest


def read_manifest(run: Store, stage: str) -> Manifest | None:
    """The published manifest of a stage, or None where the stage was never published."""
    if not run.exists(f"{stage}/{MANIFEST}"):
        return None
    raw = run.read_json(f"{stage}/{MANIFEST}")
    sides = {kind: [Part(**part) for part in parts] for kind, parts in raw["sides"].items()}
    return Manifest(raw["stage"], raw["fingerprint"], [Part(**part) for part in raw["parts"]], sides, raw["facts"])
