"""Where the data lie: the files of a source, their format, and the test and validation splits beside them.

Files are listed by the flow's own lister. Files that it does not know by name are known by how they begin. What is
named train, test (t10k, eval) or validation (valid, val, dev), as a folder, as a file, or beside the source, is taken
for that split.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from raydelt import storage
from raydelt.config import Corpus
from raydelt.corpus.sources import BUILT_IN, COMPRESSED, GLOB, SourceFile, find
from raydelt.errors import InputError

NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "t10k", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
ROLE_OF = {name: role for role, names in NAMES.items() for name in names}
ROLE = re.compile(rf"(?:^|[-_.])({'|'.join(ROLE_OF)})(?=[-_.]|$)", re.IGNORECASE)
PROSE = re.compile(r"^(readme|licen[cs]e|notice|changelog|authors|contributing|security|citation)\b", re.IGNORECASE)
MOST_LISTED = 20
SNIFFED_BYTES, SNIFFED_FILES = 1 << 16, 5
MAGIC = {b"PAR1": "parquet", b"\x89PNG": "image", b"\xff\xd8\xff": "image", b"\0\0\x08\x03": "idx"}


@dataclass(frozen=True)
class Places:
    """What `corpus.source`, `test.source` and `validation.source` are to be; `format` where names do not tell it."""

    source: str | list[str]
    files: Sequence[SourceFile]
    test: str | list[str] | None = None
    validation: str | list[str] | None = None
    format: str | None = None
    notes: list[str] = field(default_factory=list)


def arranged(source: str) -> Places:
    """The files of a source of one format, with its splits taken apart.

    Raises:
        InputError: there is nothing there, or nothing that can be read.
    """
    if source.startswith(BUILT_IN):
        return Places(source, find(Corpus(source=source)))
    files, forced = _listed(source)
    notes: list[str] = []
    kinds = Counter(file.format for file in files)
    if len(kinds) > 1:
        files, forced = _of_one_format(files, notes)
    base = _base(source, files[0].path)
    roles = _roles(files, base)
    if len(files) > 1 and "test" in roles.values() and set(roles.values()) != {"test"}:
        return _split(source, base, files, roles, forced, notes)
    beside = {role: _beside(source, role) for role in ("test", "validation")}
    inner = [file for file in files if file.path.removeprefix(base).count("/") == 1]
    strays = len(files) - len(inner)
    if files[0].format in ("text", "image") and 0 < strays <= max(2, len(files) // 100) and len(inner) > strays:
        # Files beside the folders of classes are none of a class of their own.
        notes.append(f"{strays} files that lie outside of the folders of classes are left out")
        return Places(f"{_as_given(source, base)}*/*", inner, beside["test"], beside["validation"], forced, notes)
    return Places(source, files, beside["test"], beside["validation"], forced, notes)


def _listed(source: str) -> tuple[list[SourceFile], str | None]:
    """Files of a known format by name, or else by how they begin."""
    try:
        return find(Corpus(source=source)), None
    except InputError as error:
        if "known extension" not in str(error) and "known format" not in str(error):
            raise InputError(str(error).replace("corpus.source", "SOURCE", 1)) from error
        everything = find(Corpus(source=source, format="text"))
        kind = _by_content(everything, source)
        return [SourceFile(f.path, kind, f.split, f.size, f.mark) for f in everything], kind


def _by_content(files: Sequence[SourceFile], source: str) -> str:
    """The format that most of a few files begin like."""
    found = Counter(_begins_like(file.path) for file in files[: len(files) : max(1, len(files) // SNIFFED_FILES)])
    kind = found.most_common(1)[0][0]
    if kind == "binary":
        raise InputError(
            f"source {source!r} holds bytes of no format that is read ({posixpath.basename(files[0].path)} is neither "
            "text, Parquet, PNG, JPEG nor IDX): convert it to Parquet or JSON lines"
        )
    return kind


def _begins_like(path: str) -> str:
    with storage.opened(path) as file:
        head = bytes(file.read(SNIFFED_BYTES))
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if is_binary(head):
        return "binary"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"{") and b'":' in start[:4096]:
        return "jsonl"
    lines = [line for line in head.split(b"\n")[:-1][:20] if line.strip()]
    commas = {line.count(b",") for line in lines}
    return "csv" if len(lines) > 2 and len(commas) == 1 and commas != {0} else "text"


def is_binary(head: bytes) -> bool:
    """Whether bytes are no text in any encoding: more than a few control characters in them."""
    odd = sum(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head)
    return odd > 0.01 * len(head)


def _of_one_format(files: Sequence[SourceFile], notes: list[str]) -> tuple[list[SourceFile], str]:
    """The files of the commonest format, prose about the data aside."""
    data = [file for file in files if not PROSE.match(posixpath.basename(file.path))] or list(files)
    counts, sizes = Counter(file.format for file in data), Counter[str]()
    for file in data:
        sizes[file.format] += file.size
    kind = max(counts, key=lambda name: (counts[name], sizes[name]))
    others = {name: count for name, count in Counter(f.format for f in files).items() if name != kind}
    told = ", ".join(f"{count} of {name}" for name, count in sorted(others.items()))
    notes.append(f"of several formats {kind} is read ({counts[kind]} files); left out: {told}")
    return [file for file in data if file.format == kind], kind


def _base(source: str, file: str) -> str:
    """The folder that the names of files such as this one are looked at below, as the lister gives them."""
    plain = source
    while GLOB.search(plain):
        plain = posixpath.dirname(plain)
    plain = storage.absolute(plain) if plain or not source.startswith("/") else "/"
    if "://" in plain and "://" in file:
        # Schemes have several names, and the lister uses one.
        plain = f"{storage.scheme(file)}://{plain.partition('://')[2]}"
    return plain.rstrip("/") + "/"


def _roles(files: Sequence[SourceFile], base: str) -> dict[str, str]:
    """The split that each file's name or folder stands for, "" where it names none."""
    return {file.path: _role(file.path.removeprefix(base)) for file in files}


