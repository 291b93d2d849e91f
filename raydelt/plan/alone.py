"""A plan from a table of measured points alone, without a run and without Ray.

Options are those of the section `plan`. Cost: see `make`.

Caution: such a plan does not know its corpus, so `select.plan` cannot refuse it for another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raydelt.config import Planning
from raydelt.errors import SpecError
from raydelt.plan import plot
from raydelt.plan.make import Ground, Made, make
from raydelt.plan.points import columns_of


def plan_table(
    path: str,
    options: Mapping[str, Any],
    *,
    sizes: Sequence[float] | None = None,
    seed: int = 0,
    chart: str | None = None,
) -> Made:
    """The plan of the points in a file, for buckets of `sizes` [p] (as measured by default).

    Raises:
        InputError: the file is not such a table, or no law fits its points.
        SpecError: an option, budget, price or size makes no sense.
    """
    try:
        spec = Planning(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise SpecError(f"--{name.split('.')[0].removesuffix('s')} {first['input']}: {first['msg']}") from error
    ground = Ground(sizes=tuple(sizes) if sizes else None)
    made = make(columns_of(path), spec, ground=ground, seed=seed, source=path)
    if chart is not None:
        canvas = plot.figure(made.fitted, made.drawn, spec.budgets, price=made.price, sizes=ground.sizes)
        _save(canvas, chart)
    return made


def _save(canvas: Any, chart: str) -> None:
    try:
        plot.save(canvas, Path(chart))
    except OSError as error:
        raise SpecError(f"--chart {chart!r} cannot be written ({error}): choose another place") from error
