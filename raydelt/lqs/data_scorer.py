"""The data scorer: a small model that predicts an example's annotated score from what the example is made of.

    documents      y = w . p + b,   p = mean of the encoder's last hidden states over the document's tokens, in float32
    other corpora  y = network(x)[label],   the spec's network with one output per class

in standard deviations of the annotated sample. A document without tokens has p = 0. One function, `inputs`, turns rows
of the corpus into what the model reads, for its training and its use; the published code did that in two ways, so its
scorer met texts that it had not been trained on. Rows of similar length form a batch: batches follow from the rows and
the memory budget. Encoders may look both ways or backwards only: rows are padded on the right, behind a mask. The
model is in eval mode throughout, so that a prediction depends on its example alone.

Cost: one forward pass. Memory: the model, one batch's activations, a call's tokens. Source: arXiv 2506.21545, sec. 4.
Caution: what lies behind `max_length` tokens of a document is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.examples import FEATURES, LABEL, column_of, derived_seed, features_of
from raydelt.gradients.memory import backing_off, bytes_per_row
from raydelt.models import classifier
from raydelt.models.causal_lm import load_tokenizer, quiet_transformers, told_as_input
from raydelt.models.folder import fetch, refuse_pickles
from raydelt.models.moments import Moments
from raydelt.scorers.lqs import Distil, LqsConfig
from raydelt.scorers.protocol import Array
from raydelt.storage import Manifest, Store

FIELD = "score.lqs.annotate.encoder"
PROBE_LENGTH = 64

Rows: TypeAlias = pa.RecordBatch | pa.Table


@dataclass(frozen=True)
class Inputs:
    """What the model reads of some examples: its arguments, an array [B, ...] or a list of B arrays of any length.

    `sizes` [B] is how much of a batch's room each one takes: its tokens, or 1.
    """

    arguments: Mapping[str, Array | Sequence[Array]]
    sizes: Array

    def tensors(self, rows: Array) -> dict[str, Tensor]:
        """The arguments for some of the examples, on the CPU; those of any length padded with zeros on the right."""
        return {
            name: torch.from_numpy(values[rows])
            if isinstance(values, np.ndarray)
            else pad_sequence([torch.from_numpy(values[row]) for row in rows], batch_first=True)
            for name, values in self.arguments.items()
        }


def documents(ids: Sequence[Sequence[int]]) -> Inputs:
    """Token ids and their number; a document without any gets a place to pad."""
    lengths = np.asarray([len(own) for own in ids], np.int64)
    arrays = [np.asarray(own or [0], np.int32) for own in ids]
    return Inputs({"ids": arrays, "lengths": lengths}, np.maximum(lengths, 1))


def read_documents(tokenizer: Any, limit: int, batch: Rows) -> Inputs:
    """Documents as the encoder's tokenizer has them, with its special tokens, cut to `limit` tokens."""
    texts = [text or "" for text in batch.column("text").to_pylist()]
    options = {"truncation": True, "max_length": limit, "return_attention_mask": False}
    return documents(tokenizer(texts, add_special_tokens=True, **options)["input_ids"] if texts else [])


def read_features(batch: Rows) -> Inputs:
    """Features [B, width] and labels [B] as the corpus has them."""
    x, label = np.array(features_of(batch)), column_of(batch, LABEL).astype(np.int64)
    return Inputs({"x": x, "label": label}, np.ones(len(x), np.int64))


class MeanPooled(nn.Module):
    """An encoder, the mean of its last hidden states over the tokens, and a linear head that starts at zero."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 1)
        # Its first predictions are the mean of the targets, and nothing here is random.
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Predictions [n] for ids [n, L] of which the first `lengths` [n] are tokens."""
        place = torch.arange(ids.shape[1], device=ids.device)
        # Attention over nothing is NaN: a row without tokens sees its padding, and the mean leaves that out.
        seen = place < lengths.clamp(min=1)[:, None]
        hidden = self.encoder(input_ids=ids.long(), attention_mask=seen.long()).last_hidden_state.float()
        summed = hidden.masked_fill((place >= lengths[:, None])[..., None], 0.0).sum(1)
        return cast(Tensor, self.head(summed / lengths.clamp(min=1)[:, None])[:, 0])


