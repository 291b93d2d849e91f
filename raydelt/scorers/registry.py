"""Finding a scorer by its `kind`: built in, an entry point of the group `raydelt.scorers`, or `module:Class`."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

if TYPE_CHECKING:
    from raydelt.scorers.protocol import Scorer

BUILT_IN = {
    "difficulty": "raydelt.scorers.difficulty:DifficultyConfig",
    "consistency": "raydelt.scorers.consistency:ConsistencyConfig",
    "diversity": "raydelt.scorers.diversity:DiversityConfig",
    "prototype": "raydelt.scorers.prototype:PrototypeConfig",
    "grad_norm": "raydelt.scorers.grad_norm:GradNormConfig",
    "el2n": "raydelt.scorers.el2n:El2nConfig",
    "input_saliency": "raydelt.scorers.input_saliency:InputSaliencyConfig",
    "uncertainty": "raydelt.scorers.uncertainty:UncertaintyConfig",
    "sample_weight": "raydelt.scorers.sample_weight:SampleWeightConfig",
    "dynamics": "raydelt.scorers.dynamics:DynamicsConfig",
    "typicality": "raydelt.scorers.typicality:TypicalityConfig",
    "near_duplicates": "raydelt.scorers.near_duplicates:NearDuplicatesConfig",
    "gradient_neighbours": "raydelt.scorers.gradient_neighbours:GradientNeighboursConfig",
    "lqs": "raydelt.scorers.lqs:LqsConfig",
    "lm_loss": "raydelt.scorers.lm_loss:LmLossConfig",
    "excess_loss": "raydelt.scorers.excess_loss:ExcessLossConfig",
    "target_alignment": "raydelt.scorers.target_alignment:TargetAlignmentConfig",
    "lossval": "raydelt.valuation.methods:LossValConfig",
    "knn_shapley": "raydelt.valuation.methods:KnnShapleyConfig",
    "data_oob": "raydelt.valuation.methods:DataOobConfig",
    "lava": "raydelt.valuation.methods:LavaConfig",
    "self_confidence": "raydelt.valuation.methods:SelfConfidenceConfig",
    "random_values": "raydelt.valuation.methods:RandomValuesConfig",
}


class ScorerConfig(BaseModel):
    """Base of every scorer's spec: `kind` and the method's own settings. Subclasses build the scorer."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str

    def build(self) -> Scorer:
        """The scorer that this spec describes."""
        raise TypeError(f"{type(self).__name__} must define build()")


def config_class(kind: str) -> type[ScorerConfig]:
    """The config class that belongs to a kind."""
    target = BUILT_IN.get(kind) or _registered().get(kind) or (kind if ":" in kind else None)
    if target is None:
        known = sorted({*BUILT_IN, *_registered()})
        near = difflib.get_close_matches(kind, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known kinds are {', '.join(known)}, or `module:Class`"
        raise ValueError(f"unknown scorer kind {kind!r}: {hint}")
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"scorer kind {kind!r} cannot be loaded ({error}): check `module:Class`") from error
    if not (isinstance(found, type) and issubclass(found, ScorerConfig)):
        raise ValueError(f"scorer kind {kind!r}: {name} is no subclass of raydelt.scorers.registry.ScorerConfig")
    return found


def parse_scorer(raw: Any) -> ScorerConfig:
    """A scorer's config from `{kind: …, …}`; configs pass through."""
    if isinstance(raw, ScorerConfig):
        return raw
    if isinstance(raw, str):
        raw = {"kind": raw}
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise ValueError("a scorer is a mapping with a `kind`, for example {kind: difficulty}")
    return config_class(raw["kind"]).model_validate(raw)


def _registered() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group="raydelt.scorers")}


ScorerSpec = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(parse_scorer)]
