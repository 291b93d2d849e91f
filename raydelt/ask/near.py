"""The nearest neighbours of one example.

    cosine(i, j) = x_i . x_j / (||x_i|| ||x_j||)          x the embedding, else the features

All examples are compared where they are up to `COMPARED` and their vectors up to `BYTES`; in larger runs there is only
the neighbour that the stage `neighbours` found, where the run has it. Cost: one pass over the vectors; memory: one
part's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raydelt.ask import files
from raydelt.ask.lookup import CORPUS, Place
from raydelt.ask.run import Run
from raydelt.examples import EMBEDDING, EXAMPLE_ID, FEATURES, matrix_of
from raydelt.storage import Manifest, Part

COMPARED = 200_000
BYTES = 1 << 30
NEAREST = 5


def neighbours(run: Run, place: Place, *, nearest: int = NEAREST) -> dict[str, Any]:
    """`near`: id, cosine and label of the nearest examples of the corpus; `skipped` says why there are none.

    `earlier` is the nearest example before it in the keep order, where the stage `neighbours` stands.
    """
    told: dict[str, Any] = {"by": None, "near": [], "skipped": None, "earlier": _earlier(run, place)}
    corpus, vectors = run.manifest(CORPUS), run.found("embeddings")
    own = vectors if vectors is not None else corpus
    column = EMBEDDING if vectors is not None else FEATURES
    width = int(own.facts.get("width", 0))
    parts = dict(_splits(own)).get(place.split, [])
    if not width or len(parts) <= place.part:
        return told | {"skipped": "the run has no vectors of it"}
    if corpus.rows > COMPARED or corpus.rows * width * 4 > BYTES:
        return told | {"skipped": f"{corpus.rows} examples of width {width} are too many to compare at once"}
    x = matrix_of(files.read(run.store, parts[place.part], [column]).slice(place.row, 1), column)[0]
    if not np.isfinite(x).all() or not x.any():
        return told | {"skipped": "its vector has no direction"}
    found = _nearest(run, own, column, x.astype(np.float64), place.example_id, nearest)
    return told | {"by": "embeddings" if vectors is not None else "features", "near": _labelled(run, found)}


def _nearest(
    run: Run, own: Manifest, column: str, x: Any, example: str, nearest: int
) -> list[tuple[float, str, int, int]]:
    """Cosine, id, part and row of the nearest, nearest first; ties by id."""
    best: list[tuple[float, str, int, int]] = []
    for index, part in enumerate(own.parts):
        table = files.read(run.store, part, [EXAMPLE_ID, column])
        y = matrix_of(table, column).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = y @ x / (np.linalg.norm(y, axis=1) * np.linalg.norm(x))
        cosine = np.where(np.isfinite(cosine), cosine, -2.0)
        ids = table[EXAMPLE_ID]
        for row in np.argsort(-cosine, kind="stable")[: nearest + 1]:
            name = ids[int(row)].as_py()
            if name != example and cosine[row] > -2.0:
                best.append((float(cosine[row]), name, index, int(row)))
        best = sorted(best, key=lambda one: (-one[0], one[1]))[:nearest]
    return best


def _labelled(run: Run, found: list[tuple[float, str, int, int]]) -> list[dict[str, Any]]:
    corpus, told = run.manifest(CORPUS), []
    for cosine, name, part, row in found:
        label = files.read(run.store, corpus.parts[part], ["label"])["label"][row].as_py()
        known = label is not None and label < len(run.classes)
        told.append({"id": name, "cosine": cosine, "label": run.classes[label] if known else None})
    return told


def _earlier(run: Run, place: Place) -> dict[str, Any] | None:
    stage = run.found("neighbours")
    if stage is None or place.split != CORPUS or len(stage.parts) <= place.part:
        return None
    table = files.read(run.store, stage.parts[place.part], ["neighbour", "earlier_cosine", "knn_cosine"])
    entry = table.slice(place.row, 1).to_pylist()[0]
    return {"id": entry["neighbour"], "cosine": entry["earlier_cosine"], "knn_cosine": entry["knn_cosine"]}


def _splits(manifest: Manifest) -> list[tuple[str, list[Part]]]:
    return [(CORPUS, manifest.parts), *manifest.sides.items()]
