"""Tiny language models with a real tokenizer, and documents to score with them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TEXT = (
    "the quick brown fox jumps over a lazy dog and then sleeps under old green trees while rain falls on quiet "
    "fields near the river where children play with small boats until evening comes and lights appear in windows"
)
WORDS = TEXT.split()


def sentences(count: int, *, shortest: int = 3, longest: int = 40) -> list[str]:
    """Different documents of growing, wrapping length."""
    span = longest - shortest + 1
    return [
        " ".join(WORDS[(7 * i + 3 * k + k * k * i) % len(WORDS)] for k in range(shortest + (5 * i) % span)) + f" {i} ."
        for i in range(count)
    ]


def tiny_lm(
    folder: Path, *, seed: int = 0, words: Sequence[str] = (), vocabulary: int | None = None, **changes: Any
) -> str:
    """A two-layer Llama of width 32 with a word-level tokenizer, saved as safetensors."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<unk>", *sorted({*WORDS, *words, *(str(i) for i in range(300)), ".", "Answer:"})]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocabulary or len(names),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": None,
    } | changes
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    return str(folder)


def write_documents(path: Path, texts: Sequence[str]) -> str:
    """One document per line of JSON, in the column `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)
