"""What a job ships: the working directory without what is ignored, this raydelt or wheels, and the resolved spec.

    digest = xxh3-128 over (name, digest of content) of every file but the spec, in the order of the names

The same files give the same zip, byte for byte, so the cluster keeps one copy of it. Time and memory: one pass over
the files that are kept; the package is built on disk and is bounded by `limit` bytes, since Ray holds it in the memory
of its head node.

Caution: patterns are those of .gitignore, a deeper file before a higher one; files that usually hold credentials are
left out as well, but no pattern knows every secret.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from pathspec import GitIgnoreSpec

import raydelt
from raydelt.errors import InputError
from raydelt.storage import fingerprint

IGNORE_FILES = (".gitignore", ".raydeltignore")
MOST_FILES = 20_000
EPOCH = (1980, 1, 1, 0, 0, 0)
OWN = "raydelt/"
FOLDERS = (
    *(".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".ipynb_checkpoints", "*.egg-info"),
    *(".*_cache", ".hypothesis", ".tox", ".idea", ".vscode", "mlruns", ".aws", ".ssh", ".kube", ".ray", ".raydelt"),
)
AT_THE_TOP = ("runs", "build", "dist")
DATA = (
    *("parquet", "arrow", "feather", "csv", "tsv", "jsonl", "ndjson", "npy", "npz", "h5", "hdf5", "tfrecord"),
    *("safetensors", "bin", "pt", "pth", "ckpt", "gguf", "onnx", "pkl", "pickle", "joblib", "db", "sqlite"),
    *("zip", "tar", "tgz", "gz", "zst", "xz", "bz2", "7z", "png", "jpg", "jpeg", "mp3", "mp4", "wav"),
)
SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".netrc", ".pypirc", ".git-credentials"),
    *("auth_token", "credentials.json", "*service*account*.json"),
)
DEFAULTS = [
    *(f"{name}/" for name in FOLDERS),
    *(f"/{name}/" for name in AT_THE_TOP),
    *(f"*.{ending}" for ending in DATA),
    *("*ubyte", "*.pyc", ".DS_Store", ".raydeltignore"),
    *SECRETS,
]


@dataclass(frozen=True)
class Package:
    """Files by their names in the job's working directory: where each lies here, or its content."""

    files: Mapping[str, Path | bytes]
    digest: str

    def write(self, path: Path, extra: Mapping[str, bytes]) -> None:
        """Write the zip, with `extra` files added; the same files give the same bytes."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted({**self.files, **extra}.items()):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (
                    0o755 if isinstance(content, Path) and os.access(content, os.X_OK) else 0o644
                ) << 16
                archive.writestr(entry, _bytes(content))


def collect(
    folder: Path | None,
    *,
    ship: bool,
    wheels: Sequence[Path] = (),
    include: Sequence[str] = (),
    leave: Sequence[Path] = (),
    limit: int,
) -> Package:
    """The files to ship from a folder (None: none), with this raydelt (`ship`) and pure Python wheels unpacked.

    `include` are paths or globs below the folder that go along whatever is ignored; `leave` are files that do not.

    Raises:
        InputError: too many files or bytes, a file that cannot be read, or a wheel that is none or is not pure.
    """
    files: dict[str, Path | bytes] = {}
    if folder is not None:
        kept = {*_kept(folder), *_included(folder, include)} - {path.resolve() for path in leave}
        names = {path.relative_to(folder).as_posix(): path for path in kept}
        files |= {name: path for name, path in names.items() if not name.startswith(OWN)}
    if ship:
        home = Path(raydelt.__file__).parent
        files |= {OWN + path.relative_to(home).as_posix(): path for path in _kept(home)}
    for wheel in wheels:
        files |= _unpacked(wheel)
    _check_size(files, folder, limit)
    return Package(files, fingerprint([[name, _digest(content)] for name, content in sorted(files.items())]))


def _kept(folder: Path) -> Iterator[Path]:
    """Regular files below a folder that no pattern ignores; a link counts where it points into the folder."""
    rules: dict[Path, GitIgnoreSpec] = {}
    defaults, count = GitIgnoreSpec.from_lines(DEFAULTS), 0

    def ignored(path: Path, slash: str = "") -> bool:
        for parent in path.parents:
            found = rules[parent].check_file(path.relative_to(parent).as_posix() + slash).include
            if found is not None:
                return found
            if parent == folder:
                break
        return bool(defaults.check_file(path.relative_to(folder).as_posix() + slash).include)

    for root, folders, names in os.walk(folder):
        here = Path(root)
        rules[here] = GitIgnoreSpec.from_lines(_lines(here))
        folders[:] = sorted(name for name in folders if not ignored(here / name, "/"))
        for name in names:
            path = here / name
            if ignored(path) or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
                continue
            count += 1
            if count > MOST_FILES:
                raise InputError(
                    f"{str(folder)!r} holds more than {MOST_FILES} files to ship: submit from the folder of your "
                    "code, name it by --working-dir, or list what to leave out in a .raydeltignore"
                )
            yield path


def _lines(folder: Path) -> list[str]:
    lines = []
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            lines += (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    return lines


def _included(folder: Path, include: Sequence[str]) -> Iterator[Path]:
    for pattern in include:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise InputError(f"--include {pattern!r} must be a path or glob below the working directory")
        found = [path for match in folder.glob(pattern) for path in ([match] if match.is_file() else match.rglob("*"))]
        files = [path for path in found if path.is_file()]
        if not files:
            raise InputError(f"--include {pattern!r} names no file below {str(folder)!r}: check the path")
        yield from files


def _unpacked(wheel: Path) -> dict[str, Path | bytes]:
    """The files of a pure Python wheel; unpacked into the working directory they are installed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            files: dict[str, Path | bytes] = {
                name: archive.read(name) for name in archive.namelist() if not name.endswith("/")
            }
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"--wheel {str(wheel)!r} cannot be read ({error}): build it by `pip wheel --no-deps .`"
        ) from error
    about = next((content for name, content in files.items() if name.endswith(".dist-info/WHEEL")), b"")
    if b"Root-Is-Purelib: true" not in _bytes(about):
        raise InputError(f"--wheel {str(wheel)!r} is no pure Python wheel: install it on the cluster's image instead")
    outside = next((name for name in files if name.startswith("/") or ".." in name.split("/")), None)
    if outside is not None:
        raise InputError(f"--wheel {str(wheel)!r} holds {outside!r}, which leaves its folder: build it anew")
    return files


def _check_size(files: Mapping[str, Path | bytes], folder: Path | None, limit: int) -> None:
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    total = sum(sizes.values())
    if total <= limit:
        return
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:3]
    told = ", ".join(f"{name} ({_mebibytes(sizes[name])})" for name in largest)
    raise InputError(
        f"{str(folder)!r} comes to {_mebibytes(total)} to ship, more than {_mebibytes(limit)}, the largest being "
        f"{told}: list them in a .raydeltignore, or raise --package-mib"
    )


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _bytes(content: Path | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return content.read_bytes()
    except OSError as error:
        raise InputError(f"{str(content)!r} cannot be read to ship it ({error}): mend it, or ignore it") from error


def _digest(content: Path | bytes) -> str:
    return str(xxhash.xxh3_128_hexdigest(_bytes(content)))
