"""What an example is made of and what its label is, as far as a sample tells: the fields of the section `corpus`.

Order of preference: images, lists of numbers, a text, numbers; where a table holds several, what is left out is told.
Everything that is uncertain becomes a note, which init writes into the spec and to the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raydelt.errors import InputError
from raydelt.setup import label as labels
from raydelt.setup.columns import HARDLY_ANY, Column, describe
from raydelt.setup.look import Sample

Made = Literal["text", "image", "list", "numbers"]
IMPLIED = ("text", "image", "idx", "builtin")
GROUPS_TO_SPLIT_BY = 20
LARGEST_IMAGE = 3 * 64 * 64
SMALL_IMAGE = 32


@dataclass
class Content:
    """Fields of `corpus` that are set, others that are offered, each with a comment, and what was found on the way."""

    made: Made
    shape: tuple[int, ...]
    fields: dict[str, tuple[Any, str]] = field(default_factory=dict)
    offered: dict[str, tuple[Any, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    classes: int = 0
    columns: list[Column] = field(default_factory=list)
    label: str | None = None


def content_of(sample: Sample, *, source: str, label: str | None) -> Content:
    """What examples of this sample are made of.

    Raises:
        InputError: the sample holds nothing that can be used, or no usable label where the user named one.
    """
    columns = describe(sample.columns)
    if sample.format in IMPLIED:
        return _of_files(sample, columns, source, label)
    _check_header(sample, columns, source, label)
    held = [column for column in columns if column.kind not in ("empty", "constant")]
    own = labels.given(columns, label, sample.rows, source=source) if label else None
    found = None if own else labels.chosen(columns, sample.rows, source=source)
    column = own or (found.column if found else None)
    content = _made_of([c for c in held if c is not column], columns, sample, source)
    content.columns = columns
    _labelled(content, column, found, sample)
    _keys(content, [c for c in columns if c is not column], sample)
    return content


def _of_files(sample: Sample, columns: list[Column], source: str, label: str | None) -> Content:
    """Formats that fix what an example is: text and image files, IDX pairs, bundled sets."""
    if label:
        raise InputError(f"--label {label!r} names a column, and {source} holds {sample.format} files: leave it out")
    made: Made = "text" if sample.format == "text" else "list" if sample.format == "builtin" else "image"
    first = next((c for c in columns if c.name != "label"), None)
    shape = first.shape if first is not None else ()
    if made == "list" and len(shape) == 3:
        made = "image"
    content = Content(made, shape or (1,), columns=columns)
    if sample.format in ("idx", "builtin"):
        content.label = "label"
        content.classes = next(c.distinct for c in columns if c.name == "label")
        return content
    if made == "image":
        content.fields |= _resized(shape)
    folders = {name: count for name, count in sample.folders.items() if name}
    if len(folders) >= 2 and 2 * len(folders) <= len(sample.files):
        content.fields["label_from_folder"] = (True, f"the folders are the classes: {_listed(folders)}")
        content.label, content.classes = "folder", len(folders)
    return content


def _resized(shape: Sequence[int]) -> dict[str, tuple[Any, str]]:
    if len(shape) != 3:
        return {}
    channels, height, width = shape
    if channels * height * width <= LARGEST_IMAGE:
        return {"image_shape": ([*shape], "images of other sizes are resized to it")}
    why = f"resized from {height} x {width}: cost grows with the area, so raise it where details matter"
    return {"image_shape": ([channels, SMALL_IMAGE, SMALL_IMAGE], why)}


def _made_of(columns: Sequence[Column], every: Sequence[Column], sample: Sample, source: str) -> Content:
    """The content: the first of image, list, text, numbers that is there."""
    by_kind = {kind: [c for c in columns if c.kind == kind] for kind in ("image", "list", "text", "number", "path")}
    for kind in ("image", "list"):
        if by_kind[kind]:
            return _single(by_kind[kind][0], columns)
    numbers = [c for c in by_kind["number"] if not c.group]
    if by_kind["text"]:
        best = max(by_kind["text"], key=lambda c: c.letters * c.filled)
        content = Content("text", (1,), {"text_column": (best.name, f"{best.words:.0f} words on average")})
        others = [c.name for c in by_kind["text"] if c is not best] + [c.name for c in numbers]
        if others:
            content.notes.append(f"an example is its {best.name!r} alone; not used: {_listed(others)}")
        return content
    if numbers:
        return _numbers(numbers, columns, sample)
    if by_kind["path"]:
        name = by_kind["path"][0].name
        raise InputError(
            f"{source}: column {name!r} names image files, which are not followed: give the folder of images with a "
            "subfolder for each class as SOURCE, or put the bytes into Parquet"
        )
    told = ", ".join(f"{c.name!r} {c.kind}" for c in every) or "no column"
    mixed = [c for c in every if c.kind == "mixed"]
    cure = "let each column hold either" if mixed else "give a column of text, of numbers, of lists or of images"
    raise InputError(
        f"{source} has no column that examples could be made of ({told})"
        f"{': numbers and words are mixed in one column' if mixed else ''}: {cure}"
    )


def _single(column: Column, others: Sequence[Column]) -> Content:
    made: Made = "image" if column.kind == "image" or len(column.shape) == 3 else "list"
    content = Content(made, column.shape)
    if column.kind == "image":
        content.fields["image_column"] = (column.name, "encoded images")
        content.fields |= _resized(column.shape)
    else:
        content.fields["feature_columns"] = ([column.name], f"lists of numbers of shape {list(column.shape)}")
    left = [c.name for c in others if c is not column and c.kind in ("text", "number", "list", "image")]
    if left:
        content.notes.append(f"an example is its {column.name!r} alone; not used: {_listed(left)}")
    return content


def _numbers(numbers: Sequence[Column], columns: Sequence[Column], sample: Sample) -> Content:
    full = [c for c in numbers if 1 - c.filled <= HARDLY_ANY]
    gaps = [c for c in numbers if c not in full]
    used = full or list(numbers)
    note = f"{len(used)} columns of numbers"
    content = Content("numbers", (len(used),), {"feature_columns": ([c.name for c in used], note)})
    if gaps and full:
        content.notes.append(
            f"values are missing in {_listed([c.name for c in gaps])}: not used, fill them to use them"
        )
    words = [c.name for c in columns if c.kind in ("category", "mixed")]
    if words:
        content.notes.append(f"columns of words are not used: {_listed(words)}; turn them into numbers to use them")
    if sample.rows and 4 * len(used) > sample.total:
        content.notes.append(f"{len(used)} numbers for about {sample.total} rows: expect overfitting")
    return content


def _labelled(content: Content, column: Column | None, found: labels.Chosen | None, sample: Sample) -> None:
    if column is None:
        return
    content.label, content.classes = column.name, column.distinct
    rare = "" if column.distinct < 2 else f"{column.distinct} classes in the first rows"
    why = f", chosen by {found.reason}" if found else ""
    content.fields["label_column"] = (column.name, f"{rare}{why}")
    if found is not None and found.others:
        content.notes.append(
            f"the label is taken to be {column.name!r}; it might also be {_listed(found.others)}: --label COLUMN"
        )
    elif found is not None and found.guessed:
        content.notes.append(f"no column is named like a label; {column.name!r} is taken: --label COLUMN for another")
    if column.distinct == 1:
        content.notes.append(f"the rows that were looked at hold one class of {column.name!r} only")


def _keys(content: Content, columns: Sequence[Column], sample: Sample) -> None:
    """Columns that say which example it is, whom it belongs to, and when it was made."""
    ids = [c for c in columns if c.kind == "id" and c.filled == 1]
    if ids:
        content.offered["id_column"] = (
            ids[0].name,
            "its values are all different here; `raydelt why` then knows them",
        )
    groups = [c for c in columns if c.group and c.filled == 1 and c.kind in ("category", "number", "id")]
    if groups and groups[0].distinct >= GROUPS_TO_SPLIT_BY:
        content.fields["group_column"] = (groups[0].name, "rows of one group never stand on both sides of a split")
        _without(content, groups[0].name)
    elif groups:
        why = f"{groups[0].distinct} groups here, few to split by"
        content.offered["group_column"] = (groups[0].name, why)
    times = [c for c in columns if c.kind == "time"]
    if times:
        content.offered["time_column"] = (times[0].name, "for sample_weight, which prefers recent examples")


def _without(content: Content, name: str) -> None:
    names, note = content.fields.get("feature_columns", ([], ""))
    if name in names and len(names) > 1:
        kept = [own for own in names if own != name]
        content.fields["feature_columns"] = (kept, note)


def _check_header(sample: Sample, columns: Sequence[Column], source: str, label: str | None) -> None:
    """Refuse a CSV whose first line is a row, not names.

    Raises:
        InputError: it looks so, and the user named no label by such a name.
    """
    names = [column.name for column in columns]
    if sample.format != "csv" or label is not None or not names:
        return
    if len(names) == 1 and (names[0].count(";") or names[0].count("|") or names[0].count("\t")):
        mark = max(";|\t", key=names[0].count)
        raise InputError(
            f"{source}: fields seem to be separated by {mark!r}, and raydelt reads commas (.csv) and tabs (.tsv): "
            "save it so, or as Parquet"
        )
    counted = [str(place) for place in range(len(names))]
    numeric = [_is_number(name) for name in names]
    if all(numeric) and names == counted:
        return
    looks_like_data = [
        number or name in {str(value) for value in sample.columns[name][:1000]}
        for name, number in zip(names, numeric, strict=True)
    ]
    if all(looks_like_data) and (any(numeric) or len(names) > 1):
        shown = ", ".join(names[:4])
        raise InputError(
            f"{source}: the first line ({shown}{', …' if len(names) > 4 else ''}) looks like a row, not like names of "
            "columns: add a line of names, or, if these are the names, tell the label by --label COLUMN"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(names: Any, most: int = 6) -> str:
    names = list(names)
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
