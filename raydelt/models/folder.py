"""Model folders: from a local path, an object store or the hub, with weights in safetensors and nothing that executes.

A URL is copied once per machine into a cache keyed by the listing of its files. Pickled weights are refused, since
loading one runs code. A folder's fingerprint covers the bytes of its files, so a checkpoint replaced in place is
noticed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import xxhash

from raydelt import storage
from raydelt.errors import InputError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
BLOCK = 1 << 20


def fetch(path: str, *, field: str) -> str:
    """A local folder for a path: itself, the cached copy of a URL, or a hub name passed through.

    Raises:
        InputError: there is no such folder.
    """
    if "://" in path:
        return str(_cached(path, field))
    if os.path.isdir(os.path.expanduser(path)):
        return os.path.abspath(os.path.expanduser(path))
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise InputError(f"{field} {path!r} is no folder: give a folder with config.json and *.safetensors")
    return path


def refuse_pickles(folder: str, *, field: str) -> None:
    """Raise InputError where a local folder has pickled weights and no safetensors, or no weights at all."""
    if not os.path.isdir(folder):
        return
    names = sorted(os.listdir(folder))
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled:
        raise InputError(
            f"{field}: {folder}/{pickled[0]} is a pickle, which could run code: convert it to safetensors"
        )
    raise InputError(
        f"{field}: {folder} has no weights (*.safetensors): scores of an untrained model do not reproduce; give a "
        "trained checkpoint"
    )


def fingerprint(path: str) -> str:
    """32 hex digits over the names and bytes of a folder's files; of the name itself for a hub model."""
    digest = xxhash.xxh3_128()
    if "://" in path:
        for name, size, mark in _listing(path):
            digest.update(f"{name}\0{size}\0{mark}\n".encode())
    elif os.path.isdir(path):
        for file in sorted(p for p in Path(path).rglob("*") if p.is_file()):
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            with file.open("rb") as opened:
                while block := opened.read(BLOCK):
                    digest.update(block)
    elif os.path.isfile(path):
        digest.update(Path(path).read_bytes())
    else:
        digest.update(path.encode())
    return digest.hexdigest()


def _listing(url: str) -> list[tuple[str, int, str]]:
    """(name below the URL, bytes, mark of the content) of every file."""
    fs, root = storage.filesystem(url)
    found = fs.find(root, detail=True)
    marks = ("ETag", "etag", "checksum", "mtime", "LastModified", "created")
    return sorted(
        (
            name.removeprefix(root).lstrip("/"),
            int(info["size"] or 0),
            str(next((info[m] for m in marks if m in info), "")),
        )
        for name, info in found.items()
    )


def _cached(url: str, field: str) -> Path:
    try:
        listing = _listing(url)
    except Exception as error:
        raise InputError(f"{field} {url!r} cannot be listed ({' '.join(str(error).split())[:160]})") from error
    if not listing:
        raise InputError(f"{field} {url!r} holds no file: check the prefix and the credentials")
    cache = _cache_folder()
    target = cache / xxhash.xxh3_128_hexdigest(repr((url, listing)).encode())
    if _is_whole(target, listing):
        return target
    fs, root = storage.filesystem(url)
    partial = Path(tempfile.mkdtemp(dir=cache))
    try:
        for name, _, _ in listing:
            if ".." in name.split("/"):
                raise InputError(f"{field} {url!r} holds {name!r}: names must not contain '..'")
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{root.rstrip('/')}/{name}", str(partial / name))
        if not _is_whole(target, listing):
            shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process may just have put the same copy there
                partial.rename(target)
    except OSError as error:
        raise InputError(f"{field} {url!r} cannot be copied ({' '.join(str(error).split())[:160]})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _cache_folder() -> Path:
    """A folder of this user's own below the system's place for temporary files."""
    folder = Path(tempfile.gettempdir()) / f"raydelt-models-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder} belongs to another user: set TMPDIR to a folder of your own")
    return folder


def _is_whole(folder: Path, listing: list[tuple[str, int, str]]) -> bool:
    """Whether every file lies there at its full size; cleaners of temporary files take single ones."""
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size, _ in listing)
