"""Which column is the label: by its name, by how many different values it has, and by where it stands.

    points = 14 named label, class, target or y, 10 by another such name, 6 by a word of one
           + 3 values are words, 1 whole numbers
           + 2 last column + 1 first column - 4 more than 50 values - 2 more than 20 - 1 if it looks like a group

A column can be the label if it is a category or whole numbers, has 2 to `MOST_CLASSES` values, and on average
`ROWS_A_CLASS` rows of the sample for each. One that is chosen by its place alone is told to be a guess.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from raydelt.errors import InputError
from raydelt.setup.columns import Column, tokens

FIRST = ("label", "labels", "class", "target", "y")
EXACT = (*FIRST, "category", "outcome", "sentiment", "species", "diagnosis", "topic")
WORDS = {"label", "class", "target", "category", "outcome", "sentiment", "species", "spam", "diagnosis", "topic"}
WORDS |= {"intent", "genre", "rating", "stars", "verdict", "grade", "type", "churn", "fraud", "default", "survived"}
MOST_CLASSES, ROWS_A_CLASS = 1000, 2
NAMED, CLEAR = 6, 2


@dataclass(frozen=True)
class Chosen:
    """The label column, the others that it might have been, and the reason; `guessed` where only its place told."""

    column: Column
    others: list[str]
    reason: str
    guessed: bool


def chosen(columns: Sequence[Column], rows: int, *, source: str) -> Chosen | None:
    """The label among columns; None where none can be it.

    Raises:
        InputError: the column that is named like a label has one value, or values that are no classes.
    """
    points = {column.name: _points(column, place, len(columns)) for place, column in enumerate(columns)}
    able = [column for column in columns if able_to_label(column, rows)]
    ranked = sorted(able, key=lambda column: -points[column.name])
    named = [column for column in columns if column.name.strip().lower() in EXACT]
    if named and named[0] not in able and not (ranked and points[ranked[0].name] >= 10):
        raise InputError(f"{source}: {_why_not(named[0], rows)}: name another label by --label COLUMN")
    if not ranked:
        return None
    best, score = ranked[0], points[ranked[0].name]
    others = [
        column.name for column in ranked[1:] if score - points[column.name] < CLEAR or points[column.name] >= NAMED
    ]
    if (
        score < NAMED
        and best.kind == "number"
        and (best.distinct > 20 or (len(able) > 1 and not _at_an_end(best, columns)))
    ):
        return None
    reason = "its name" if score >= NAMED else f"its {best.distinct} values and its place"
    return Chosen(best, others, reason, score < NAMED)


def given(columns: Sequence[Column], name: str, rows: int, *, source: str) -> Column:
    """The column that the user named.

    Raises:
        InputError: there is none, or it holds no classes.
    """
    found = next((column for column in columns if column.name == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [column.name for column in columns], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(c.name for c in columns)}"
        raise InputError(f"--label {name!r} is no column of {source}: {hint}")
    if not able_to_label(found, rows) and not (found.distinct > 1 and found.kind in ("category", "id", "text")):
        raise InputError(f"{source}: {_why_not(found, rows)}: name another by --label COLUMN")
    return found


def able_to_label(column: Column, rows: int) -> bool:
    """Whether a column can hold classes."""
    if column.kind not in ("category", "number") or (column.kind == "number" and not column.whole):
        return False
    return 2 <= column.distinct <= min(MOST_CLASSES, max(2, rows // ROWS_A_CLASS))


def _points(column: Column, place: int, count: int) -> int:
    words = set(tokens(column.name))
    name = column.name.strip().lower()
    points = 14 if name in FIRST else 10 if name in EXACT else NAMED if words & WORDS else 0
    points += 3 if column.kind == "category" else 1 if column.whole else 0
    points += 2 if place == count - 1 else 1 if place == 0 else 0
    return points - (4 if column.distinct > 50 else 2 if column.distinct > 20 else 0) - (1 if column.group else 0)


def _at_an_end(column: Column, columns: Sequence[Column]) -> bool:
    return column.name in (columns[0].name, columns[-1].name)


def _why_not(column: Column, rows: int) -> str:
    if column.distinct == 1:
        return f"column {column.name!r} holds one class only ({column.shown}), and a classifier needs at least two"
    if column.kind == "number" and not column.whole:
        return f"column {column.name!r} holds {column.distinct} different numbers that are no classes (a regression)"
    return (
        f"column {column.name!r} is {column.kind} with {column.distinct} values in {rows} rows, which are no classes"
    )