class OwnLabel(nn.Module):
    """A classifier's network, of whose outputs an example's own label picks one: the score depends on the label."""

    def __init__(self, network: classifier.Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Predictions [n] for raw features [n, width] and labels [n]."""
        return cast(Tensor, self.network(x)).gather(1, label[:, None])[:, 0].float()


@dataclass
class DataScorer:
    """Predicts scores of corpus rows.

    `inputs` turns rows with these `columns` into what the module reads; `probe` is one example, whose activations are
    measured to find how many fit `budget` bytes; `layers` is the number of them, for a pass that keeps only one.
    """

    module: nn.Module
    inputs: Callable[[Rows], Inputs]
    columns: tuple[str, ...]
    probe: Inputs
    budget: int
    layers: int = 1

    def __post_init__(self) -> None:
        self.module.eval()

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def predict(self, batch: Rows) -> Array:
        """Predicted scores [B] float32, in standard deviations of the annotated sample."""
        return self.predicted(self.inputs(batch), np.arange(batch.num_rows))

    # Inference mode would leave tensors in an encoder's caches that a later training step cannot use.
    @torch.no_grad()
    def predicted(self, inputs: Inputs, rows: Array) -> Array:
        """The same for some examples, by their place in `inputs`: [len(rows)] float32."""
        result = np.zeros(len(inputs.sizes), np.float32)

        def compute(low: int, high: int) -> None:
            own = group[low:high]
            result[own] = self.module(**self.tensors(inputs, own)).cpu().numpy()

        for group in self.groups(inputs, rows):
            backing_off(compute, len(group), what="one example's prediction by the data scorer")
        return result[rows]

    def groups(self, inputs: Inputs, rows: Array, *, training: bool = False) -> list[Array]:
        """Rows by falling length, in groups that fit the budget when padded to their longest."""
        # Without a backward pass, only one layer's activations are there at a time.
        room = self.budget / self._bytes_per_token * (1 if training else self.layers)
        order = rows[np.lexsort((rows, -inputs.sizes[rows]))]
        found, start = [], 0
        while start < len(order):
            size = max(1, int(room // inputs.sizes[order[start]]))
            found.append(order[start : start + size])
            start += size
        return found

    def tensors(self, inputs: Inputs, rows: Array) -> dict[str, Tensor]:
        """The module's arguments for some examples, on its device."""
        return {name: x.to(self.device) for name, x in inputs.tensors(rows).items()}

    def standardise(self, inputs: Inputs, rows: Array) -> None:
        """Take the mean and spread of these examples' features; nothing where a document's encoder reads its own."""
        if isinstance(self.module, OwnLabel):
            network, x = self.module.network, cast(Array, inputs.arguments["x"])[rows]
            network.set_standardisation(*Moments.of(x).standardisation(network.input_shape))

    def dump(self) -> bytes:
        """Every weight as safetensors."""
        # Cloned, since safetensors refuses tensors that share memory.
        return safetensors.torch.save({n: x.detach().cpu().clone() for n, x in self.module.state_dict().items()})

    def restore(self, data: bytes, *, origin: str) -> None:
        """Take the weights of a dump.

        Raises:
            InputError: it is none, or tensors are missing, left over or of another shape.
        """
        try:
            self.module.load_state_dict(safetensors.torch.load(data))
        except Exception as error:
            raise InputError(
                f"{origin} does not fit the data scorer of the spec ({' '.join(str(error).split())[:300]}): use the "
                f"{FIELD} or model that it was trained with, or delete its folder to train it anew"
            ) from error

    @cached_property
    def _bytes_per_token(self) -> float:
        row = self.tensors(self.probe, np.zeros(1, np.int64))
        return bytes_per_row(self.module, lambda model, own: model(**own).sum(), row) / int(self.probe.sizes[0])


def build(config: RunConfig, settings: Distil, facts: dict[str, Any], *, device: str) -> DataScorer:
    """A data scorer as it is before its training; the same spec gives the same weights.

    Raises:
        InputError: the encoder is missing, pickled or incomplete, or does not go with its tokenizer.
    """
    budget = config.cluster.actors.batch_bytes
    if config.model.kind == "causal_lm":
        return _of_documents(settings.encoder or config.model.paths[0], settings.max_length, budget, device)
    seed = derived_seed(config.seed, "data_scorer")
    network = classifier.build(config.model, facts["input_shape"], len(facts["classes"]), seed=seed)
    zero = {"x": np.zeros((1, facts["width"]), np.float32), "label": np.zeros(1, np.int64)}
    probe = Inputs(zero, np.ones(1, np.int64))
    return DataScorer(OwnLabel(network).to(device), read_features, (FEATURES, LABEL), probe, budget)


def load(
    run: Store, config: RunConfig, spec: LqsConfig, facts: dict[str, Any], distilled: Manifest, *, device: str
) -> DataScorer:
    """The data scorer that the distilled stage published.

    Raises:
        InputError: as `build` and `DataScorer.restore`.
    """
    assert isinstance(spec.annotate, Distil)
    scorer = build(config, spec.annotate, facts, device=device)
    [part] = distilled.sides["scorer"]
    scorer.restore(run.read_bytes(part.file), origin=part.file)
    return scorer


def _of_documents(path: str, max_length: int, budget: int, device: str) -> DataScorer:
    folder = fetch(path, field=FIELD)
    refuse_pickles(folder, field=FIELD)
    tokenizer = _tokenizer(path, folder)
    encoder, positions = _encoder(path, folder)
    ids, known = len(tokenizer), encoder.get_input_embeddings().weight.shape[0]
    if ids > known:
        raise InputError(
            f"{FIELD} {path!r} is a mismatch: its tokenizer has {ids} ids but the encoder only {known} embeddings: "
            "use the tokenizer that it was trained with"
        )
    limit, special = min(max_length, positions or max_length), tokenizer.num_special_tokens_to_add()
    if limit <= special:
        raise InputError(
            f"score.lqs.annotate.max_length {max_length}: {path!r} reads {limit} tokens, of which {special} are its "
            "special ones: raise it"
        )
    with told_as_input(f"{FIELD} {path!r} gives no hidden states for token ids"), torch.no_grad():
        one = torch.zeros(1, 1, dtype=torch.int64)
        width = encoder(input_ids=one, attention_mask=torch.ones_like(one)).last_hidden_state.shape[-1]
    layers = int(getattr(encoder.config.get_text_config(), "num_hidden_layers", 1))
    probe = documents([[0] * min(limit, PROBE_LENGTH)])
    module = MeanPooled(encoder, width).to(device)
    return DataScorer(module, partial(read_documents, tokenizer, limit), ("text",), probe, budget, layers)


def _tokenizer(path: str, folder: str) -> Any:
    """The encoder's own tokenizer, cutting documents at their end."""
    try:
        tokenizer = load_tokenizer(folder)
    except InputError as error:
        raise InputError(f"{FIELD} {path!r} has no tokenizer that can be loaded: put its own beside it") from error
    # Where the files are missing, the library may make one up that knows nothing but its special tokens.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise InputError(f"{FIELD} {path!r} has no tokenizer: put tokenizer.json beside its config.json")
    tokenizer.truncation_side = "right"
    return tokenizer


def _encoder(path: str, folder: str) -> tuple[Any, int | None]:
    """The transformer without any head, in float32, and the positions that it can read where it tells."""
    from transformers import AutoModel

    safe = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": os.path.isdir(folder)}
    with quiet_transformers(), told_as_input(f"{FIELD} {path!r} cannot be loaded"):
        encoder, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **safe)
    if encoder.config.is_encoder_decoder:
        raise InputError(f"{FIELD} {path!r} has an encoder and a decoder: use a model that is one of both")
    # It looks at one token only; without it no weight is left that the prediction does not use.
    if hasattr(encoder, "pooler"):
        encoder.pooler = nn.Identity()
    encoder.config.use_cache = False
    lost = [str(name) for name in report["missing_keys"] if not str(name).startswith("pooler.")]
    if lost:
        raise InputError(f"{FIELD} {path!r} lacks {len(lost)} tensors ({min(lost)}, …): use a complete checkpoint")
    positions = getattr(encoder.config.get_text_config(), "max_position_embeddings", None)
    # RoBERTa and its kin count positions from behind their padding id on.
    tables = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == positions]
    behind = max((m.padding_idx + 1 for m in tables if m.padding_idx is not None), default=0)
    return encoder, None if positions is None else int(positions) - behind
