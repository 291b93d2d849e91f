"""The section `train`: the final training and its baselines."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from raydelt.config.model import Recipe
from raydelt.config.section import Fraction, Positive, Section


class Lora(Section):
    """Low-rank adapters of a language model learn in place of its weights; `merge` writes the sum as a plain model."""

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"
    merge: bool = True


class EarlyStop(Section):
    """Stop after so many evaluations in a row that improve the loss by less than `least`."""

    patience: Positive = 3
    least: Annotated[float, Field(ge=0)] = 0.0


class Track(Section):
    """Where metrics go besides the console: TensorBoard files in the run directory, an MLflow server or database."""

    tensorboard: bool = False
    mlflow: str | None = None


class Train(Section):
    """Final training with Ray Train: the selection and its baselines, at equal optimiser steps, over several seeds.

    The global batch is `recipe.batch_size` examples whatever the number of `workers`, which may be a range
    `[least, most]` that follows the cluster: every `resize_every` seconds it is looked at for more. `micro_batch` is
    the most that a worker takes in one pass.
    """

    workers: Positive | tuple[Positive, Positive] = 1
    resize_every: Annotated[float, Field(gt=0)] = 60.0
    parallel: Literal["ddp", "fsdp"] = "ddp"
    precision: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    micro_batch: Positive | None = None
    recipe: Recipe = Recipe()
    lora: Lora | None = None
    baselines: list[Literal["random", "full"]] = ["random", "full"]
    seeds: list[int] = [0, 1, 2, 3, 4]
    evaluate_every: Positive | None = None
    early_stop: EarlyStop | None = None
    keep_best: Positive | None = None
    checkpoint_every: Positive = 200
    max_failures: Annotated[int, Field(ge=0)] = 3
    track: Track = Track()

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if not value or len(set(value)) != len(value):
            raise ValueError("needs at least one seed, each once")
        return value

    def lasting(self) -> dict[str, Any]:
        """What the result depends on: not on how many workers it was computed, nor who watched."""
        return self.model_dump(mode="json", exclude={"workers", "resize_every", "max_failures", "track"})

    @property
    def fewest(self) -> int:
        """The least number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """The greatest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _workers_fit(self) -> Train:
        if self.fewest > self.most:
            raise ValueError(f"workers {list(cast(tuple[int, int], self.workers))} must be [least, most]")
        if self.most > self.recipe.batch_size:
            raise ValueError(
                f"workers {self.most} is more than recipe.batch_size {self.recipe.batch_size}: "
                "every worker needs at least one row of a batch"
            )
        for name in ("early_stop", "keep_best"):
            if getattr(self, name) is not None and self.evaluate_every is None:
                raise ValueError(f"{name} looks at evaluations: set evaluate_every")
        return self
