"""The embeddings stage: the vector of every text of the corpus, by a pool of actors that hold the encoder.

    embedding[i] = encoder(text i) / its norm        float32 [width], row by row as the corpus

A part that is already written under this stage's fingerprint is not encoded again. Within a part the batches follow
from the texts alone and an actor computes on one thread, so the bytes do not depend on files, actors or retries.
Cost: one forward pass of the encoder per text. Memory of an actor: the encoder, one part's texts and vectors, one
batch's activations. See `models.embedder`; the vectors feed `neighbours`.

Caution: a text that the encoder gives no finite vector for keeps NaN, and the score stage sends it to quarantine.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raydelt import cluster
from raydelt.config import Actors
from raydelt.corpus.canonical import fixed_lists
from raydelt.errors import SpecError
from raydelt.examples import EMBEDDING, EXAMPLE_ID
from raydelt.storage import Manifest, Part, Stage

TEXT = "text"


class Encoder(Protocol):
    """What the spec says of the encoder."""

    @property
    def path(self) -> str:
        """A local folder, a URL, or a hub name."""
        ...

    @property
    def max_length(self) -> int | None:
        """Tokens that it reads of a text; None for its own limit."""
        ...

    @property
    def batch_size(self) -> int:
        """Texts per forward pass."""
        ...


def embed_corpus(encoder: Encoder, actors: Actors, corpus: Manifest, stage: Stage) -> Manifest:
    """Encode the texts of the corpus and publish their vectors.

    Raises:
        SpecError: the corpus has no texts, the encoder cannot read `max_length` tokens, or its library is missing.
        InputError: the encoder is missing, is none, or has pickled weights.
    """
    if corpus.parts and TEXT not in _columns(stage, corpus.parts[0].file):
        raise SpecError("encoder reads texts, but the corpus has none: set corpus.text_column, or drop the encoder")
    # Workers have working directories of their own.
    path = os.path.abspath(encoder.path) if os.path.isdir(encoder.path) else encoder.path
    # An actor that cannot start is started again and again; a task says at once what is wrong.
    [(width, mark)] = cluster.parallel(_try_encoder, [(path, encoder.max_length)], label="embeddings: encoder")
    options = {
        "stage": stage,
        "files": [part.file for part in corpus.parts],
        "path": path,
        "max_length": encoder.max_length,
        "batch_size": encoder.batch_size,
        "device": "cuda" if actors.num_gpus else "cpu",
    }
    items = [{"part": index} for index in range(len(corpus.parts))]
    rows = cluster.actor_map(PartEmbedder, items, options=options, actors=actors, label="embeddings")
    done = {entry["part"]: Part(**entry["file"]) for entry in (json.loads(row["done"]) for row in rows)}
    parts = [done[index] for index in range(len(corpus.parts))]
    if [part.rows for part in parts] != [part.rows for part in corpus.parts]:
        raise RuntimeError(f"{corpus.rows} texts went in, {sum(part.rows for part in parts)} vectors came out")
    return stage.publish(parts, {"width": width, "encoder": encoder.path, "encoder_fingerprint": mark})


def _columns(stage: Stage, file: str) -> list[str]:
    with stage.run.fs.open(stage.run.path(file), "rb") as opened:
        names: list[str] = pq.read_schema(opened).names
    return names


def _try_encoder(path: str, max_length: int | None) -> tuple[int, str]:
    """The width and fingerprint of an encoder that can be loaded."""
    from raydelt.models.embedder import Embedder, fingerprint

    return Embedder(path, max_length=max_length).width, fingerprint(path)


class PartEmbedder:
    """One actor: holds the encoder, encodes parts, writes their files."""

    def __init__(
        self, stage: Stage, files: list[str], path: str, max_length: int | None, batch_size: int, device: str
    ) -> None:
        # The actors share the machine; the tokenizer would start a thread for each of its CPUs in every one of them.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from raydelt.models import classifier
        from raydelt.models.embedder import Embedder

        classifier.one_thread()
        self.stage, self.files, self.batch_size = stage, files, batch_size
        self.embedder = Embedder(path, device=device, max_length=max_length)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        return {"done": [json.dumps(self._embed_part(index)) for index in batch.column("part").to_pylist()]}

    def _embed_part(self, index: int) -> dict[str, Any]:
        run, name = self.stage.run, self.stage.file("part", index)
        if not run.exists(name):
            texts = run.read_table(self.files[index], [EXAMPLE_ID, TEXT])
            vectors = self.embedder.encode(texts[TEXT].to_pylist(), batch_size=self.batch_size)
            run.write_table(name, pa.table({EXAMPLE_ID: texts[EXAMPLE_ID], EMBEDDING: fixed_lists(vectors)}))
        return {"part": index, "file": asdict(run.described(name))}
