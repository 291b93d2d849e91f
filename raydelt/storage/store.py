"""A folder on a local disk or in an object store: whole files read and put atomically, faults told in one sentence.

A remote file is read with the size that the store gives of it, so a body that was cut short is noticed and read again.
Large files travel in pieces: reads in ranges of `BLOCK_BYTES`, puts above twice `PART_BYTES` as multipart uploads.
Cost in requests: `exists` and `size` one HEAD, a read one HEAD and one GET for each block, a put one PUT, `sizes` one
listing for each 1000 files; nothing else lists. Memory: the file, twice while its pieces are joined.
"""

from __future__ import annotations

import contextlib
import io
import json
import mimetypes
import os
import posixpath
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

import raydelt.storage.exclusive as exclusive
from raydelt.errors import InputError
from raydelt.storage.faults import CutShort, of_store, patient, told
from raydelt.storage.places import BLOCK_BYTES, CONCURRENT, filesystem, refuse_output

T = TypeVar("T")

PART_BYTES = 16 << 20
# Questions about a place, unlike transfers, are answered in seconds or not at all.
QUESTION_SECONDS = 60


@dataclass(frozen=True)
class Part:
    """One published file: its name below the run directory, rows, bytes and xxh3-128 digest."""

    file: str
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Standing:
    """A file as it stands: bytes, and when it was put, in seconds since 1970 by the store's own clock."""

    size: int
    put: float


