"""The targets stage: the mean gradient of the target set (the validation split) for every model that scores.

    G_r = 1/m sum_j grad_theta loss_r(target_j)

one Ray task per model and choice of parameters, each a plain forward and backward pass over the target set. Published
as safetensors. Memory of a task: one model, one gradient, one batch's activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import RunConfig
from raydelt.corpus.tokens import LOSS_FROM, REASON, TOKENS, usable
from raydelt.errors import InputError
from raydelt.examples import EXAMPLE_ID, FEATURES, LABEL
from raydelt.scorers.target_alignment import TargetRequest
from raydelt.storage import Manifest, Part, Stage, Store


@dataclass(frozen=True)
class TargetReader:
    """Reads the target set, which is the validation split: its files, and those of its tokens."""

    run: Store
    files: tuple[str, ...]
    beside: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Store, corpus: Manifest, tokens: Manifest | None) -> TargetReader:
        """The target set of a run.

        Raises:
            InputError: it is empty.
        """
        if not corpus.sides["validation"]:
            raise InputError(
                "corpus.validation leaves no example, and a target set is made of it: raise "
                "corpus.validation.fraction or give corpus.validation.source"
            )
        beside = tuple(part.file for part in tokens.sides["validation"]) if tokens else ()
        return cls(run, tuple(part.file for part in corpus.sides["validation"]), beside)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Every file's usable examples, where it has any."""
        for index, file in enumerate(self.files):
            table = self.run.read_table(file, [EXAMPLE_ID, FEATURES, LABEL])
            if self.beside:
                tokens = self.run.read_table(self.beside[index], [TOKENS, LOSS_FROM, REASON])
                for name in (TOKENS, LOSS_FROM):
                    table = table.append_column(name, tokens[name])
                table = table.filter(pa.array(usable(tokens)))
            yield from table.combine_chunks().to_batches()


def requests(config: RunConfig) -> list[TargetRequest]:
    """What the scorers of a spec want of the target set, each request once."""
    found = [spec.target() for spec in config.score if "target" in spec.build().needs]  # type: ignore[attr-defined]
    return list(dict.fromkeys(found))


def target_gradients(
    config: RunConfig, corpus: Manifest, proxies: Manifest | None, tokens: Manifest | None, stage: Stage
) -> Manifest:
    """Compute and publish the target gradients.

    Raises:
        InputError: no target example can be used.
    """
    target = TargetReader.of(stage.run, corpus, tokens)
    wanted = requests(config)
    rounds, folds = _shape(config, proxies)
    calls = [
        (stage, config, corpus.facts, proxies, target, request, r, f, (i * rounds + r) * folds + f)
        for i, request in enumerate(wanted)
        for r in range(rounds)
        for f in range(folds)
    ]
    done = cluster.parallel(_one_target, calls, label="targets", num_gpus=config.cluster.actors.num_gpus)
    facts: dict[str, Any] = {"rounds": rounds, "folds": folds}
    facts["rows_processed"] = sum(part.rows for part in done)
    return stage.publish([], facts, {"gradients": done})


def _shape(config: RunConfig, proxies: Manifest | None) -> tuple[int, int]:
    if proxies is not None:
        return proxies.facts["rounds"], proxies.facts["folds"]
    return len(config.model.checkpoints or config.model.paths), 1


def _one_target(
    stage: Stage,
    config: RunConfig,
    facts: dict[str, Any],
    proxies: Manifest | None,
    target: TargetReader,
    request: TargetRequest,
    r: int,
    f: int,
    place: int,
) -> Part:
    import safetensors.torch
    import torch

    from raydelt.gradients import PerExampleGradients, Sketch
    from raydelt.models import classifier
    from raydelt.models.device import assigned_device
    from raydelt.scorers.proxies import load_model

    classifier.one_thread()
    device = assigned_device(config.cluster.actors.num_gpus)
    if config.model.kind == "causal_lm":
        from raydelt.models import causal_lm

        model: Any = causal_lm.load(config.model, config.model.paths[r], device=device)
    else:
        model = load_model(stage.run, config.model, facts, proxies, r, f, device=device)
    engine = PerExampleGradients(model.module, model.losses, parameters=request.parameters)
    total: dict[str, Any] = {}
    sketched: list[Any] = []
    count = 0
    for whole in target.batches():
        batch = whole.slice(0, request.limit - count) if request.k else whole
        if batch.num_rows == 0:
            continue
        count += batch.num_rows
        groups = model.groups(batch, np.arange(batch.num_rows), config.cluster.actors.batch_bytes)
        if request.k:
            sketched += _sketches(model, engine, batch, groups, Sketch(request.k, request.seed))
            continue
        for name, gradient in engine.total([model.tensors(batch, group)[0] for group in groups]).items():
            total[name] = total[name] + gradient if name in total else gradient
    if count == 0:
        raise InputError("corpus.validation holds no document that can be used: see its length and model.context")
    found = {name: (gradient / count).contiguous().cpu() for name, gradient in total.items()}
    if request.k:
        found = {"units": torch.cat(sketched)}
    return stage.run.put(stage.file("target", place, "safetensors"), safetensors.torch.save(found), rows=count)


def _sketches(model: Any, engine: Any, batch: pa.RecordBatch, groups: Sequence[Any], sketch: Any) -> list[Any]:
    """Unit sketches [n, k] of the groups' examples."""
    from raydelt.scorers.passes import unit_rows

    found = []
    for group in groups:
        tensors, index = model.tensors(batch, group)
        found.append(unit_rows(engine(tensors, norms=False, sketch=sketch, index=index).sketches).float().cpu())
    return found
