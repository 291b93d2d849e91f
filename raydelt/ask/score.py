"""Scoring a `ray.data.Dataset` of somebody else's pipeline: `raydelt.score`.

The rows are written to `OUTPUT-input` as Parquet, because every row is read more than once, and scored there as
`raydelt score` does. Cost: that of the spec's scorers, and one pass to write. Memory: as the stages state it.

Caution: Ray names the files that it writes anew each time, so a second call reads the corpus again; what stands of the
scores is kept where the content is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raydelt.ask.run import SPEC, Run
from raydelt.errors import InputError
from raydelt.storage import Store, absolute

if TYPE_CHECKING:
    import ray.data


def score(dataset: ray.data.Dataset, spec: Mapping[str, Any], *, output: str, until: str = "scores") -> Run:
    """The run in which the rows of a data set are scored; `run.scores(as_="ray")` is a data set again, by example_id.

    `spec` is that of a run without `output` and `corpus.source`; `corpus` names the columns. With `until`
    selection, the rows are ranked and selected too.

    Raises:
        SpecError: the spec is wrong.
        InputError: the rows or the place are.
    """
    from raydelt import pipeline
    from raydelt.specfile import validate

    if until not in ("scores", "ranking", "selection", "ordered"):
        raise InputError(f"until {until!r} is no stage to go to: give scores, ranking, selection or ordered")
    place = Store(absolute(f"{output.rstrip('/')}-input"))
    raw = {"name": "scored", **spec, "output": output}
    raw["corpus"] = {**raw.get("corpus", {}), "source": place.root}
    config = validate(raw)
    if place.names() and not _ours(output, place):
        raise InputError(f"{place.root!r}, where the rows would go, is not empty: choose another output, or empty it")
    place.delete("")
    dataset.write_parquet(place.path(), filesystem=None if place.is_local else place.fs)
    pipeline.execute(config, until=until)
    return Run.open(output)


def _ours(output: str, place: Store) -> bool:
    """Whether the rows there are those of an earlier call."""
    run = Store(absolute(output))
    return run.exists(SPEC) and bool(run.read_json(SPEC)["corpus"]["source"] == place.root)
