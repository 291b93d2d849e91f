"""Reading one item into raw tables, row by row accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raydelt.config import Corpus
from raydelt.corpus.sources import BUILT_IN, Item
from raydelt.errors import InputError


@dataclass(frozen=True)
class BadRow:
    """A row (or, with row None, a file) that could not be read."""

    row: int | None
    reason: str
    payload: bytes = b""


@dataclass(frozen=True)
class RawTable:
    """Rows as the file gives them, with their row numbers [n] (0-based in the file), and the rows that failed."""

    table: pa.Table
    rows: np.ndarray
    bad: list[BadRow] = field(default_factory=list)


def read(item: Item, corpus: Corpus) -> Iterator[RawTable]:
    """The rows of one item, a bounded number at a time."""
    if item.format == "builtin":
        yield _read_builtin(item.path)
        return
    raise InputError(f"{item.path}: format {item.format!r} cannot be read")


def _read_builtin(source: str) -> RawTable:
    """A labelled data set that scikit-learn bundles: columns `x` (list) and `label` (class name)."""
    from sklearn import datasets

    name = source.removeprefix(BUILT_IN)
    loaders = {
        "digits": datasets.load_digits,
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "breast_cancer": datasets.load_breast_cancer,
    }
    if name not in loaders:
        raise InputError(f"corpus.source {source!r}: no such bundled set; there are {', '.join(sorted(loaders))}")
    bundle = loaders[name]()
    x = np.ascontiguousarray(bundle.data, np.float32)
    labels = [str(bundle.target_names[t]) for t in bundle.target]
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
    return RawTable(pa.table({"x": column, "label": labels}), np.arange(len(x)))
