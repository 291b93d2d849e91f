"""Causal language models from a folder, a URL or the hub, and the way from documents to their tensors.

The loss of a document is the mean over its target tokens of -ln p(token | the tokens before it). Documents of similar
length form a batch; rows are padded on the right, where a causal model cannot see. With `packed`, several documents
share a row behind a block-diagonal mask with positions of their own. A document longer than the context may be `split`
into rows that overlap by one token, so that every token but the first is predicted once; it stays one example.

Cost: one forward pass (and one backward pass for gradients) over the tokens. Caution: a document's loss ranks
boilerplate best; compare two models (`excess_loss`) or align with a target before you call it quality.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import xxhash
from torch import Tensor, nn
from torch.nn import functional

from raydelt.config import ModelSpec
from raydelt.corpus.tokens import LOSS_FROM, TOKENS
from raydelt.errors import InputError, SpecError
from raydelt.gradients.layers import accumulable
from raydelt.gradients.memory import bytes_per_row
from raydelt.models.folder import fetch, refuse_pickles
from raydelt.scorers.protocol import Array

IGNORED = -100
FIELD = "model.path"
PROBE_LENGTH = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CausalLM:
    """A causal language model that scores documents given by their tokens."""

    def __init__(self, module: nn.Module, *, context: int, packed: bool = False) -> None:
        self._module = module.eval()
        self.context, self.packed = context, packed
        self._token_bytes: float | None = None

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def device(self) -> torch.device:
        return next(self._module.parameters()).device

    def groups(self, batch: pa.RecordBatch, rows: Array, budget: int) -> Sequence[Array]:
        """Rows by falling length, in groups whose padded tokens fit `budget` bytes."""
        lengths = np.asarray(batch.column(TOKENS).value_lengths())[rows]
        order = rows[np.lexsort((rows, -lengths))]
        room = self.tokens_within(budget)
        groups: list[list[int]] = []
        widest = 0
        for row, length in zip(order.tolist(), -np.sort(-lengths), strict=True):
            if not groups or (len(groups[-1]) + 1) * widest > room:
                groups.append([])
                widest = int(length)
            groups[-1].append(row)
        return [np.asarray(group) for group in groups]

    def tensors(self, batch: pa.RecordBatch, rows: Array) -> tuple[dict[str, Tensor], Tensor | None]:
        """Ids and targets of these documents, one a row; else with the positions [n, L] that each one consists of."""
        tokens, starts = batch.column(TOKENS), batch.column(LOSS_FROM)
        documents = [np.asarray(tokens[int(row)].values, np.int64) for row in rows]
        return self.laid_out(documents, [starts[int(row)].as_py() for row in rows])

    def laid_out(self, documents: Sequence[Array], starts: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        """The same from the ids of each document and its first target."""
        targets = [_targets(ids, start) for ids, start in zip(documents, starts, strict=True)]
        long = any(len(ids) > self.context for ids in documents)
        if not long and not self.packed:
            tensors = {"ids": _padded(documents, 0), "targets": _padded(targets, IGNORED)}
            return {name: x.to(self.device) for name, x in tensors.items()}, None
        pieces = [p for i, ids in enumerate(documents) for p in _windows(i, ids, targets[i], self.context)]
        tensors, index = _laid_out(pieces, len(documents), self.context, packed=self.packed)
        return {name: x.to(self.device) for name, x in tensors.items()}, index.to(self.device)

    @staticmethod
    def losses(forward: Callable[..., Any], tensors: Mapping[str, Tensor]) -> Tensor:
        """Mean loss [n] of each document's target tokens; 0 for one without any."""
        sums, counts = CausalLM.summed_losses(forward, tensors)
        return sums / counts.clamp(min=1)

    @staticmethod
    def summed_losses(forward: Callable[..., Any], tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed loss [n] of each document's target tokens, and their number [n]."""
        options: dict[str, Any] = {"use_cache": False}
        if "segments" in tensors:
            segments, places = tensors["segments"], tensors["places"]
            length = segments.shape[1]
            causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
            own = segments[:, None, :, None] == segments[:, None, None, :]
            options |= {"attention_mask": own & causal, "position_ids": places}
        logits = accumulable(forward(input_ids=tensors["ids"], **options).logits)
        targets = tensors["targets"]
        each = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).reshape(targets.shape)
        counted = (targets != IGNORED).to(each.dtype)
        if "owner" not in tensors:
            return each.sum(1), counted.sum(1)
        owner, zeros = tensors["owner"].flatten(), each.new_zeros(len(tensors["documents"]))
        return zeros.index_add(0, owner, each.flatten()), zeros.index_add(0, owner, counted.flatten())

    def tokens_within(self, budget: int) -> float:
        """Padded tokens whose activations fit `budget` bytes, at least one."""
        return max(1.0, budget / self._bytes_per_token())

    def _bytes_per_token(self) -> float:
        if self._token_bytes is None:
            length = min(self.context, PROBE_LENGTH)
            row = torch.zeros(1, length, dtype=torch.int64, device=self.device)
            self._token_bytes = bytes_per_row(self._module, self.losses, {"ids": row, "targets": row}) / length
        return self._token_bytes


Piece = tuple[int, Array, Array]


def _targets(ids: Array, start: int) -> Array:
    """The next token at every position, ignored before the first that counts and at the end."""
    targets = np.full(len(ids), IGNORED, np.int64)
    targets[start - 1 : -1] = ids[start:]
    return targets


