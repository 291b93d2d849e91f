"""What scoring fits on the corpus as a whole: its standardisation, and the statistics of scorers.

An example that comes later can be scored in the frame of those before it, and its score is then comparable to theirs.
A frame is kept as one .npz file: the arrays, and a JSON text that says where they belong. Nothing is pickled.

Caution: a frame that is kept grows old as the corpus drifts; scores in it do not see that.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from raydelt.scorers.protocol import Array

LAYOUT = "layout"


@dataclass(frozen=True)
class Frame:
    """Mean and scale [width] of the features, and the statistic of each scorer by its name."""

    mean: Array
    scale: Array
    statistics: Mapping[str, Any] = field(default_factory=dict)


def dump(frame: Frame) -> bytes:
    """The frame as the bytes of a file.

    Raises:
        TypeError: a statistic is made of something else than arrays, numbers, texts, lists, tuples and dictionaries.
    """
    arrays: list[Array] = []
    layout = json.dumps(_taken_apart([frame.mean, frame.scale, dict(frame.statistics)], arrays))
    file = io.BytesIO()
    held: dict[str, Any] = {LAYOUT: np.array(layout)} | {f"a{index}": array for index, array in enumerate(arrays)}
    np.savez(file, **held)
    return file.getvalue()


def load(data: bytes) -> Frame:
    """The frame that `dump` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as held:
        mean, scale, statistics = _put_together(json.loads(str(held[LAYOUT])), held)
    return Frame(mean, scale, statistics)


def digest(value: Any) -> str:
    """Identifies a statistic by its content."""
    arrays: list[Array] = []
    found = xxhash.xxh3_128(json.dumps(_taken_apart(value, arrays), sort_keys=True).encode())
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _taken_apart(value: Any, arrays: list[Array]) -> Any:
    """The value with its arrays replaced by their places in a list, as JSON knows it."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_taken_apart(entry, arrays) for entry in value]}
    if isinstance(value, dict):
        return {"dict": [[_taken_apart(key, arrays), _taken_apart(entry, arrays)] for key, entry in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a statistic holds a {type(value).__name__}")


def _put_together(layout: Any, held: Mapping[str, Array]) -> Any:
    if not isinstance(layout, dict):
        return layout
    [(kind, content)] = layout.items()
    if kind == "array":
        return held[f"a{content}"]
    if kind == "dict":
        return {_put_together(key, held): _put_together(entry, held) for key, entry in content}
    entries = [_put_together(entry, held) for entry in content]
    return tuple(entries) if kind == "tuple" else entries
