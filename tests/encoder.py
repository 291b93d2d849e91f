"""A tiny random sentence encoder on disk, built without a download."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = (
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "the",
    "mat",
    "stock",
    "price",
    "rose",
    "fell",
    "today",
    "under",
    "red",
    "blue",
)
WIDTH = 24
MOST_TOKENS = 32


def write_encoder(folder: Path) -> Path:
    """A BERT of two layers with mean pooling and a dense layer, as sentence-transformers saves it."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MOST_TOKENS,
        initializer_range=0.5,
    )
    bert = folder.parent / f"{folder.name}-bert"
    BertModel(config).save_pretrained(bert)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=MOST_TOKENS).save_pretrained(bert)
    SentenceTransformer(modules=[Transformer(str(bert)), Pooling(32), Dense(32, WIDTH)], device="cpu").save(
        str(folder)
    )
    return folder
