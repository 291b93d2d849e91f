"""The targets stage: the mean gradient of the target set (the validation split) for every model that scores.

    G_r = 1/m sum_j grad_theta loss_r(target_j)

one Ray task per model and choice of parameters, each a plain forward and backward pass over the target set. Published
as safetensors. Memory of a task: one model, one gradient, one batch's activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.corpus.tokens import LOSS_FROM, REASON, TOKENS
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, FEATURES, LABEL
from raydelt.storage import Manifest, Part, Stage


def parameter_choices(config: RunConfig) -> list[str | list[str]]:
    """What parameters the scorers of a spec want target gradients of, each choice once."""
    found = [spec.parameters for spec in config.score if "target" in spec.build().needs]  # type: ignore[attr-defined]
    return [choice if isinstance(choice, str) else list(choice) for choice in dict.fromkeys(found)]


def target_gradients(
    config: RunConfig, corpus: Manifest, proxies: Manifest | None, tokens: Manifest | None, stage: Stage
) -> Manifest:
    """Compute and publish the target gradients.

    Raises:
        InputError: no target example can be used.
    """
    split = corpus.sides["validation"]
    if not split:
        raise InputError(
            "corpus.validation leaves no example, and a target set is made of it: raise corpus.validation.fraction or "
            "give corpus.validation.source"
        )
    files = [part.file for part in split]
    beside = [part.file for part in tokens.sides["validation"]] if tokens else []
    choices = parameter_choices(config)
    rounds, folds = _shape(config, proxies)
    calls = [
        (stage, config, corpus.facts, proxies, files, beside, choice, r, f, (c * rounds + r) * folds + f)
        for c, choice in enumerate(choices)
        for r in range(rounds)
        for f in range(folds)
    ]
    done = cluster.parallel(_one_gradient, calls, label="targets", num_gpus=config.cluster.actors.num_gpus)
    facts = {"parameters": choices, "rounds": rounds, "folds": folds}
    facts["rows_processed"] = sum(part.rows for part in done)
    return stage.publish([], facts, {"gradients": done})


def _shape(config: RunConfig, proxies: Manifest | None) -> tuple[int, int]:
    if proxies is not None:
        return proxies.facts["rounds"], proxies.facts["folds"]
    return len(config.model.checkpoints or config.model.paths), 1


def _one_gradient(
    stage: Stage,
    config: RunConfig,
    facts: dict[str, Any],
    proxies: Manifest | None,
    files: Sequence[str],
    beside: Sequence[str],
    choice: str | list[str],
    r: int,
    f: int,
    place: int,
) -> Part:
    import safetensors.torch

    from raydelt.gradients import PerExampleGradients
    from raydelt.models import classifier
    from raydelt.scorers.models import assigned_device
    from raydelt.scorers.proxies import load_model

    classifier.one_thread()
    device = assigned_device(config.cluster.actors.num_gpus)
    if config.model.kind == "causal_lm":
        from raydelt.models import causal_lm

        model: Any = causal_lm.load(config.model, config.model.paths[r], device=device)
    else:
        model = load_model(stage.run, config.model, facts, proxies, r, f, device=device)
    engine = PerExampleGradients(model.module, model.losses, parameters=choice)
    total, count = None, 0
    for index in range(len(files)):
        batch = _target_batch(stage, files[index], beside[index] if beside else None)
        if batch.num_rows == 0:
            continue
        groups = model.groups(batch, np.arange(batch.num_rows), config.cluster.actors.batch_bytes)
        own = engine.total([model.tensors(batch, group)[0] for group in groups])
        total = own if total is None else {name: total[name] + own[name] for name in own}
        count += batch.num_rows
    if total is None:
        raise InputError("corpus.validation holds no document that can be used: see its length and model.context")
    mean = {name: (gradient / count).contiguous().cpu() for name, gradient in total.items()}
    return stage.run.put(stage.file("gradient", place, "safetensors"), safetensors.torch.save(mean), rows=count)


def _target_batch(stage: Stage, file: str, beside: str | None) -> pa.RecordBatch:
    table = stage.run.read_table(file, [EXAMPLE_ID, FEATURES, LABEL])
    if beside is not None:
        tokens = stage.run.read_table(beside, [TOKENS, LOSS_FROM, REASON])
        for name in (TOKENS, LOSS_FROM):
            table = table.append_column(name, tokens[name])
        table = table.filter(tokens[REASON].is_null())
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
