"""From raw columns to numbers, each row with a reason where it has none.

Columns come as Arrow arrays (Parquet, CSV as strings) or Python lists (JSONL). Whole columns are converted at once;
only what Arrow cannot convert is looked at row by row. Values end as float32.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt.corpus.formats import Column
from raydelt.scorers.protocol import Array

Kind = Literal["numbers", "list", "image", "text"]
Reasons = list[str | None]


@dataclass(frozen=True)
class Layout:
    """What an example is made of: the kind and columns of its content, the shape of its features, flattened width."""

    kind: Kind
    columns: tuple[str, ...]
    input_shape: tuple[int, ...]
    label_column: str | None = None

    @property
    def width(self) -> int:
        return prod(self.input_shape)


def features(columns: Mapping[str, Column], layout: Layout, count: int) -> tuple[Array, Reasons]:
    """Features float32 [n, width], and for each row why it has none (or None)."""
    if layout.kind == "numbers":
        x, reasons = _numbers(columns, layout.columns, count)
    else:
        column = columns[layout.columns[0]]
        convert = {"list": _lists, "image": _image_rows, "text": _texts}[layout.kind]
        x, reasons = convert(column, layout)
    finite = np.isfinite(x).all(axis=1)
    for row in np.flatnonzero(~finite):
        if reasons[row] is None:
            place = int(np.flatnonzero(~np.isfinite(x[row]))[0])
            name = layout.columns[place] if layout.kind == "numbers" else f"{layout.columns[0]}[{place}]"
            reasons[row] = f"feature {name!r} is {x[row, place]}: not a finite number"
    return x + np.float32(0), reasons


def _numbers(columns: Mapping[str, Column], names: Sequence[str], count: int) -> tuple[Array, Reasons]:
    x = np.empty((count, len(names)), np.float32)
    reasons: Reasons = [None] * count
    for place, name in enumerate(names):
        values, bad = as_floats(columns[name])
        x[:, place] = values
        for row in bad:
            if reasons[row] is None:
                reasons[row] = f"feature {name!r} is {_shown(value_at(columns[name], row))}: not a number"
            x[row, place] = 0
    return x, reasons


def as_floats(column: Column) -> tuple[Array, list[int]]:
    """A column as float64 [n], and the rows that are missing or no numbers (their value is 0)."""
    if isinstance(column, pa.Array):
        try:
            cast = pc.cast(column, pa.float64())
            return cast.fill_null(0.0).to_numpy(zero_copy_only=False), np.flatnonzero(_nulls(cast)).tolist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            column = column.to_pylist()
    values, bad = np.zeros(len(column)), []
    for row, value in enumerate(column):
        try:
            values[row] = float(value)
        except (TypeError, ValueError, OverflowError):
            bad.append(row)
    return values, bad


def _nulls(column: pa.Array) -> Array:
    mask: Array = column.is_null().to_numpy(zero_copy_only=False)
    return mask


def value_at(column: Column, row: int) -> Any:
    """One value of a column as a Python object."""
    value = column[row]
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _lists(column: Column, layout: Layout) -> tuple[Array, Reasons]:
    """Flat or nested lists of numbers, all of one shape."""
    fast = _fixed_lists(column, layout)
    if fast is not None:
        return fast, [None] * len(fast)
    x = np.zeros((len(column), layout.width), np.float32)
    reasons: Reasons = [None] * len(column)
    for row in range(len(column)):
        try:
            value = np.asarray(value_at(column, row), np.float32)
        except (TypeError, ValueError):
            reasons[row] = f"feature {layout.columns[0]!r} is no regular list of numbers"
            continue
        if value.shape != layout.input_shape:
            reasons[row] = (
                f"feature {layout.columns[0]!r} has shape {list(value.shape)}, not {list(layout.input_shape)}"
            )
            continue
        x[row] = value.reshape(-1)
    return x, reasons


def _fixed_lists(column: Column, layout: Layout) -> Array | None:
    """The column as a matrix without looking at single rows, where every row is a full list of the right shape."""
    if not isinstance(column, pa.Array) or column.null_count:
        return None
    flat, shape = column, layout.input_shape
    for size in shape:
        if not pa.types.is_nested(flat.type) or pa.types.is_struct(flat.type) or flat.null_count:
            return None
        if not pc.all(pc.equal(pc.list_value_length(flat), size)).as_py() and len(flat):
            return None
        flat = flat.flatten()
    if flat.null_count or not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        return None
    values: Array = pc.cast(flat, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return values.reshape(len(column), layout.width)


def _image_rows(column: Column, layout: Layout) -> tuple[Array, Reasons]:
    """Encoded images, decoded to the layout's [C, H, W] with values in [0, 1]."""
    x = np.zeros((len(column), layout.width), np.float32)
    reasons: Reasons = [None] * len(column)
    for row in range(len(column)):
        try:
            image = decoded(value_at(column, row), layout.input_shape)
        except Exception as error:
            reasons[row] = f"image cannot be decoded: {' '.join(str(error).split())[:120]}"
            continue
        x[row] = image.reshape(-1)
    return x, reasons


def decoded(value: Any, shape: Sequence[int] | None) -> Array:
    """An encoded image (bytes, or a mapping with `bytes`) as float32 [C, H, W] in [0, 1]; resized to a given shape."""
    from PIL import Image

    data = value["bytes"] if isinstance(value, dict) else value
    with Image.open(io.BytesIO(data)) as image:
        channels = shape[0] if shape else (1 if image.mode in ("1", "L", "I", "I;16", "F") else 3)
        pixels = image.convert("L" if channels == 1 else "RGB")
        if shape and pixels.size != (shape[2], shape[1]):
            pixels = pixels.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
        array = np.asarray(pixels, np.float32) / 255
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _texts(column: Column, layout: Layout) -> tuple[Array, Reasons]:
    """Hashed bags of words, unit length, in as many buckets as the layout is wide."""
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = column.to_pylist() if isinstance(column, pa.Array) else list(column)
    reasons: Reasons = [_text_fault(text, layout.columns[0]) for text in texts]
    usable = [text if reason is None else "" for text, reason in zip(texts, reasons, strict=True)]
    hashed = HashingVectorizer(n_features=layout.width, dtype=np.float32).transform(usable)
    return hashed.toarray(), reasons


def _text_fault(text: Any, name: str) -> str | None:
    if not isinstance(text, str):
        return f"text {name!r} is {_shown(text)}: not a string"
    return None if text.strip() else f"text {name!r} is empty"
