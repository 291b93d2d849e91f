"""The section `rescore`: how a run is scored again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raydelt.config.section import Section


class Rescore(Section):
    """Scoring again: what was fitted on the corpus as a whole stays (`keep`), or is fitted anew (`refit`).

    What is fitted are proxies, standardisation and statistics of scorers. With `keep` only new and changed examples
    are scored; with `refit` all whose scorers look at any of it. `versions` is how many of them stay readable, two at
    the least, so that no reader is broken off when the next is published; `lease_seconds` after its last sign of life
    a job counts as dead, and another may take over.
    """

    fitted: Literal["keep", "refit"] = "keep"
    versions: Annotated[int, Field(ge=2)] = 3
    lease_seconds: Annotated[float, Field(gt=1)] = 60.0
