"""From the spec's `source` to the files to read, and from files to units of reading.

A source is a path, a URL, a glob, a folder, or `builtin://NAME` for a set that scikit-learn bundles. Files are listed
in sorted order. Parquet files are read by row group, files of one example each in groups, anything else whole.

Caution: a large JSONL or CSV file is one unit, read by one task; cut it up, or convert it to Parquet, to go faster.
"""

from __future__ import annotations

import datetime
import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.parquet as pq

from raydelt import storage
from raydelt.config import Corpus
from raydelt.errors import InputError
from raydelt.storage.near import near

Split = Literal["corpus", "validation", "test", "pool"]
BUILT_IN = "builtin://"
FILES_PER_ITEM = 256
FOOTERS_AT_ONCE = 8
BYTES_PER_ITEM = 16 << 20
EXTENSIONS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv", ".tsv"),
    "text": (".txt", ".md"),
    "image": (".png", ".jpg", ".jpeg"),
    "idx": ("-idx3-ubyte",),
}
COMPRESSED = (".gz", ".zst")
MARKS = ("ETag", "etag", "mtime", "LastModified", "updated", "blob_id")
GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """A file to read: its URL, format and split, and what would change if its content did.

    `modified` is when it was last changed (seconds since 1970), where the store tells.
    """

    path: str
    format: str
    split: Split
    size: int
    mark: str
    modified: float | None = None


@dataclass(frozen=True)
class Item:
    """One unit of reading: a file, one row group of a Parquet file (-1: the whole file), or a group of small files.

    Of its rows (`rows` where that is known), those whose number `every` divides are read, the first `most` of them.
    """

    path: str
    format: str
    split: Split
    size: int
    row_group: int = -1
    members: tuple[str, ...] = ()
    rows: int | None = None
    every: int = 1
    most: int | None = None


def find(corpus: Corpus) -> list[SourceFile]:
    """The files of the corpus, of held-out splits that have a source of their own, and of the unlabelled pool.

    Raises:
        InputError: a source does not exist, holds no file of a known format, or cannot be listed.
    """
    found = [file for source in corpus.sources for file in _files(source, corpus, "corpus", "corpus.source")]
    for split in ("validation", "test"):
        source = getattr(corpus, split).source
        if source is not None:
            found += _files(source, corpus, split, f"corpus.{split}.source")
    if corpus.pool is not None:
        found += _files(corpus.pool, corpus, "pool", "corpus.pool")
    return found


def items(files: Sequence[SourceFile], *, text_unit: str) -> list[Item]:
    """The units of reading of these files."""
    single = {"image", "text"} if text_unit == "file" else {"image"}
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        units = pool.map(_units, (file for file in files if file.format not in single))
        result = [item for own in units for item in own]
    for _, group in itertools.groupby(
        (file for file in files if file.format in single), key=lambda file: (file.split, file.format)
    ):
        result += _groups(list(group))
    return result


def _groups(files: Sequence[SourceFile]) -> Iterator[Item]:
    """Files of one example each, joined to units of bounded number and size."""
    held: list[SourceFile] = []
    for file in files:
        if held and (len(held) >= FILES_PER_ITEM or sum(f.size for f in held) + file.size > BYTES_PER_ITEM):
            yield _joined(held)
            held = []
        held.append(file)
    if held:
        yield _joined(held)


def _joined(files: Sequence[SourceFile]) -> Item:
    first, size = files[0], sum(file.size for file in files)
    return Item(first.path, first.format, first.split, size, members=tuple(file.path for file in files))


def _files(source: str, corpus: Corpus, split: Split, field: str) -> Iterator[SourceFile]:
    if source.startswith(BUILT_IN):
        yield SourceFile(source, "builtin", split, 0, "")
        return
    storage.refuse_credentials(source, field)
    try:
        fs, path = storage.filesystem(source)
        infos = _listed(fs, path)
    except InputError:
        raise
    except Exception as error:
        if storage.of_store(error):
            raise storage.told(error, f"{field} {source!r}", "listed") from error
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{field} {source!r} does not exist: {near(source)}") from error
        raise InputError(
            f"{field} {source!r} cannot be listed ({error}): check the URL and its credentials"
        ) from error
    listed = sorted(infos)
    single = len(listed) == 1 and posixpath.normpath(listed[0]) == posixpath.normpath(path)
    chosen = [(name, _format(name, corpus)) for name in listed]
    if single and chosen[0][1] is None:
        known = ", ".join(extension for names in EXTENSIONS.values() for extension in names)
        raise InputError(f"{field} {source!r} has no known extension ({known}): set corpus.format")
    usable = [(name, kind) for name, kind in chosen if kind is not None]
    if not usable:
        wanted = "files of a known format" if corpus.format == "auto" else f"{corpus.format} files"
        raise InputError(f"{field} {source!r} holds no {wanted}: check the path and corpus.format")
    local = storage.scheme(source) in ("", "file", "local")
    for name, kind in usable:
        info = infos[name] or fs.info(name)
        mark = next((str(info[key]) for key in MARKS if key in info), "")
        url, size = name if local else fs.unstrip_protocol(name), int(info.get("size") or 0)
        yield SourceFile(url, kind, split, size, mark, _modified(info))


def _modified(info: Mapping[str, Any]) -> float | None:
    """When a listing says that a file was last changed."""
    told = next((info[key] for key in ("mtime", "LastModified", "updated") if key in info), None)
    if isinstance(told, str):
        told = datetime.datetime.fromisoformat(told)
    return told.timestamp() if isinstance(told, datetime.datetime) else told


def _listed(fs: Any, path: str) -> dict[str, Any]:
    """Files that a path stands for, with what the listing says of each; one listing for each 1000 of them.

    Names that begin with `.` or `_` are passed over inside folders.
    """
    if GLOB.search(path):
        found = {name: info for name, info in fs.glob(path, detail=True).items() if info["type"] != "directory"}
        if not found:
            raise FileNotFoundError(path)
        return found
    found = fs.find(path, detail=True)
    if not found and not fs.isdir(path):
        raise FileNotFoundError(path)
    base = path.rstrip("/") + "/"
    return {name: info for name, info in found.items() if not _hidden(name.removeprefix(base)) or name == path}


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def _format(name: str, corpus: Corpus) -> str | None:
    """The format of a file by its name, or as the spec says; None where it is none to read."""
    plain = name
    for suffix in COMPRESSED:
        plain = plain.removesuffix(suffix)
    by_name = next((kind for kind, endings in EXTENSIONS.items() if plain.lower().endswith(endings)), None)
    if corpus.format == "auto":
        return by_name
    return corpus.format if by_name in (None, corpus.format) else None


def _units(file: SourceFile) -> list[Item]:
    whole = Item(file.path, file.format, file.split, file.size)
    if file.format != "parquet":
        return [whole]
    try:
        with storage.opened(file.path) as opened:
            footer = pq.ParquetFile(opened).metadata
            groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
            sizes = [(group.total_byte_size, group.num_rows) for group in groups]
    except Exception as error:
        if storage.of_store(error):
            raise storage.told(error, file.path, "read") from error
        # Reading it will fail as well, and that failure goes to quarantine with its reason.
        return [whole]
    return [Item(file.path, "parquet", file.split, size, group, rows=rows) for group, (size, rows) in enumerate(sizes)]
