"""Examples with their scores for other programs: Parquet, JSON lines, a Hugging Face data set, tar: `raydelt export`.

    parquet      PATH/part-00000.parquet …                      jsonl   PATH, one file, .gz compresses
    hf           PATH/data/train-00000.parquet … and PATH/README.md, whose header names the files:
                 datasets.load_dataset(PATH) reads them
    webdataset   PATH/shard-000000.tar …: KEY.json, and KEY.txt, KEY.npy (features) and KEY.cls where there are any

The selection goes out in training order, everything else part by part; nothing is held but one part and what is joined
to it (`raydelt.ask.joined`). On a local disk all is written beside PATH and renamed at the end; in a store, whatever
has no `export.json` is not whole (one file of JSON lines appears at once).

Caution: ids and texts are the data's own; a key in a tar is a number, and the id stands in its JSON.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import posixpath
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import storage
from raydelt.ask import joined
from raydelt.ask.run import Run
from raydelt.errors import InputError
from raydelt.examples import FEATURES, matrix_of
from raydelt.storage import Store, absolute

WHAT: dict[str, Callable[[Run], Iterator[pa.Table]]] = {
    "selection": joined.selection,
    "corpus": joined.corpus,
    "scores": joined.scores,
}
FORMATS = ("parquet", "jsonl", "hf", "webdataset")
DONE = "export.json"
PER_SHARD = 10_000
JSON_ROWS = 1024


def export(run: Run, to: str, out: str, *, what: str = "selection", force: bool = False) -> dict[str, Any]:
    """Write examples in a format to a path; how many rows and which files there are.

    Raises:
        InputError: the format or the kind is unknown, the run is not that far, or something stands at the path.
    """
    if to not in FORMATS:
        raise InputError(f"--to {to!r} is no format: give one of {', '.join(FORMATS)}")
    if what not in WHAT:
        raise InputError(f"--what {what!r} is nothing to export: give one of {', '.join(WHAT)}")
    if what == "scores" and to == "webdataset":
        raise InputError("--to webdataset is for examples: give --what selection or corpus, or --to parquet")
    place = Store(absolute(out))
    _check_apart(run, place)
    run.manifest("ordered" if what == "selection" else "scores")
    with _one_sentence(place):
        _check_free(place, force=force)
        return _write(run, to, place, what)


def _write(run: Run, to: str, place: Store, what: str) -> dict[str, Any]:
    with _beside(place) as target:
        written = {"parquet": _parquet, "jsonl": _jsonl, "hf": _hf, "webdataset": _webdataset}[to](
            WHAT[what](run), target
        )
        names = [posixpath.basename(place.path().rstrip("/"))] if to == "jsonl" else written.files
        told = {"format": to, "what": what, "out": place.root, "rows": written.rows, "files": names}
        told |= {"run": run.store.root, "version": run.version}
        if to == "hf":
            target.write_bytes("README.md", _card(run, told).encode())
        if to != "jsonl":
            target.write_json(DONE, told)
    return told


@dataclass(frozen=True)
class Written:
    """What was written: rows, and names of files below the path; none where the path is the file."""

    rows: int
    files: list[str]


def _check_apart(run: Run, place: Store) -> None:
    inside = (place.root + "/").startswith(run.root.root.rstrip("/") + "/")
    if inside or (run.root.root + "/").startswith(place.root.rstrip("/") + "/"):
        raise InputError(f"--out {place.root!r} and the run {run.root.root!r} lie in each other: choose another --out")


def _check_free(place: Store, *, force: bool) -> None:
    """Refuse to replace anything unasked, and a folder that is no export in any case."""
    names = place.names()
    if not names and not place.exists():
        return
    # What a store lists of a file is that file.
    alone = names == [posixpath.basename(place.path().rstrip("/"))]
    folder = os.path.isdir(place.path()) if place.is_local else not (alone and place.exists())
    if folder and names and DONE not in names:
        raise InputError(f"{place.root!r} holds other things than an export: choose another --out")
    if not force:
        raise InputError(f"{place.root!r} exists: choose another --out, or give --force to replace it")


@contextlib.contextmanager
def _one_sentence(place: Store) -> Iterator[None]:
    """What keeps a place from being written, as one sentence."""
    try:
        yield
    except Exception as error:
        if place.is_local and isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise InputError(
                f"--out {place.root!r} cannot be written ({reason}): mend its permissions, free space there, or "
                "choose another --out"
            ) from error
        if isinstance(error, OSError) or storage.of_store(error):
            raise storage.told(error, place.root, "written") from error
        raise


@contextlib.contextmanager
def _beside(place: Store) -> Iterator[Store]:
    """Where to write: locally beside the place, to be renamed at the end; in a store the place itself, emptied."""
    if not place.is_local:
        place.delete("")
        yield place
        return
    path = place.path().rstrip("/")
    own = f"{path}.partial-{uuid.uuid4().hex[:8]}"
    try:
        yield Store(own)
        _remove(path)
        os.replace(own, path)
    finally:
        _remove(own)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def _parquet(tables: Iterator[pa.Table], place: Store) -> Written:
    parts = [place.write_table(f"part-{index:05d}.parquet", table) for index, table in enumerate(tables)]
    return Written(sum(part.rows for part in parts), [part.file for part in parts])


def _hf(tables: Iterator[pa.Table], place: Store) -> Written:
    """Parquet of one split, which the header of the README (`_card`) names."""
    parts = [place.write_table(f"data/train-{index:05d}.parquet", table) for index, table in enumerate(tables)]
    return Written(sum(part.rows for part in parts), [*(part.file for part in parts), "README.md"])


def _card(run: Run, told: dict[str, Any]) -> str:
    """The README, with the header by which `datasets` finds the files."""
    name = run.raw["name"]
    order = "in training order (`position`)" if told["what"] == "selection" else "part by part"
    lines = ["---", f"pretty_name: {json.dumps(name)}", "configs:", "- config_name: default", "  data_files:"]
    lines += ["  - split: train", '    path: "data/train-*.parquet"', "---", "", f"# {name}", ""]
    lines += [f"{told['rows']} examples ({told['what']}) of a raydelt run, {order}, with the scores of each.", ""]
    return "\n".join([*lines, "    datasets.load_dataset(PATH, split='train')", ""])


def _jsonl(tables: Iterator[pa.Table], place: Store) -> Written:
    rows = 0
    path = place.path().rstrip("/")
    if place.is_local:
        os.makedirs(posixpath.dirname(path), exist_ok=True)
    compress = ".gz" in posixpath.basename(path)
    with (
        place.fs.open(path, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) if compress else (contextlib.nullcontext(raw)) as file,
    ):
        for table in tables:
            for batch in table.to_batches(max_chunksize=JSON_ROWS):
                file.write("".join(_line(row) + "\n" for row in batch.to_pylist()).encode())
            rows += table.num_rows
    return Written(rows, [])


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is not finite is null."""
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, list):
        return [_plain(own) for own in value]
    return value


