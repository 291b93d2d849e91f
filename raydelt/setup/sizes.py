"""Trainings that a laptop finishes in minutes, for a corpus of so many rows.

    proxies:  folds * rounds * epochs * rows * (folds - 1) / folds / batch ~ PROXY_STEPS
    final:    PASSES passes over the kept half, for each of (selection, random, full) and each seed

Sizes depend on the number of rows alone, never on the machine, so the same data give the same spec everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

PROXY_STEPS, PASSES = 9000, 12
EPOCHS, STEPS = (3, 30), (200, 2000)
SMALL, MIDDLING, LARGE = 5_000, 20_000, 200_000
KEPT = 0.5


@dataclass(frozen=True)
class Sizes:
    """Numbers of a spec: cross-fitting, batch, epochs of a proxy, steps of a final training."""

    folds: int
    rounds: int
    batch: int
    epochs: int
    steps: int
    seeds: int


def sizes(rows: int, *, held_out: float) -> Sizes:
    """Sizes for a corpus of about so many rows, of which a share is held out for the test."""
    trained = max(1, round(rows * (1 - held_out)))
    folds, rounds = (5, 3) if rows <= SMALL else (3, 2)
    batch = 32 if rows <= SMALL else 64 if rows <= MIDDLING else 256
    per_epoch = folds * rounds * trained * (folds - 1) / folds / batch
    epochs = _within(round(PROXY_STEPS / per_epoch), EPOCHS)
    steps = _within(round(PASSES * KEPT * trained / batch), STEPS)
    return Sizes(folds, rounds, batch, epochs, steps, seeds=5 if rows <= MIDDLING else 3)


def _within(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(bounds[1], value))
