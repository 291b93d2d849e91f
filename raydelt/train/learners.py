"""What is trained: a classifier or a causal language model, from the columns of a batch to losses, metrics and files.

    loss of a step = sum_i weight_i loss_i / sum_i count_i     over the global batch

where loss_i is summed over the targets of example i and count_i is their number: 1 for a classifier's example, the
target tokens of a document. Caution: weights are those of the selection (1/pi of a sampled example), so the loss
estimates that of the whole corpus, and its scale moves with them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn

from raydelt.config import Lora, ModelSpec
from raydelt.corpus.tokens import LOSS_FROM, TOKENS, usable
from raydelt.errors import SpecError
from raydelt.examples import LABEL, column_of, features_of
from raydelt.models import classifier
from raydelt.scorers.protocol import Array

Columns = Mapping[str, Array]
Forward = Callable[..., Any]
EVALUATED_ROWS = 1024


class Learner(Protocol):
    """A network in training and everything that depends on what it is."""

    @property
    def module(self) -> nn.Module:
        """The network."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    @property
    def tallied(self) -> tuple[str, ...]:
        """What an evaluation sums up."""
        ...

    @property
    def one_target(self) -> bool:
        """Whether every example has just one target."""
        ...

    def decode(self, table: pa.Table) -> Columns:
        """Columns [n, …] of what the network needs of these rows."""
        ...

    def counts(self, columns: Columns) -> Array:
        """Targets [n] of each example."""
        ...

    def rows_within(self, budget: int) -> int:
        """Examples whose activations fit `budget` bytes, at least one."""
        ...

    def losses(self, forward: Forward, columns: Columns) -> Tensor:
        """Loss [n] of each example, summed over its targets."""
        ...

    def tally(self, forward: Forward, columns: Columns) -> Tensor:
        """Sums over these rows, one for each name of `tallied`, in float64."""
        ...

    def metrics(self, tallied: Mapping[str, float]) -> dict[str, float]:
        """What the sums of all rows say."""
        ...

    def files(self, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
        """A model with these weights as the files of a folder."""
        ...


class ClassifierLearner:
    """A classifier on features [n, width] and labels [n]."""

    tallied = ("hits", "loss", "count")
    one_target = True

    def __init__(
        self,
        spec: ModelSpec,
        input_shape: Sequence[int],
        classes: int,
        standardisation: tuple[Sequence[float], Sequence[float]],
        *,
        seed: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        model = classifier.build(spec, input_shape, classes, seed=seed)
        model.set_standardisation(*map(np.asarray, standardisation))
        self.spec, self.dtype, self.device = spec, dtype, device
        self.module: classifier.Classifier = model.to(device=device, dtype=dtype)

    def decode(self, table: pa.Table) -> Columns:
        return {"x": np.array(features_of(table)), "y": column_of(table, LABEL).astype(np.int64)}

    def counts(self, columns: Columns) -> Array:
        return np.ones(len(columns["y"]))

    def rows_within(self, budget: int) -> int:
        return 1 << 30  # a batch of a classifier that does not fit is cut by `micro_batch`

    def losses(self, forward: Forward, columns: Columns) -> Tensor:
        logits, labels = self._logits(forward, columns)
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    def tally(self, forward: Forward, columns: Columns) -> Tensor:
        logits, labels = self._logits(forward, columns)
        logits = logits.double()
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        hits = (logits.argmax(dim=1) == labels).sum().double()
        return torch.stack([hits, loss, torch.tensor(float(len(labels)), dtype=torch.float64, device=loss.device)])

    def metrics(self, tallied: Mapping[str, float]) -> dict[str, float]:
        count = max(tallied["count"], 1)
        return {"accuracy": tallied["hits"] / count, "loss": tallied["loss"] / count}

    def files(self, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
        model = self.module
        description = {
            "model": self.spec.model_dump(mode="json"),
            "input_shape": model.input_shape,
            "num_classes": model.num_classes,
        }
        return {
            "model.safetensors": safetensors.torch.save({name: x.float().contiguous() for name, x in weights.items()}),
            "config.json": (json.dumps(description, indent=2) + "\n").encode(),
        }

    def _logits(self, forward: Forward, columns: Columns) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(columns["x"]).to(device=self.device, dtype=self.dtype)
        return forward(x), torch.from_numpy(columns["y"]).to(self.device)


class LanguageLearner:
    """A causal language model on documents given by their tokens; with `lora`, only its adapters learn."""

    tallied = ("loss", "count")
    one_target = False

    def __init__(self, spec: ModelSpec, lora: Lora | None, *, seed: int, dtype: torch.dtype, device: str) -> None:
        from raydelt.models.causal_lm import CausalLM

        self.spec, self.lora, self.seed, self.device = spec, lora, seed, device
        self.module = self._built(device).to(dtype=dtype)
        self.model = CausalLM(self.module, context=spec.context, packed=spec.batching == "packed")

    def _built(self, device: str) -> Any:
        """The model as it is before the first step."""
        from raydelt.models import causal_lm

        weights = self.spec.model_copy(update={"dtype": "float32"})
        module = causal_lm.load(weights, self.spec.paths[0], device=device).module
        return module if self.lora is None else _adapted(module, self.lora, seed=self.seed)

    def decode(self, table: pa.Table) -> Columns:
        table = table.filter(pa.array(usable(table)))
        tokens = table[TOKENS].combine_chunks()
        values, offsets = tokens.values.to_numpy().astype(np.int64), tokens.offsets.to_numpy()
        documents = np.empty(table.num_rows, object)
        for row in range(table.num_rows):
            documents[row] = values[offsets[row] : offsets[row + 1]]
        return {TOKENS: documents, LOSS_FROM: column_of(table, LOSS_FROM).astype(np.int64)}

    def counts(self, columns: Columns) -> Array:
        return np.asarray([len(ids) for ids in columns[TOKENS]], np.float64) - columns[LOSS_FROM]

    def rows_within(self, budget: int) -> int:
        return max(1, int(self.model.tokens_within(budget) / self.model.context))

    def losses(self, forward: Forward, columns: Columns) -> Tensor:
        tensors, _ = self.model.laid_out(list(columns[TOKENS]), columns[LOSS_FROM].tolist())
        return self.model.summed_losses(forward, tensors)[0]

    def tally(self, forward: Forward, columns: Columns) -> Tensor:
        loss = self.losses(forward, columns).double().sum()
        return torch.stack([loss, torch.tensor(self.counts(columns).sum(), dtype=torch.float64, device=loss.device)])

    def metrics(self, tallied: Mapping[str, float]) -> dict[str, float]:
        loss = tallied["loss"] / max(tallied["count"], 1)
        return {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}

    def files(self, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
        from raydelt.models import causal_lm

        # Built anew, since the one in training may be cut up among workers.
        module = self._built("cpu")
        module.load_state_dict(weights)
        if self.lora is not None and self.lora.merge:
            module = module.merge_and_unload()
        with tempfile.TemporaryDirectory() as folder, causal_lm.quiet_transformers():
            module.save_pretrained(folder)
            causal_lm.load_tokenizer(self.spec.paths[0]).save_pretrained(folder)
            return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir()) if file.is_file()}


def _adapted(module: nn.Module, lora: Lora, *, seed: int) -> nn.Module:
    """The model with fresh low-rank adapters; the same seed gives the same ones."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise SpecError("train.lora needs peft: pip install 'raydelt[lm]'") from None
    options = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        try:
            adapted: nn.Module = get_peft_model(module, options)
        except ValueError as error:
            told = " ".join(str(error).split())[:200]
            raise SpecError(f"train.lora.targets {lora.targets!r} do not fit the model: {told}") from error
    return adapted


def evaluate(learner: Learner, forward: Forward, tables: Sequence[Columns], *, rows: int) -> Tensor:
    """The learner's sums over these rows, in groups of `rows`."""
    total = torch.zeros(len(learner.tallied), dtype=torch.float64)
    with torch.inference_mode():
        for columns in tables:
            count = len(next(iter(columns.values())))
            for start in range(0, count, rows):
                own = {name: values[start : start + rows] for name, values in columns.items()}
                total += learner.tally(forward, own).cpu()
    return total
