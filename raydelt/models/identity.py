"""What identifies the models that a spec names: their section, and the bytes of their files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raydelt.config import ModelSpec
from raydelt.models import folder


def own_models(model: ModelSpec) -> list[Any]:
    """Identifies checkpoints: the model section, and the bytes of every file that it names."""
    named = [*model.checkpoints, *model.paths, *([model.adapter] if model.adapter else [])]
    return [model.model_dump(mode="json"), [folder.fingerprint(path) for path in named]]


def references(specs: Iterable[Any]) -> list[str]:
    """Identifies the models that scorers compare with."""
    return [folder.fingerprint(spec.reference) for spec in specs if hasattr(spec, "reference")]
