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
from numpy.typing import NDArray

from raydelt import cluster
from raydelt.config import ModelSpec
from raydelt.errors import SpecError
from raydelt.examples import EXAMPLE_ID
from raydelt.storage import Manifest, Part, Stage

TOKENS = "tokens"
LOSS_FROM = "loss_from"
REASON = "reason"
HELD_OUT = ("validation", "test")


def tokenise_corpus(model: ModelSpec, corpus: Manifest, stage: Stage) -> Manifest:
    """Tokenise the corpus and its held-out splits, and publish the tokens.

    Raises:
        SpecError: the corpus has no text.
        InputError: no tokenizer, or one that does not fit the model.
    """
    if not corpus.facts.get("text"):
        raise SpecError("model.kind causal_lm needs documents: set corpus.text_column, or read text files")
    kinds = {"part": corpus.parts} | {kind: corpus.sides.get(kind, []) for kind in HELD_OUT}
    calls = [
        (stage, model, kind, index, part.file) for kind, parts in kinds.items() for index, part in enumerate(parts)
    ]
    done = iter(cluster.parallel(_tokenise_part, calls, label="tokens"))
    found = {kind: [next(done) for _ in parts] for kind, parts in kinds.items()}
    facts = {"tokens": sum(count for _, count in found["part"])}
    sides = {kind: [part for part, _ in found[kind]] for kind in HELD_OUT}
    return stage.publish([part for part, _ in found["part"]], facts, sides)


def usable(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows [n] may be used: all without a reason against them, and all of a corpus that has no tokens."""
    if REASON not in table.column_names:
        return np.ones(table.num_rows, bool)
    found: NDArray[np.bool_] = table[REASON].is_null().combine_chunks().to_numpy(zero_copy_only=False)
    return found


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