def _webdataset(tables: Iterator[pa.Table], place: Store) -> Written:
    names: list[str] = []
    rows = 0
    shard: list[tuple[str, bytes]] = []
    for table in tables:
        features = matrix_of(table, FEATURES) if FEATURES in table.column_names else None
        bare = table.drop_columns([name for name in (FEATURES, "text") if name in table.column_names])
        texts = table["text"] if "text" in table.column_names else None
        for index, row in enumerate(bare.to_pylist()):
            text = texts[index].as_py() if texts is not None else None
            shard += _members(rows, row, None if features is None else features[index], text)
            rows += 1
            if rows % PER_SHARD == 0:
                names.append(_tar(place, len(names), shard))
                shard = []
    if shard:
        names.append(_tar(place, len(names), shard))
    return Written(rows, names)


def _members(number: int, row: dict[str, Any], features: Any, text: str | None) -> list[tuple[str, bytes]]:
    """The files of one example; those of a key lie side by side, as readers of such archives ask."""
    key = f"{number:012d}"
    found = [(f"{key}.json", _line(row).encode())]
    if text is not None:
        found.append((f"{key}.txt", text.encode()))
    if features is not None and len(features):
        buffer = io.BytesIO()
        np.save(buffer, features, allow_pickle=False)
        found.append((f"{key}.npy", buffer.getvalue()))
    if row.get("label") is not None:
        found.append((f"{key}.cls", str(row["label"]).encode()))
    return found


def _tar(place: Store, index: int, members: list[tuple[str, bytes]]) -> str:
    """Write a shard; members have no times and owners, so the same examples give the same bytes."""
    buffer, name = io.BytesIO(), f"shard-{index:06d}.tar"
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    place.write_bytes(name, buffer.getvalue())
    return name
