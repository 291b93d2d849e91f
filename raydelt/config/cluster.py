"""The section `cluster`: which Ray to use, and what scoring actors may take of it."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field, model_validator

from raydelt.config.section import Positive, Section


class Actors(Section):
    """The pool of scoring actors; `batch_bytes` is what the activations of one batch may take in each."""

    min: Positive = 1
    max: Positive | None = None
    num_cpus: Annotated[float, Field(gt=0)] = 0.5
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    batch_bytes: Positive = 512 << 20

    @model_validator(mode="after")
    def _min_below_max(self) -> Actors:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class Most(Section):
    """What an autoscaler may grow the cluster to; Ray tells what is there, and not what may come."""

    cpus: Positive
    gpus: Annotated[int, Field(ge=0)] = 0


class Cluster(Section):
    """Which Ray to use: `auto` joins the one that RAY_ADDRESS names, else starts one inside this process.

    A cluster that grows by itself names its `most`; what asks for more than the cluster has is refused otherwise.
    """

    address: str = "auto"
    num_cpus: Positive | None = None
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    object_store_bytes: Positive | None = None
    most: Most | None = None
    actors: Actors = Actors()

    @property
    def joined(self) -> str | None:
        """The address of the Ray that is joined; None where one starts inside the process."""
        address = os.environ.get("RAY_ADDRESS", "local") if self.address == "auto" else self.address
        return None if address == "local" else address
