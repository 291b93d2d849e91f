"""The tokens stage: every document's token ids, once, beside the corpus parts and row by row like them.

    tokens = tokenizer(text)        loss_from = index of the first token that counts as a target (at least 1)

A document that gives a model nothing to predict (no token, a single one, no answer after the mark) or that is longer
than the context where the spec says `quarantine` gets a reason, and goes to quarantine when it is scored. Cost:
O(bytes); memory of an actor: the tokenizer and one part.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydelt import cluster
from raydelt.config import ModelSpec
from raydelt.errors import SpecError
from raydelt.examples import EXAMPLE_ID
from raydelt.storage import Manifest, Part, Stage

TOKENS = "tokens"
LOSS_FROM = "loss_from"
REASON = "reason"


def tokenise_corpus(model: ModelSpec, corpus: Manifest, stage: Stage) -> Manifest:
    """Tokenise the corpus and its validation split, and publish the tokens.

    Raises:
        SpecError: the corpus has no text.
        InputError: no tokenizer, or one that does not fit the model.
    """
    if not corpus.facts.get("text"):
        raise SpecError("model.kind causal_lm needs documents: set corpus.text_column, or read text files")
    validation = corpus.sides.get("validation", [])
    calls = [(stage, model, "part", index, part.file) for index, part in enumerate(corpus.parts)]
    calls += [(stage, model, "validation", index, part.file) for index, part in enumerate(validation)]
    done = cluster.parallel(_tokenise_part, calls, label="tokens")
    parts = [part for part, _ in done]
    facts = {"tokens": sum(count for _, count in done[: len(corpus.parts)])}
    return stage.publish(parts[: len(corpus.parts)], facts, {"validation": parts[len(corpus.parts) :]})


def _tokenise_part(stage: Stage, model: ModelSpec, kind: str, index: int, file: str) -> tuple[Part, int]:
    """One file of tokens, and their number."""
    table = stage.run.read_table(file, [EXAMPLE_ID, "text"])
    columns = tokenised(_tokenizer(model.paths[0]), table["text"].to_pylist(), model)
    part = stage.run.write_table(stage.file(kind, index), pa.table({EXAMPLE_ID: table[EXAMPLE_ID], **columns}))
    return part, len(columns[TOKENS].flatten())


@functools.lru_cache(maxsize=1)
def _tokenizer(path: str) -> Any:
    """The tokenizer of a path, once per process."""
    from raydelt.models.causal_lm import check_vocabulary, load_tokenizer

    tokenizer = load_tokenizer(path)
    check_vocabulary(path, tokenizer)
    return tokenizer


def tokenised(tokenizer: Any, texts: Sequence[str | None], model: ModelSpec) -> dict[str, pa.Array]:
    """Columns tokens [B] of lists, loss_from [B] and reason [B] (null where the document can be used)."""
    known = [text or "" for text in texts]
    encoded = tokenizer(
        known,
        add_special_tokens=True,
        return_attention_mask=False,
        return_offsets_mapping=model.answer_after is not None,
    )
    ids: list[list[int]] = encoded["input_ids"]
    starts = [1] * len(ids)
    if model.answer_after is not None:
        starts = [
            _first_target(t, o, model.answer_after) for t, o in zip(known, encoded["offset_mapping"], strict=True)
        ]
    reasons = [_fault(own, start, model) for own, start in zip(ids, starts, strict=True)]
    if model.long_documents == "truncate":
        ids = [own[: model.context] for own in ids]
    return {
        TOKENS: pa.array(ids, pa.list_(pa.int32())),
        LOSS_FROM: pa.array(np.asarray(starts, np.int32)),
        REASON: pa.array(reasons, pa.string()),
    }


def _first_target(text: str, offsets: Sequence[tuple[int, int]], mark: str) -> int:
    """Index of the first token behind the first occurrence of the mark; the number of tokens where there is none."""
    place = text.find(mark)
    if place < 0:
        return len(offsets)
    end = place + len(mark)
    return max(1, next((i for i, (low, high) in enumerate(offsets) if low >= end and high > low), len(offsets)))


def _fault(ids: Sequence[int], start: int, model: ModelSpec) -> str | None:
    if len(ids) < 2:
        return f"document of {len(ids)} tokens: nothing to predict"
    if len(ids) > model.context and model.long_documents == "quarantine":
        return f"document of {len(ids)} tokens is longer than model.context {model.context}"
    length = min(len(ids), model.context) if model.long_documents == "truncate" else len(ids)
    if start >= length:
        return f"no token to predict behind model.answer_after {model.answer_after!r}"
    return None
