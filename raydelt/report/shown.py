"""The examples that the page names, with what a person needs to judge them: label, text or picture, components.

One task for each corpus part that holds a wanted example reads that part alone; the driver gets what is shown.
Pictures are grey or colour PNGs of at most `SIDE` pixels a side, from the example's least to its greatest value. Texts
are cut to `TEXT` characters, and their length is told. Memory of a task: one part of the corpus.

Caution: stretching hides how bright a picture is beside another one.
"""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydelt import cluster
from raydelt.examples import EXAMPLE_ID, FEATURES, LABEL, LABEL_CLEAN, ROW, SOURCE_FILE, column_of, matrix_of
from raydelt.rank.keys import one_array
from raydelt.report.parts import ScoredParts
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Part, Store

TEXT = 400
SIDE = 56
NAME = 200
FIRST = 6
BROKEN = ("Cc", "Cs")


@dataclass(frozen=True)
class Look:
    """What is looked at: names of the classes and components, how features are shaped, whether flips are known."""

    classes: tuple[str, ...]
    components: tuple[str, ...]
    shape: tuple[int, ...]
    text: bool
    truth: bool

    @staticmethod
    def at(corpus: Manifest, components: Sequence[str]) -> Look:
        facts = corpus.facts
        shape = tuple(facts.get("input_shape") or ())
        return Look(tuple(facts["classes"]), tuple(components), shape, bool(facts.get("text")), bool(facts["flipped"]))

    @property
    def pictures(self) -> bool:
        """Whether features are the pixels of a grey or a colour picture, channels first."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3) and min(self.shape[1:]) >= 4 and not self.text


def shown(
    parts: ScoredParts, wanted: Mapping[str, int], look: Look, selection: Sequence[Part]
) -> dict[str, dict[str, Any]]:
    """What is known of the examples `wanted`, id to number of its part, by id; those that are not there are left out.

    An entry: label, label_clean, source_file, row, kept, components, and text with text_characters, picture or x.
    """
    by_part: dict[int, list[str]] = {}
    for example, part in sorted(wanted.items()):
        by_part.setdefault(part, []).append(example)
    calls = [(parts, part, ids, look) for part, ids in sorted(by_part.items()) if 0 <= part < len(parts)]
    found = [entry for own in cluster.parallel(shown_of, calls, label="report: shown") for entry in own]
    places = np.array(sorted((entry["part"] << 32) | entry["part_row"] for entry in found), np.int64)
    kept = cluster.parallel(kept_of, [(parts.run, own.file, places) for own in selection], label="report: shown, kept")
    held = set(places[np.any([np.zeros(len(places), bool), *kept], axis=0)].tolist())
    told = {}
    for entry in found:
        place = (entry.pop("part") << 32) | entry.pop("part_row")
        told[entry.pop("id")] = entry | {"kept": place in held}
    return told


def shown_of(parts: ScoredParts, index: int, ids: Sequence[str], look: Look) -> list[dict[str, Any]]:
    """What one part of the corpus says of some of its examples."""
    columns = [EXAMPLE_ID, LABEL, LABEL_CLEAN, SOURCE_FILE, ROW]
    columns += ["text"] if look.text else [FEATURES] if look.shape else []
    table = parts.run.read_table(parts.corpus[index], columns)
    at = pc.index_in(pa.array(ids, pa.string()), value_set=one_array(table[EXAMPLE_ID])).drop_null()
    rows = table.take(at)
    scores = parts.scores_of(index, [EXAMPLE_ID, *look.components])
    scored = scores.take(pc.index_in(one_array(rows[EXAMPLE_ID]), value_set=one_array(scores[EXAMPLE_ID])))
    x = matrix_of(rows, FEATURES) if FEATURES in rows.column_names else None
    told = []
    own = rows.drop_columns([FEATURES]) if x is not None else rows
    for place, (row, values) in enumerate(zip(own.to_pylist(), scored.to_pylist(), strict=True)):
        entry = {"id": row[EXAMPLE_ID], "part": index, "part_row": at[place].as_py(), **_labels(row, look)}
        entry |= {SOURCE_FILE: clean(row[SOURCE_FILE], NAME), ROW: row[ROW]}
        entry["components"] = {name: _plain(values[name]) for name in look.components}
        told.append(entry | _content(row.get("text"), None if x is None else x[place], look))
    return told


def kept_of(run: Store, selection: str, places: Array) -> Array:
    """Which places [n], (part << 32 | row) of the corpus in ascending order, one file of the selection keeps."""
    table = run.read_table(selection, ["part", "part_row"])
    own = (column_of(table, "part").astype(np.int64) << 32) | column_of(table, "part_row").astype(np.int64)
    found = np.zeros(len(places), np.bool_)
    if len(places):
        at = np.minimum(np.searchsorted(places, own), len(places) - 1)
        found[at[places[at] == own]] = True
    return found


def picture(x: Array, shape: Sequence[int]) -> str:
    """Features [c h w] as a `data:` URI of a small PNG."""
    from PIL import Image

    pixels = np.nan_to_num(np.asarray(x, np.float64).reshape(shape), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = np.full(pixels.shape, 128.0) if high <= low else 255 * (pixels - low) / (high - low)
    grey = scaled.astype(np.uint8)
    image = Image.fromarray(grey[0] if shape[0] == 1 else np.moveaxis(grey, 0, 2))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def clean(text: str | None, length: int) -> str | None:
    """A text cut to `length` characters; control characters and lone surrogates, which no page can hold, replaced."""
    if text is None:
        return None
    return "".join("\ufffd" if c not in "\n\t" and unicodedata.category(c) in BROKEN else c for c in text[:length])


def _labels(row: Mapping[str, Any], look: Look) -> dict[str, str | None]:
    names = {
        name: look.classes[row[name]] if row[name] is not None and row[name] < len(look.classes) else None
        for name in (LABEL, LABEL_CLEAN)
    }
    return names if look.truth else {LABEL: names[LABEL]}


def _content(text: str | None, x: Array | None, look: Look) -> dict[str, Any]:
    """The example itself: `text` and its length, a `picture`, or the first features `x`."""
    if text is not None:
        return {"text": clean(text, TEXT), "text_characters": len(text)}
    if x is None:
        return {}
    if look.pictures:
        return {"picture": picture(x, look.shape)}
    return {"x": [_plain(value) for value in x[:FIRST].tolist()], "width": len(x)}


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