def _windows(owner: int, ids: Array, targets: Array, context: int) -> Iterator[Piece]:
    """A document in pieces of at most `context` tokens; a later piece starts with the last token of the one before."""
    if len(ids) <= context:
        yield owner, ids, targets
        return
    for start in range(0, len(ids) - 1, context - 1):
        own = targets[start : start + context].copy()
        # The last position's target opens the next piece, which predicts it with this token as its context.
        if start + context < len(ids):
            own[-1] = IGNORED
        yield owner, ids[start : start + context], own


def _laid_out(
    pieces: Sequence[Piece], documents: int, context: int, *, packed: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of one piece, or of as many as fit, with the flat positions of every document [n, L] (-1: none)."""
    rows: list[list[Piece]] = []
    for piece in pieces:
        used = sum(len(ids) for _, ids, _ in rows[-1]) if rows else context
        if packed and rows and used + len(piece[1]) <= context:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    width = max(sum(len(ids) for _, ids, _ in row) for row in rows)
    names = ("ids", "targets", "owner", "segments", "places")
    grids = {name: np.zeros((len(rows), width), np.int64) for name in names}
    grids["targets"][:] = IGNORED
    grids["segments"][:] = -1
    positions: list[list[Array]] = [[] for _ in range(documents)]
    for r, row in enumerate(rows):
        column = 0
        for segment, (owner, ids, targets) in enumerate(row):
            span = slice(column, column + len(ids))
            values: tuple[Any, ...] = (ids, targets, owner, segment, np.arange(len(ids)))
            for name, value in zip(names, values, strict=True):
                grids[name][r, span] = value
            positions[owner].append(r * width + np.arange(span.start, span.stop))
            column = span.stop
    if not packed:
        del grids["segments"], grids["places"]
    tensors = {name: torch.from_numpy(grid) for name, grid in grids.items()}
    # One entry per document, to tell their number.
    tensors["documents"] = torch.zeros(documents)
    return tensors, _padded([np.concatenate(own) for own in positions], -1)


def _padded(rows: Sequence[Array], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    grid = np.full((len(rows), width), fill, np.int64)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = row
    return torch.from_numpy(grid)


def load(spec: ModelSpec, path: str, *, device: str = "cpu") -> CausalLM:
    """The model of a path, with the spec's adapter on it where there is one.

    Raises:
        InputError: no such model, pickled weights, or tensors that are missing, left over or of another shape.
    """
    from transformers import AutoModelForCausalLM

    folder = fetch(path, field=FIELD)
    refuse_pickles(folder, field=FIELD)
    with quiet_transformers(), told_as_input(f"{FIELD} {path!r} cannot be loaded"):
        module, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[spec.dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            local_files_only=os.path.isdir(folder),
        )
    for what, key in (
        ("missing", "missing_keys"),
        ("left over", "unexpected_keys"),
        ("of another shape", "mismatched_keys"),
    ):
        names = sorted(str(name) for name in report[key])
        if names:
            raise InputError(
                f"{FIELD} {path!r}: {len(names)} tensors are {what} ({names[0]}, …): use a complete "
                "checkpoint of this model"
            )
    if spec.adapter is not None:
        module = _with_adapter(module, spec.adapter)
    return CausalLM(module.to(device), context=spec.context, packed=spec.batching == "packed")


def _with_adapter(module: nn.Module, path: str) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError:
        raise SpecError("model.adapter needs peft: pip install 'raydelt[lm]'") from None
    folder = fetch(path, field="model.adapter")
    refuse_pickles(folder, field="model.adapter")
    with told_as_input(f"model.adapter {path!r} does not fit the model"):
        adapted: nn.Module = PeftModel.from_pretrained(module, folder, is_trainable=True)
    return adapted


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer that lies beside a model."""
    from transformers import AutoTokenizer

    folder = fetch(path, field=FIELD)
    with quiet_transformers(), told_as_input(f"{FIELD} {path!r} has no tokenizer that can be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=os.path.isdir(folder)
        )
    # Documents are longer than the tokenizer's own limit on purpose; the context is ours to hold.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def check_vocabulary(path: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that has ids which the model has no embedding for."""
    from transformers import AutoConfig

    folder = fetch(path, field=FIELD)
    with told_as_input(f"{FIELD} {path!r} has no config.json that can be read"):
        size = AutoConfig.from_pretrained(folder, local_files_only=os.path.isdir(folder)).get_text_config().vocab_size
    if len(tokenizer) > size:
        raise InputError(
            f"{FIELD} {path!r}: the tokenizer has {len(tokenizer)} ids but the model only {size} embeddings: "
            "use the tokenizer that the model was trained with"
        )


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """Identifies a tokenizer's ids: two models compare on the same tokens only if theirs agree."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return xxhash.xxh3_128_hexdigest(repr(entries).encode())


def reads_same_tokens(path: str, other: str) -> bool:
    """Whether two models have tokenizers with the same ids."""
    return vocabulary_fingerprint(load_tokenizer(path)) == vocabulary_fingerprint(load_tokenizer(other))


@contextlib.contextmanager
def told_as_input(what: str) -> Iterator[None]:
    """Whatever a library raises becomes an InputError that begins with `what`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {' '.join(str(error).split())[:200]}") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Its load report and bars are ours to tell, as an error or not at all."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