@dataclass(frozen=True)
class Store:
    """A folder on a local disk or in an object store, addressed by absolute path or URL. Picklable."""

    root: str

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return filesystem(self.root)[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)

    @property
    def is_s3(self) -> bool:
        return "s3" in self.fs.protocol

    def path(self, name: str = "") -> str:
        base = filesystem(self.root)[1]
        if ".." in name.split("/"):
            raise InputError(f"path {name!r} leaves {self.root}: names inside a run must not contain '..'")
        return posixpath.join(base, name) if name else base

    def at(self, name: str) -> Store:
        return Store(self.root.rstrip("/") + "/" + name)

    def url(self, name: str) -> str:
        """What a sentence calls a file."""
        return self.path(name) if self.is_local else f"{self.root.rstrip('/')}/{name}".rstrip("/")

    def exists(self, name: str = "") -> bool:
        """Whether a file stands (in object stores: a file, not a folder)."""
        if self.is_local:
            return os.path.exists(self.path(name))
        return self.standing(name) is not None

    def size(self, name: str) -> int:
        standing = self.standing(name)
        if standing is None:
            raise FileNotFoundError(self.url(name))
        return standing.size

    def standing(self, name: str) -> Standing | None:
        """Size and time of a file; None where there is none. One request."""
        return self.asked(name, "read", lambda: self._standing(name))

    def _standing(self, name: str) -> Standing | None:
        path = self.path(name)
        try:
            if self.is_local:
                stat = os.stat(path)
                return Standing(stat.st_size, stat.st_mtime)
            if self.is_s3:
                return self._head(path)
            found = self.fs.info(path)
            if found["type"] == "directory":
                return None
            return Standing(int(found["size"]), self.fs.modified(path).timestamp())
        except FileNotFoundError:
            return None

    def _head(self, path: str) -> Standing:
        # `info` would list where the file is missing, to see whether it is a folder.
        bucket, key, _ = self.fs.split_path(path)
        answer = self.fs.call_s3("head_object", Bucket=bucket, Key=key, timeout=QUESTION_SECONDS)
        return Standing(int(answer["ContentLength"]), answer["LastModified"].timestamp())

    def names(self) -> list[str]:
        """Names of the files and folders directly in this folder, sorted; empty where it does not exist."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int | None]:
        """Bytes of the files directly in this folder by name, None for folders; one listing."""

        def listed() -> list[dict[str, Any]]:
            try:
                return list(self.fs.ls(self.path(), detail=True, refresh=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

        found = self.asked("", "listed", listed)
        names = [(posixpath.basename(str(entry["name"]).rstrip("/")), entry) for entry in found]
        return {name: None if entry["type"] == "directory" else int(entry["size"]) for name, entry in names if name}

    def read_bytes(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: it is not there, on a local disk.
            InputError: it is not there, or cannot be read, in a store.
        """
        return self.asked(name, "read", lambda: self._whole(name))

    def _whole(self, name: str) -> bytes:
        path = self.path(name)
        if self.is_local:
            with open(path, "rb") as file:
                return file.read()
        size = self.size(name)
        if size <= BLOCK_BYTES or not self.is_s3:
            pieces = [self.fs.cat_file(path, **({"max_concurrency": 1} if self.is_s3 else {}))]
        else:
            starts = list(range(0, size, BLOCK_BYTES))
            ends = [*starts[1:], size]
            pieces = self.fs.cat_ranges([path] * len(starts), starts, ends, batch_size=CONCURRENT)
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) != size:
            raise CutShort(f"{len(data)} bytes of {size}")
        return bytes(data)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put a whole file atomically: a reader finds the old content or the new."""
        if self.is_local:
            exclusive.write_local(self.path(name), data, replace=True)
            return
        options = ({"chunksize": PART_BYTES} if self.is_s3 else {}) | self._content_type(name)
        self.asked(name, "written", lambda: self.fs.pipe_file(self.path(name), data, **options))

    def _content_type(self, name: str) -> dict[str, Any]:
        """The option of a put that lets a browser open a page instead of saving it; empty where there is none."""
        kind, encoding = mimetypes.guess_type(name)
        field = "ContentType" if self.is_s3 else "content_type" if "gs" in self.fs.protocol else None
        return {field: kind} if field and kind and encoding is None else {}

    def create_only(self, name: str, data: bytes) -> bool:
        """Put a file where there is none; whether it is ours. `data` must tell writers apart (see `exclusive`)."""
        return self.asked(name, "written", lambda: exclusive.create_only(self, name, data))

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all that lies in it; nothing where there is none."""
        path = self.path(name)
        if not self.is_local:
            found = self.asked(name, "listed", lambda: list(self.fs.find(path)))
            self._remove(name, found)
        elif os.path.isdir(path):
            self.fs.rm(path, recursive=True)
        elif os.path.exists(path):
            os.remove(path)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files by name, whether they are there or not, in few requests."""
        paths = [self.path(name) for name in sorted(names)]
        if not self.is_local:
            self._remove("", paths)
            return
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def _remove(self, name: str, paths: list[str]) -> None:
        def removed() -> None:
            if self.is_s3:
                self.fs.rm(paths)
                return
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(path)

        if paths:
            self.asked(name, "deleted", removed)

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
        """One Parquet file; of a large one in a store, only the ranges that the columns take."""
        wanted = list(columns) if columns else None
        if self.is_local:
            with open(self.path(name), "rb") as file:
                return pq.read_table(file, columns=wanted)

        def read() -> pa.Table:
            if wanted is None or self.size(name) <= BLOCK_BYTES:
                return pq.read_table(pa.BufferReader(self._whole(name)), columns=wanted)
            with self.fs.open(self.path(name), "rb", cache_type="none") as file:
                return pq.read_table(file, columns=wanted, pre_buffer=True)

        return self.asked(name, "read", read)

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

    def standing_part(self, name: str) -> Part | None:
        """A Parquet file that stands whole; None where there is none, or one that was cut short."""
        if not self.exists(name):
            return None
        try:
            return self.described(name)
        except pa.ArrowInvalid:
            return None

    def check_writable(self) -> None:
        """Fail with one sentence where nothing can be written here."""
        refuse_output(self.root)
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self.remove([probe])
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"output {self.root!r} cannot be written ({error}): choose another `output` or mend its permissions"
            ) from error

    def asked(self, name: str, doing: str, call: Callable[[], T]) -> T:
        """The result of a call that asks the store, tried again where that helps; its faults told in one sentence."""
        if self.is_local:
            return call()
        try:
            return patient(call)
        except Exception as error:
            if not (isinstance(error, OSError | pa.ArrowInvalid) or of_store(error)):
                raise
            raise told(error, self.url(name), doing, ask=self._ask if self.is_s3 else None) from error

    def _ask(self) -> None:
        bucket, key, _ = self.fs.split_path(self.path())
        self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1, timeout=QUESTION_SECONDS)
