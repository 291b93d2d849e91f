"""What each column of a sample holds, by its values first and its name where values leave it open.

    number    nearly all values are numbers          list     regular lists of numbers, with their shape
    category  few different short values             image    encoded images that can be decoded
    text      several words a value                  time     dates, ISO texts, or seconds since 1970 under such a name
    id        all different, under the name of a key mixed    neither numbers nor words outweigh the other
    constant  one value, empty no value, path names of image files, binary other bytes, nested mappings

Cost: O(rows) per column of the sample. Caution: what is told is told of the sample.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raydelt.corpus.features import as_floats, decoded

Kind = Literal[
    "number",
    "category",
    "text",
    "id",
    "time",
    "list",
    "image",
    "path",
    "mixed",
    "constant",
    "empty",
    "binary",
    "nested",
]
NEARLY_ALL, HARDLY_ANY = 0.95, 0.05
FEW_CLASSES = 1000
WORDS_OF_A_TEXT = 4.0
LETTERS_OF_A_TEXT = 60.0
YEARS_1990_TO_2100 = (631_152_000, 4_102_444_800)
KEYS = {"id", "uuid", "guid", "key", "idx", "index", "rowid", "hash", "digest", "sha1", "sha256", "md5"}
TIMES = {"time", "date", "datetime", "timestamp", "created", "updated", "published", "ts", "at"}
GROUPS = {"group", "user", "author", "patient", "subject", "session", "speaker", "source", "domain", "customer"}
GROUPS |= {"document", "doc", "family", "cluster", "site", "batch", "thread", "conversation"}
PICTURE = re.compile(r"\.(png|jpe?g|gif|bmp|webp|tiff?)$", re.IGNORECASE)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass(frozen=True)
class Column:
    """One column of the sample: share of rows with a value, different values, mean words, shape of lists."""

    name: str
    kind: Kind
    filled: float
    distinct: int
    whole: bool = False
    words: float = 0.0
    letters: float = 0.0
    shape: tuple[int, ...] = ()
    group: bool = False
    shown: str = ""


def describe(columns: Mapping[str, Sequence[Any]]) -> list[Column]:
    """What every column holds, in the order of the file."""
    return [_column(name, values) for name, values in columns.items()]


def tokens(name: str) -> list[str]:
    """The words of a name: `isSpam` and `is_spam` alike are `is`, `spam`."""
    return [word.lower() for word in WORD.findall(name)]


def _column(name: str, values: Sequence[Any]) -> Column:
    held = [value for value in values if not _missing(value)]
    filled = len(held) / max(len(values), 1)
    if not held:
        return Column(name, "empty", 0.0, 0)
    first = held[0]
    if isinstance(first, dict) and "bytes" not in first:
        return Column(name, "nested", filled, 0, shown=_short(first))
    if isinstance(first, (bytes, bytearray, dict)):
        return _bytes(name, held, filled)
    if isinstance(first, (list, tuple)):
        return _lists(name, held, filled)
    distinct = len({str(value) for value in held})
    if distinct == 1 and len(held) > 1:
        return Column(name, "constant", filled, 1, shown=_short(first))
    if isinstance(first, (datetime.date, datetime.datetime)):
        return Column(name, "time", filled, distinct, shown=_short(first))
    return _scalars(name, held, filled, distinct)


def _scalars(name: str, held: Sequence[Any], filled: float, distinct: int) -> Column:
    numbers, bad = as_floats(held)
    share = 1 - len(bad) / len(held)
    named = set(tokens(name))
    unique = distinct == len(held) and len(held) > 2
    keyed = unique and (bool(named & KEYS) or name.strip() in ("", "Unnamed: 0"))
    grouped = bool(named & GROUPS) and 1 < distinct < len(held)
    shown = _short(held[0])
    if share >= NEARLY_ALL:
        good = np.delete(numbers, bad)
        whole = bool(np.isfinite(good).all() and (good == np.round(good)).all())
        low, high = YEARS_1990_TO_2100
        stamped = bool(named & TIMES) and bool(((good > low) & (good < high)).mean() > NEARLY_ALL)
        kind: Kind = "time" if stamped else "id" if keyed and whole else "number"
        return Column(name, kind, filled, distinct, whole, group=grouped and whole, shown=shown)
    texts = [str(value) for value in held]
    words = float(np.mean([len(text.split()) for text in texts]))
    letters = float(np.mean([len(text) for text in texts]))
    if keyed and words < 2:
        kind = "id"
    elif share > HARDLY_ANY and distinct > 20:
        kind = "mixed"
    elif _dated(texts[:50]):
        kind = "time"
    elif sum(bool(PICTURE.search(text)) for text in texts) > NEARLY_ALL * len(texts):
        kind = "path"
    elif _like_texts(words, letters) and distinct > 2 and (2 * distinct > len(held) or distinct > 50):
        kind = "text"
    elif unique and words < 2 and len(held) > 20 and _like_keys(texts):
        kind = "id"
    elif distinct <= FEW_CLASSES and (2 * distinct <= len(held) or distinct < 20):
        kind = "category"
    else:
        kind = "text"
    return Column(name, kind, filled, distinct, False, words, letters, group=grouped and kind != "text", shown=shown)


def _like_texts(words: float, letters: float) -> bool:
    """Scripts that are written without spaces fill a line with one word."""
    return words >= WORDS_OF_A_TEXT or letters >= LETTERS_OF_A_TEXT


def _like_keys(texts: Sequence[str]) -> bool:
    """Whether values look like keys: one word each, most of them with a digit in it."""
    return sum(any(letter.isdigit() for letter in text) for text in texts) > NEARLY_ALL * len(texts)


def _dated(texts: Sequence[str]) -> bool:
    good = 0
    for text in texts:
        try:
            datetime.datetime.fromisoformat(text.strip())
        except ValueError:
            continue
        good += 1
    return good > NEARLY_ALL * len(texts)


def _bytes(name: str, held: Sequence[Any], filled: float) -> Column:
    good, shape = 0, ()
    for value in held[:20]:
        try:
            image = decoded(value, None)
        except Exception:
            continue
        good, shape = good + 1, shape or image.shape
    kind: Kind = "image" if 2 * good > len(held[:20]) else "binary"
    return Column(name, kind, filled, len(held), shape=shape, shown=f"{len(held)} values of bytes")


def _lists(name: str, held: Sequence[Any], filled: float) -> Column:
    shapes: dict[tuple[int, ...], int] = {}
    for value in held:
        try:
            shape = np.asarray(value, np.float32).shape
        except (TypeError, ValueError):
            continue
        shapes[shape] = shapes.get(shape, 0) + 1
    if not shapes or 0 in (common := max(shapes, key=lambda shape: shapes[shape])):
        return Column(name, "nested", filled, 0, shown=_short(held[0]))
    return Column(name, "list", filled, len(held), shape=common, shown=f"shape {list(common)}")


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and value != value)
    )


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 30 else text[:29] + "…"
