"""The optimiser steps that saw an example: the plan of every training of the selection, run backwards.

    epoch 0: place t = position                        step = t // batch
    later:   t = epoch n + start(file) + place within the file, by the inverses of the seeded permutations

Cost: O(1) for each epoch. Caution: steps are those of the plan up to the last one that was taken; `raydelt verify`
proves that the plan was followed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from raydelt.ask.run import Run
from raydelt.order.permutation import permuted, unpermuted

ROWS_PER_FILE = 65_536


def trainings(run: Run, position: int) -> list[dict[str, Any]]:
    """The steps and epochs of each training of the selection that saw this position; empty where none was trained."""
    model, ordered = run.found("model"), run.found("ordered")
    if model is None or ordered is None:
        return []
    rows = next(entry["rows"] for entry in ordered.facts["orders"] if entry["name"] == "selected")
    size, shuffled = run.raw["train"]["recipe"]["batch_size"], run.raw["order"]["later_epochs"] == "shuffled"
    found = []
    for result in model.facts["results"]:
        if result["arm"] != "selected":
            continue
        steps = int(result.get("steps", model.facts["steps"]))
        places = places_of(position, rows, steps * size, int(result["seed"]), shuffled=shuffled)
        seen = [place // size for place in places]
        epochs = [place // rows for place in places]
        found.append({"seed": result["seed"], "of_steps": steps, "steps": seen, "epochs": epochs})
    return found


def places_of(
    position: int, rows: int, total: int, seed: int, *, shuffled: bool, rows_per_file: int = ROWS_PER_FILE
) -> list[int]:
    """The places below `total` in the sequence of all epochs at which a position of an order of `rows` is fed."""
    found = []
    for epoch in range(-(-total // rows)):
        offset = position if epoch == 0 or not shuffled else _offset(position, rows, seed, epoch, rows_per_file)
        if epoch * rows + offset < total:
            found.append(epoch * rows + offset)
    return found


def _offset(position: int, rows: int, seed: int, epoch: int, rows_per_file: int) -> int:
    """Where in a shuffled epoch a position is fed; the inverse of `raydelt.train.plan.Plan`."""
    count, file = -(-rows // rows_per_file), position // rows_per_file
    turn = permuted(np.arange(count), count, seed, "files", epoch)
    sizes = np.minimum(rows_per_file, rows - turn * rows_per_file)
    place = int(np.flatnonzero(turn == file)[0])
    own = np.array([position - file * rows_per_file])
    within = unpermuted(own, int(sizes[place]), seed, "rows", epoch, file)
    return int(sizes[:place].sum()) + int(within[0])
