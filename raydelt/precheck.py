"""What is refused before anything is read: a spec that asks for what its own sections or the cluster do not give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydelt import cluster
from raydelt.config import HeldOut, RunConfig
from raydelt.errors import SpecError
from raydelt.rank.refine import repeatable
from raydelt.scorers.lqs import LqsConfig
from raydelt.scorers.protocol import Need
from raydelt.storage.places import refuse_credentials, refuse_output
from raydelt.train import track
from raydelt.train.job import gpus_of_worker
from raydelt.valuation.methods import LossValConfig


def check(config: RunConfig, stages: Sequence[str]) -> None:
    """Refuse before anything is read what these stages could not do."""
    _check_places(config.resolved())
    refuse_output(config.output)
    language = config.model.kind == "causal_lm"
    if language and config.rank.method == "folding_sort":
        raise SpecError("rank.method folding_sort trains classifiers: set rank.method to score for a causal_lm")
    if "selection" in stages and config.select.quotas is not None and not config.corpus.labelled:
        raise SpecError("select.quotas needs classes: set corpus.label_column, or drop the quotas")
    if "model" in stages and not language and not config.corpus.labelled:
        raise SpecError(
            "training a classifier needs labels: set corpus.label_column or label_from_folder, "
            "or stop before training with `raydelt order`"
        )
    if "model" in stages:
        _check_training(config)
    if "refined" in stages and config.rank.refine is not None and not repeatable(config.score):
        raise SpecError(
            "rank.refine repeats scores by proxies, and no scorer of this spec has any: add one such as difficulty or "
            "grad_norm, or drop rank.refine"
        )
    if config.model.factory is not None:
        from raydelt.models.classifier import load_factory

        load_factory(config.model.factory)
    for index, spec in enumerate(config.score):
        _check_scorer(config, f"score.{index}: {spec.kind}", spec.build().needs)


def check_planning(config: RunConfig, *, made: bool = True) -> None:
    """Refuse before anything is read a plan (or, if not `made`, only its probes) that this spec does not give."""
    spec, language = config.plan, config.model.kind == "causal_lm"
    if made and not spec.budgets:
        raise SpecError(
            f"plan.budgets is empty: give at least one, in {spec.unit or ('tokens' if language else 'examples')}"
        )
    if config.rank.extent == "kept" or config.rank.refine is not None:
        name = "extent kept" if config.rank.extent == "kept" else "refine"
        raise SpecError(f"a plan needs the whole ranking before any cut, and rank.{name} looks at one: drop it")
    if config.select.quotas is not None and config.select.quotas.share == "balanced":
        raise SpecError("a plan's buckets take an equal share of every class: set select.quotas.share to proportional")
    if spec.points is not None and made:
        return
    if config.corpus.validation == HeldOut():
        raise SpecError(
            "probes are measured on the validation split, since no plan may see the test split: set "
            "corpus.validation.fraction or corpus.validation.source"
        )
    if not language and not config.corpus.labelled:
        raise SpecError("probes train a classifier, which needs labels: set corpus.label_column or label_from_folder")
    if made and spec.metric == "error" and language:
        raise SpecError("plan.metric error is a classifier's: use loss for a causal_lm")
    _check_model(config)


def _check_places(value: Any, field: str = "") -> None:
    """Refuse credentials in any URL of a spec, which is printed and written down."""
    if isinstance(value, str):
        refuse_credentials(value, field)
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        _check_places(inner, f"{field}.{name}".lstrip("."))


def _check_training(config: RunConfig) -> None:
    """Refuse a training that this spec or machine cannot give."""
    spec = config.train
    if config.corpus.test.source is None and config.corpus.test.fraction == 0:
        raise SpecError("corpus.test leaves no test split: give corpus.test.fraction or corpus.test.source")
    if spec.evaluate_every is not None and config.corpus.validation == HeldOut():
        raise SpecError(
            "train.evaluate_every looks at the validation split: set corpus.validation.fraction or "
            "corpus.validation.source"
        )
    _check_model(config)
    track.check(spec.track, local="://" not in config.output)


def _check_model(config: RunConfig) -> None:
    """Refuse what cannot be trained, however long."""
    spec, language = config.train, config.model.kind == "causal_lm"
    if spec.lora is not None and not language:
        raise SpecError("train.lora is for language models: set model.kind to causal_lm, or drop it")
    if language and len(config.model.paths) > 1:
        raise SpecError(f"training starts from one model, and model.path lists {len(config.model.paths)}: give one")
    if language and config.model.adapter is not None:
        raise SpecError("training starts from a plain model: merge model.adapter into it, or use train.lora")
    if spec.precision == "float16" and config.cluster.actors.num_gpus == 0:
        raise SpecError("train.precision float16 needs GPUs: use bfloat16, or set cluster.actors.num_gpus")


def _check_scorer(config: RunConfig, name: str, needs: frozenset[Need]) -> None:
    """Refuse a scorer that needs what this spec does not give."""
    language = config.model.kind == "causal_lm"
    if "classifier" in needs | ({"classifier"} if "ledger" in needs else set()) and language:
        raise SpecError(
            f"{name} needs a classifier, and model.kind is causal_lm: take lm_loss, excess_loss or grad_norm"
        )
    if "language" in needs and not language:
        raise SpecError(f"{name} needs a language model: set model.kind to causal_lm and model.path")
    if "label" in needs and not language and not config.corpus.labelled:
        raise SpecError(f"{name} needs labels: set corpus.label_column")
    if "time" in needs and config.corpus.time_column is None:
        raise SpecError(f"{name} needs the age of examples: set corpus.time_column")
    if "values" in needs and language:
        raise SpecError(f"{name} values labelled examples, and model.kind is causal_lm: take lqs or target_alignment")
    if needs & {"target", "trajectory", "validation"} and config.corpus.validation == HeldOut():
        raise SpecError(f"{name} needs a target set: set corpus.validation.fraction or corpus.validation.source")
    own = needs & {"classifier", "gradients"} and not language
    if own and config.rank.method == "score" and not config.model.checkpoints:
        raise SpecError(f"{name} needs a model: set model.checkpoint, or rank.method to folding_sort")


def require(config: RunConfig, *, training: bool = True) -> None:
    """Refuse at once what Ray would wait for without end; what a training needs, only where there is to be one."""
    actors = config.cluster.actors
    cluster.require("GPU", actors.num_gpus * actors.min, "cluster.actors (num_gpus x min)")
    cluster.require("CPU", actors.num_cpus * actors.min, "cluster.actors (num_cpus x min)")
    cluster.require_places({"CPU": actors.num_cpus, "GPU": actors.num_gpus}, actors.min, "cluster.actors")
    if training:
        _require_group(config, config.train.fewest, config.train.most, "train.workers")
    for spec in config.score:
        if isinstance(spec, LqsConfig):
            _require_group(config, spec.workers, spec.workers, "score.lqs.workers")
        if isinstance(spec, LossValConfig):
            cluster.require("CPU", spec.workers, "score.lossval.workers")


def _require_group(config: RunConfig, least: int, most: int, field: str) -> None:
    """Refuse a group of workers, of which each takes a CPU and the GPUs of an actor, that could never start."""
    cluster.require("CPU", least, field)
    each = {"CPU": 1.0, "GPU": gpus_of_worker(config.cluster.actors.num_gpus, most)}
    cluster.require_places(each, least, f"{field} (with cluster.actors.num_gpus)" if each["GPU"] else field)
