"""Scorers and models of a third party, as tests name them in a spec by `module:Class` and `module:function`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from raydelt.examples import DRAW_KEY, column_of
from raydelt.scorers.protocol import Array, Need, Reducer, ScoringContext
from raydelt.scorers.registry import ScorerConfig


@dataclass
class HashScorer:
    """A score that is a pure function of the id; subclasses misbehave in one way each."""

    config: Any
    name: str = "hash"
    version: str = "1"
    columns: tuple[str, ...] = ("hash",)
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset()

    def fit(self, reduce: Callable[[Reducer[Any, Any]], Any], context: ScoringContext) -> None:
        return None

    def setup(self, context: ScoringContext) -> None:
        return None

    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return {"hash": column_of(batch, DRAW_KEY) / 2.0**64}


class HashConfig(ScorerConfig):
    """Scores without any model."""

    kind: str = "tests.plugins:HashConfig"

    def build(self) -> HashScorer:
        return HashScorer(self)


class SlowConfig(ScorerConfig):
    """Takes `seconds` per batch, and leaves the number of its process in `folder`."""

    kind: str = "tests.plugins:SlowConfig"
    folder: str
    seconds: float = 0.2

    def build(self) -> SlowScorer:
        return SlowScorer(self)


class SlowScorer(HashScorer):
    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        (Path(self.config.folder) / f"{time.time_ns()}.pid").write_text(str(os.getpid()))
        time.sleep(self.config.seconds)
        return super().score(batch)


class NanConfig(ScorerConfig):
    """NaN for the share of examples whose hash lies below `share`."""

    kind: str = "tests.plugins:NanConfig"
    share: float = 0.02

    def build(self) -> NanScorer:
        return NanScorer(self)


class NanScorer(HashScorer):
    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        values = super().score(batch)["hash"]
        return {"hash": np.where(values < self.config.share, np.nan, values)}


class BrokenConfig(ScorerConfig):
    """Raises an error of its own."""

    kind: str = "tests.plugins:BrokenConfig"

    def build(self) -> BrokenScorer:
        return BrokenScorer(self)


class BrokenScorer(HashScorer):
    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        raise ZeroDivisionError("the third party's own fault")


class PlaceConfig(ScorerConfig):
    """Writes down the process and the GPUs that Ray gave it, and waits for as many as there should be."""

    kind: str = "tests.plugins:PlaceConfig"
    folder: str
    actors: int = 1

    def build(self) -> PlaceScorer:
        return PlaceScorer(self)


class PlaceScorer(HashScorer):
    def setup(self, context: ScoringContext) -> None:
        import ray

        gpus = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
        folder, patience = Path(self.config.folder), time.monotonic() + 120
        (folder / f"{os.getpid()}.place").write_text(f"{os.getpid()} {gpus}\n")
        while len(list(folder.glob("*.place"))) < self.config.actors and time.monotonic() < patience:
            time.sleep(0.05)


class BuildsConfig(ScorerConfig):
    """How often this process has built the model of `counted_logistic`."""

    kind: str = "tests.plugins:BuildsConfig"

    def build(self) -> BuildsScorer:
        return BuildsScorer(self, columns=("builds",))


class BuildsScorer(HashScorer):
    def score(self, batch: pa.RecordBatch) -> dict[str, Array]:
        return {"builds": np.full(batch.num_rows, float(BUILDS))}


BUILDS = 0


def counted_logistic(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A linear network that counts how often this process builds one."""
    global BUILDS
    BUILDS += 1
    return nn.Linear(input_shape[0], num_classes)


def batch_coupled(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A network that normalises by its batch, even when it does not train."""
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Linear(input_shape[0], 8), norm, nn.ReLU(), nn.Linear(8, num_classes))


class Memoriser(nn.Module):
    """Knows the label of every example it was fitted on, and denies the label of any other.

    A seen example gets its label with probability near 1. An unseen one gets every class but... none: its logits are
    spread over a class that no example has, so the probability of its own label is near 0.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.head = nn.Linear(1, classes)
        self.register_buffer("seen", torch.empty(0, 0))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    def fit(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.seen, self.labels = x.reshape(len(x), -1).clone(), y.clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(len(x), -1)
        logits = torch.zeros(len(x), self.classes)
        logits[:, -1] = 200.0
        match = (flat[:, None, :] == self.seen[None, :, :]).all(dim=2)
        known = match.any(dim=1)
        logits[known] = 0.0
        logits[known, self.labels[match[known].int().argmax(dim=1)]] = 200.0
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("seen", "labels"):
            setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def memoriser(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Factory of a memoriser; the spec must list one class more than the examples have."""
    return Memoriser(num_classes)
