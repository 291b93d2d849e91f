"""Where trajectories start, and models put at their visited steps again.

The spec's own models serve in turn; without any, classifiers start fresh, seeded by (seed, "lqs", s).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch

from raydelt.config import ModelSpec, RunConfig
from raydelt.errors import InputError
from raydelt.examples import derived_seed
from raydelt.lqs.annotate import Pair, Visits, Walked
from raydelt.lqs.terms import visited
from raydelt.models import classifier
from raydelt.models.device import assigned_device
from raydelt.models.protocol import GradientModel
from raydelt.scorers.lqs import LqsConfig
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store


@dataclass(frozen=True)
class Starts:
    """Builds theta_0 of every trajectory, and models that can be put at its visited steps."""

    model_spec: ModelSpec
    input_shape: tuple[int, ...]
    num_classes: int
    mean: Array
    scale: Array
    seed: int

    @property
    def models(self) -> int:
        """How many models the spec names."""
        return max(1, len(self.model_spec.checkpoints or self.model_spec.paths))

    def model(self, s: int, device: str) -> GradientModel:
        """The model at the start of trajectory s, in float32: steps of SGD vanish in less."""
        spec = self.model_spec
        if spec.kind == "causal_lm":
            from raydelt.models import causal_lm

            single = spec.model_copy(update={"dtype": "float32"})
            return causal_lm.load(single, spec.paths[s % self.models], device=device)
        seed = derived_seed(self.seed, "lqs", s)
        fresh = classifier.build(spec, self.input_shape, self.num_classes, seed=seed)
        if not spec.checkpoints:
            fresh.set_standardisation(np.asarray(self.mean), np.asarray(self.scale))
            return fresh.to(device)
        origin = spec.checkpoints[s % self.models]
        return classifier.restore(fresh, classifier.read_checkpoint(origin), origin=origin).to(device)

    def walked(
        self, s: int, device: str, read: Callable[[int], bytes], spec: LqsConfig, *, together: int = 1
    ) -> Walked:
        """Trajectory s, to annotate along; `read(i)` gives the file of its i-th visited step.

        So many trajectories share the sqrt(T) steps that an actor holds.
        """

        def load(i: int) -> Pair:
            tensors = safetensors.torch.load(read(i))
            at, adjoint = (
                {n[len(kind) :]: x.to(device) for n, x in tensors.items() if n.startswith(kind)}
                for kind in ("theta.", "lambda.")
            )
            return at, adjoint or None

        return Walked(self.model(s, device), load, hold=math.isqrt(spec.steps) // together, parameters=spec.parameters)


def starts_of(model: ModelSpec, facts: dict[str, Any], mean: Array, scale: Array, *, seed: int) -> Starts:
    """The starts of a run, by its spec and the facts of its corpus."""
    return Starts(model, tuple(facts["input_shape"]), len(facts["classes"]), mean, scale, seed)


def model_of(config: RunConfig) -> ModelSpec:
    """The spec's model, with the starts of the trajectories in place of its own weights."""
    starts = spec_of(config).starts
    if starts is None:
        return config.model
    return config.model.model_copy(update={"path" if config.model.kind == "causal_lm" else "checkpoint": starts})


def check_tokenizers(config: RunConfig) -> None:
    """Refuse starts that read other tokens than the spec's own model.

    Raises:
        InputError: a start has another tokenizer.
    """
    if config.model.kind != "causal_lm":
        return
    from raydelt.models.causal_lm import reads_same_tokens

    own = config.model.paths[0]
    for path in spec_of(config).starts or []:
        if not reads_same_tokens(path, own):
            raise InputError(
                f"score.lqs.starts {path!r} and model.path {own!r} have different tokenizers: start at checkpoints of "
                "the same model"
            )


def spec_of(config: RunConfig) -> LqsConfig:
    """The run's trajectory scorer; column names leave room for one only."""
    [found] = [spec for spec in config.score if isinstance(spec, LqsConfig)]
    return found


def visits_of(
    trajectories: Sequence[Walked], spec: LqsConfig, budget: int, scales: Sequence[Mapping[str, float]] | None = None
) -> Visits:
    """The annotation of a spec along these trajectories, with what divides the scores of each."""
    return Visits(
        trajectories,
        visited(spec.mode, spec.steps, spec.interval),
        mode=spec.mode,
        steps=spec.steps,
        lr=spec.lr,
        budget=budget,
        scales=scales,
    )


def load_visits(config: RunConfig, corpus: Manifest, walked: Manifest, run: Store) -> Visits:
    """The annotation along the published trajectories, in an actor."""
    spec, actors = spec_of(config), config.cluster.actors
    device = assigned_device(actors.num_gpus)
    mean, scale = (np.asarray(x) for x in walked.facts["standardisation"])
    starts = starts_of(model_of(config), corpus.facts, mean, scale, seed=config.seed)
    count = len(walked.facts["visits"])

    def reader(s: int) -> Callable[[int], bytes]:
        return lambda i: run.read_bytes(walked.sides["steps"][s * count + i].file)

    together = walked.facts["trajectories"]
    own = [starts.walked(s, device, reader(s), spec, together=together) for s in range(together)]
    return visits_of(own, spec, actors.batch_bytes, walked.facts["scales"] if spec.weigh == "equal" else None)
