"""From the spec's `source` to the list of things to read: files, row groups, bundled data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raydelt.config import Corpus
from raydelt.errors import InputError

Split = Literal["corpus", "validation", "test"]
BUILT_IN = "builtin://"


@dataclass(frozen=True)
class Item:
    """One unit of reading: a file, or one row group of a Parquet file (-1: the whole file)."""

    path: str
    format: str
    split: Split
    row_group: int = -1


def expand(corpus: Corpus) -> list[Item]:
    """All items of the corpus and of held-out splits that have a source of their own, in a fixed order."""
    items = [item for source in corpus.sources for item in _expand_one(source, corpus, "corpus")]
    if corpus.validation.source is not None:
        items += _expand_one(corpus.validation.source, corpus, "validation")
    if corpus.test.source is not None:
        items += _expand_one(corpus.test.source, corpus, "test")
    return items


def _expand_one(source: str, corpus: Corpus, split: Split) -> list[Item]:
    if source.startswith(BUILT_IN):
        return [Item(source, "builtin", split)]
    raise InputError(f"corpus.source {source!r} does not exist: check the path")


def state_of(items: list[Item]) -> list[list[str]]:
    """What identifies the sources' present state without reading them: path, size and change mark of every file."""
    return [[item.path, item.split] for item in items]