def _role(relative: str) -> str:
    *folders, name = relative.split("/")
    for part in folders:
        if part.lower() in ROLE_OF:
            return ROLE_OF[part.lower()]
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    found = ROLE.search(posixpath.splitext(name)[0])
    return ROLE_OF[found[1].lower()] if found else ""


def _split(
    source: str, base: str, files: Sequence[SourceFile], roles: dict[str, str], forced: str | None, notes: list[str]
) -> Places:
    """Train, test and validation as sources of their own; files of no such name train where none is named train."""
    training = "train" if "train" in roles.values() else ""
    groups = {role: [f for f in files if roles[f.path] == role] for role in (training, "test", "validation")}
    aside = len(files) - sum(len(group) for group in groups.values())
    if aside:
        notes.append(f"{aside} files that are named neither train, test nor validation are left out")
    told = {role: _expression(source, base, group, files) if group else None for role, group in groups.items()}
    own = told[training]
    assert own is not None
    return Places(own, groups[training], told["test"], told["validation"], forced, notes)


def _expression(source: str, base: str, group: Sequence[SourceFile], files: Sequence[SourceFile]) -> str | list[str]:
    """One path for a group of files: a folder, a glob, or the files themselves."""
    relative = [file.path.removeprefix(base) for file in group]
    everything = [file.path.removeprefix(base) for file in files]
    start = _as_given(source, base)
    top = {name.split("/")[0] for name in relative if "/" in name}
    if len(top) == 1 and all("/" in name for name in relative):
        folder = top.pop()
        if sorted(relative) == sorted(name for name in everything if name.startswith(folder + "/")):
            return f"{start}{folder}"
    if len(relative) == 1:
        return f"{start}{relative[0]}"
    shared = _shared(relative)
    glob = f"{shared}*{posixpath.splitext(relative[0])[1]}"
    if "/" not in glob and not GLOB.search(shared) and sorted(fnmatch.filter(everything, glob)) == sorted(relative):
        return f"{start}{glob}"
    if len(relative) > MOST_LISTED:
        raise InputError(
            f"source {source!r} mixes {len(relative)} files of one split among others: give them a folder of their "
            "own, or the splits by SOURCE and --test"
        )
    return [f"{start}{name}" for name in relative]


def _shared(names: Sequence[str]) -> str:
    """The letters that all names begin with."""
    low, high = min(names), max(names)
    same = (place for place, letter in enumerate(low) if not high.startswith(letter, place))
    return low[: next(same, len(low))]


def _as_given(source: str, base: str) -> str:
    """The base as the user wrote it: relative where the source is."""
    plain = source
    while GLOB.search(plain):
        plain = posixpath.dirname(plain)
    return base if "://" in source and plain.rstrip("/") + "/" == base else f"{plain.rstrip('/')}/" if plain else ""


def _beside(source: str, role: str) -> str | None:
    """A source of the other split that lies beside one named train."""
    path = source.rstrip("/")
    folder, name = posixpath.split(path)
    found = [match for match in ROLE.finditer(name) if ROLE_OF[match[1].lower()] == "train"]
    if not found or GLOB.search(path) or storage.scheme(source) in ("http", "https"):
        return None
    low, high = found[0].span(1)
    for other in NAMES[role]:
        candidate = posixpath.join(folder, name[:low] + other + name[high:])
        fs, inner = storage.filesystem(storage.absolute(candidate))
        if fs.exists(inner):
            return candidate
    return None
