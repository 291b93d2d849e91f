"""Small runs in place of the large one: how many rows there are, and the spec of a trial on some of them.

A trial runs the spec's own stages on `rows` rows of its sources. What does not shrink with the corpus is cut by the
same share: optimiser steps where the spec fixes their number, steps and target examples of a trajectory, annotated
examples, and budgets that are numbers. What each stage's time follows is in `work`.

Counting costs a look at the footers of Parquet files and at the first `COUNTED_BYTES` of up to 16 text files.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import fsspec
import pyarrow as pa

from raydelt.config import Corpus, RunConfig
from raydelt.corpus.formats import rows_in
from raydelt.corpus.limit import SPREAD, evenly
from raydelt.corpus.sources import Item
from raydelt.errors import InputError, SpecError
from raydelt.specfile import validate

COUNTED_BYTES = 16 << 20
LEAST_STEPS = 20
# Every step goes over the whole target, beside which a batch is small: a step towards few would say little.
LEAST_TARGET = 256
LEAST_ANNOTATED = 20
ROWS_PER_STEP = 100


def count_rows(corpus: Corpus, sources: Sequence[Item]) -> int:
    """Rows of the corpus' own sources, exact where files tell, else from the lines of a part of their bytes.

    Raises:
        InputError: a source cannot be read, or none holds a row.
    """
    units = [unit for unit in sources if unit.split == "corpus"]
    try:
        known = [rows_in(unit) for unit in units]
        rows = sum(own for own in known if own is not None)
        rows += _lines([unit for unit, own in zip(units, known, strict=True) if own is None])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"corpus.source {corpus.source!r} cannot be counted ({error}): mend it") from error
    if rows == 0:
        raise InputError(f"corpus.source {corpus.source!r} holds no row: there is nothing to estimate")
    return rows


def _lines(units: Sequence[Item]) -> int:
    """Lines (paragraphs of text files), by the lines per byte of a few of the files."""
    if not units:
        return 0
    chosen = [units[place] for place in evenly(len(units), min(len(units), SPREAD))]
    counted = [_counted(unit) for unit in chosen]
    lines, read = sum(own for own, _ in counted), sum(own for _, own in counted)
    return round(lines * max(1.0, sum(unit.size for unit in units) / max(read, 1)))


def _counted(unit: Item) -> tuple[int, int]:
    """Lines at the beginning of a file, and how many of its bytes hold them."""
    mark = b"\n\n" if unit.format == "text" else b"\n"
    count, last = -1 if unit.format == "csv" else 0, b""
    with fsspec.open(unit.path, "rb") as raw:
        stream: Any = raw
        if unit.path.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=raw)
        elif unit.path.endswith(".zst"):
            stream = pa.input_stream(pa.PythonFile(raw), compression="zstd")
        while raw.tell() < COUNTED_BYTES:
            chunk = bytes(stream.read(1 << 20))
            if not chunk:
                return max(0, count + (not last.endswith(b"\n") and last != b"")), unit.size
            count, last = count + chunk.count(mark), chunk
        return max(0, count), min(raw.tell(), unit.size)


def trial_spec(config: RunConfig, *, rows: int, total: int, output: str) -> RunConfig:
    """The spec of a trial on `rows` of `total` rows."""
    raw, share = config.resolved(), min(1.0, rows / total)
    raw["output"] = output
    raw["corpus"]["limit"] = None if rows >= total else rows
    for recipe in (raw["rank"]["proxy"], raw["train"]["recipe"]):
        if recipe["steps"] is not None:
            recipe["steps"] = _cut(recipe["steps"], share, LEAST_STEPS)
    if raw["select"]["method"] in ("top_k", "token_budget"):
        raw["select"]["value"] = _cut(int(raw["select"]["value"]), share, 1)
    for scorer in raw["score"]:
        if scorer["kind"] == "lqs":
            scorer |= _short_trajectory(scorer, rows, share)
    try:
        return validate(raw, origin="the trial's spec")
    except SpecError as error:
        raise SpecError(f"{error}; this spec cannot be cut to a trial, so measure it by a run") from error


def _short_trajectory(scorer: dict[str, Any], rows: int, share: float) -> dict[str, Any]:
    """A trajectory of fewer and denser steps, the fewer the smaller the trial, towards fewer examples.

    Two intervals at least: less says nothing in mode lqs.
    """
    interval = scorer["interval"] if share >= 1 else min(scorer["interval"], max(1, rows // ROWS_PER_STEP))
    intervals = 2 + round(share * max(0, scorer["steps"] // scorer["interval"] - 2))
    steps = scorer["steps"] if share >= 1 else min(scorer["steps"], interval * intervals)
    changed = {"interval": interval, "steps": steps}
    if scorer["target_limit"] is not None:
        changed["target_limit"] = _cut(scorer["target_limit"], share, LEAST_TARGET)
    if isinstance(scorer["annotate"], dict):
        annotate = scorer["annotate"]
        changed["annotate"] = annotate | {"proxy": _cut(annotate["proxy"], share, LEAST_ANNOTATED)}
    return changed


def _cut(number: int, share: float, least: int) -> int:
    """A share of a number, but no less than `least` (or the number itself)."""
    return max(min(number, least), round(number * share))
