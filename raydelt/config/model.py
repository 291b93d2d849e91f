"""The sections `model` and `encoder`, and the recipe of a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydelt.config.section import Fraction, Positive, Section


class Encoder(Section):
    """A sentence encoder whose embeddings stand for documents where scorers compare them."""

    path: str
    max_length: Positive | None = None
    batch_size: Positive = 32


class Recipe(Section):
    """How a model is trained: optimiser, batch size, and either epochs or steps.

    The learning rate rises over the first `warm_up` share of the steps, then stays or falls to zero as `schedule` has
    it. `clip` is the largest norm that a step's gradient may have.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Positive = 32
    epochs: Positive | None = None
    steps: Positive | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warm_up: Fraction = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None

    @field_validator("epochs", "steps", mode="before")
    @classmethod
    def _some_training(cls, value: Any) -> Any:
        if value == 0:
            raise ValueError("0 leaves the model untrained, and scores at initialisation do not reproduce: at least 1")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either `epochs` or `steps`, not both")
        return self

    def total_steps(self, examples: int, *, default_epochs: int = 30) -> int:
        """Optimiser steps for a training set of this many examples."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or default_epochs) * -(-examples // self.batch_size)


class ModelSpec(Section):
    """The model that is trained and that scores: a network by name, the user's own, or a causal language model.

    A factory (`kind: torch`) is called as `factory(input_shape, num_classes)` and returns a `torch.nn.Module` from
    features [B, *input_shape] to logits [B, num_classes]. If the module has a method `fit(x, y)`, that trains it.
    `checkpoint` (a classifier's) and `path` (a language model's folder, URL or hub name) may list several, which then
    all score every example.
    """

    kind: Literal["classifier", "torch", "causal_lm"] = "classifier"
    network: Literal["logistic", "mlp", "cnn"] = "mlp"
    hidden: list[Positive] = [64]
    factory: str | None = None
    checkpoint: str | list[str] | None = None
    path: str | list[str] | None = None
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    context: Annotated[int, Field(ge=2)] = 512
    long_documents: Literal["truncate", "split", "quarantine"] = "truncate"
    batching: Literal["padded", "packed"] = "padded"
    answer_after: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _path_goes_with_causal_lm(self) -> ModelSpec:
        if (self.kind == "causal_lm") != bool(self.path):
            raise ValueError("`kind: causal_lm` and `path: folder, URL or hub name` go together")
        if self.kind == "causal_lm" and self.checkpoint is not None:
            raise ValueError("checkpoint is for classifiers: a causal_lm has its weights in `path`")
        return self

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints of a classifier; empty where the spec gives none."""
        return [self.checkpoint] if isinstance(self.checkpoint, str) else list(self.checkpoint or [])

    @property
    def paths(self) -> list[str]:
        """The folders of a language model."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])

    @model_validator(mode="after")
    def _factory_goes_with_torch(self) -> ModelSpec:
        if (self.kind == "torch") != (self.factory is not None):
            raise ValueError("`kind: torch` and `factory: module:function` go together")
        if self.factory is not None and self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} must read `module:function`")
        return self
