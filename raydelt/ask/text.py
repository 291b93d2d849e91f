"""Texts of unknown origin on a terminal: no control characters, no reordering of what follows, cut by display width.

Control and format characters go (joiners and variation selectors of emoji stay), white space becomes one space, and a
text with letters that run from right to left is wrapped in isolates. Cost: O(width) for a cut, whatever the text.
"""

from __future__ import annotations

import sys
import unicodedata

from rich.cells import cell_len

JOINERS = "\u200d\ufe0e\ufe0f"
RIGHT_TO_LEFT = ("R", "AL", "AN")
ISOLATE, END = "\u2068", "\u2069"
ELLIPSIS = "…"
# A character of the terminal may be many code points; a longer text is never looked at to its end.
POINTS_PER_CELL = 16


def plain(text: str) -> str:
    """A text without control characters and formats, white space as single spaces."""
    kept = (" " if character.isspace() else character for character in text if _shown(character))
    return " ".join("".join(kept).split())


def snippet(text: str | None, width: int) -> str:
    """The start of a text on one line of at most `width` cells; no letter is cut from its marks."""
    if text is None:
        return ""
    clean = plain(text[: POINTS_PER_CELL * (width + 1)])
    cut = clean if cell_len(clean) <= width else _cut(clean, width - 1) + ELLIPSIS
    if any(unicodedata.bidirectional(character) in RIGHT_TO_LEFT for character in cut):
        return f"{ISOLATE}{cut}{END}"
    return cut


def told(line: str) -> str:
    """A line as the standard output can encode it, other characters as question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    return line.encode(encoding, "replace").decode(encoding)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """A text filled up with spaces to so many cells."""
    space = " " * max(0, width - cell_len(text))
    return space + text if right else text + space


def _shown(character: str) -> bool:
    if character.isspace() or character in JOINERS:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")


def _cut(text: str, width: int) -> str:
    """As many whole clusters of a letter and its marks as fit."""
    end = start = 0
    while start < len(text):
        stop = start + 1
        while stop < len(text) and _continues(text[stop - 1], text[stop]):
            stop += 1
        if cell_len(text[:stop]) > width:
            break
        start = end = stop
    return text[:end].rstrip()


def _continues(before: str, character: str) -> bool:
    marked = unicodedata.category(character).startswith("M") or character in JOINERS
    return marked or before == "\u200d" or "\U0001f3fb" <= character <= "\U0001f3ff"
