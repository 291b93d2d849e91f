"""The models that score, loaded once per actor on the device that Ray assigned, and what scorers get of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import safetensors.torch

from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.lqs import data_scorer
from raydelt.lqs.data_scorer import DataScorer
from raydelt.lqs.starts import load_visits, spec_of
from raydelt.models import classifier
from raydelt.models.device import assigned_device
from raydelt.scorers.before import Before
from raydelt.scorers.crossfit import HeldOutEnsemble
from raydelt.scorers.passes import GradientPasses, Target
from raydelt.scorers.protocol import Need, ScoringContext
from raydelt.scorers.proxies import load_models
from raydelt.scorers.target_alignment import TargetRequest
from raydelt.scorers.targets import requests
from raydelt.storage import Store


def with_models(
    context: ScoringContext, config: RunConfig, before: Before, run: Store, needs: frozenset[Need]
) -> ScoringContext:
    """The context with the models that these needs ask for, loaded in this actor."""
    classifier.one_thread()
    if "data_scorer" in needs:
        context = replace(context, data_scorer=_data_scorer(config, before, run))
    elif "trajectory" in needs:
        visits = load_visits(config, before.corpus, before.models["trajectory"], run)
        context = replace(context, visits=visits)
    if needs & {"classifier", "gradients", "language"}:
        context = _with_gradients(context, config, before, run)
    return context


def _data_scorer(config: RunConfig, before: Before, run: Store) -> DataScorer:
    device = assigned_device(config.cluster.actors.num_gpus)
    return data_scorer.load(
        run, config, spec_of(config), before.corpus.facts, before.models["distilled"], device=device
    )


def _with_gradients(context: ScoringContext, config: RunConfig, before: Before, run: Store) -> ScoringContext:
    """The context with predictions and gradients of the proxies, or of the spec's own checkpoints."""
    device = assigned_device(config.cluster.actors.num_gpus)
    budget = config.cluster.actors.batch_bytes
    targets = _targets(config, before, run, device)
    if config.model.kind == "causal_lm":
        return replace(
            context,
            gradients=_language_models(config, config.model.paths, device, targets),
            load=_Loader(config, device),
        )
    models = load_models(run, config.model, before.corpus.facts, before.proxies, device=device)
    return replace(
        context,
        predictions=HeldOutEnsemble(models),
        gradients=GradientPasses(models, targets=targets, budget=budget),
    )


class _Loader:
    """Loads another language model like the spec's own, to compare with."""

    def __init__(self, config: RunConfig, device: str) -> None:
        self.config, self.device = config, device

    def __call__(self, path: str) -> GradientPasses:
        from raydelt.models.causal_lm import reads_same_tokens

        own = self.config.model.paths[0]
        if not reads_same_tokens(path, own):
            raise InputError(
                f"score.excess_loss.reference {path!r} and model.path {own!r} have different tokenizers, so their "
                "losses are not of the same tokens: use a reference of the same family"
            )
        return _language_models(self.config, [path], self.device, {})


def _language_models(config: RunConfig, paths: list[str], device: str, targets: Any) -> GradientPasses:
    from raydelt.models import causal_lm

    models = [[causal_lm.load(config.model, path, device=device)] for path in paths]
    return GradientPasses(models, targets=targets, budget=config.cluster.actors.batch_bytes)


def _targets(config: RunConfig, before: Before, run: Store, device: str) -> dict[TargetRequest, list[list[Target]]]:
    """What the targets stage published, by request."""
    targets = before.models.get("targets")
    if targets is None:
        return {}
    rounds, folds = targets.facts["rounds"], targets.facts["folds"]
    files = iter(targets.sides["gradients"])
    return {
        request: [[_moved(run.read_bytes(next(files).file), device) for _ in range(folds)] for _ in range(rounds)]
        for request in requests(config)
    }


def _moved(data: bytes, device: str) -> Target:
    return {name: tensor.to(device) for name, tensor in safetensors.torch.load(data).items()}
