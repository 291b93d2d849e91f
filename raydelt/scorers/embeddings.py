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
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from raydelt import cluster
from raydelt.config import Actors, Encoder
from raydelt.corpus.canonical import fixed_lists
from raydelt.errors import SpecError
from raydelt.examples import EMBEDDING, EXAMPLE_ID
from raydelt.models import folder
from raydelt.storage import Manifest, Part, Stage

TEXT = "text"


def embed_corpus(
    encoder: Encoder, actors: Actors, corpus: Manifest, stage: Stage, *, sides: Sequence[str] = ()
) -> Manifest:
    """Encode the texts of the corpus, and of some of its held-out splits, and publish their vectors.

    Raises:
        SpecError: the corpus has no texts, the encoder cannot read `max_length` tokens, or its library is missing.
        InputError: the encoder is missing, is none, or has pickled weights.
    """
    if not corpus.facts["text"]:
        raise SpecError("encoder reads texts, but the corpus has none: set corpus.text_column, or drop the encoder")
    # Workers have working directories of their own.
    path = os.path.abspath(encoder.path) if os.path.isdir(encoder.path) else encoder.path
    texts = [("part", i, part) for i, part in enumerate(corpus.parts)]
    texts += [(kind, i, part) for kind in sides for i, part in enumerate(corpus.sides.get(kind, []))]
    options = {
        "stage": stage,
        "files": [(stage.file(kind, i), part.file) for kind, i, part in texts],
        "path": path,
        "max_length": encoder.max_length,
        "batch_size": encoder.batch_size,
        "num_gpus": actors.num_gpus,
    }
    items = [{"part": index, "rows": part.rows} for index, (_, _, part) in enumerate(texts)]
    rows = cluster.actor_map(PartEmbedder, items, options=options, actors=actors, label="embeddings")
    done = {entry["part"]: Part(**entry["file"]) for entry in (json.loads(row["done"]) for row in rows)}
    if any(done[i].rows != part.rows for i, (_, _, part) in enumerate(texts)):
        rows_in, rows_out = (sum(part.rows for part in held) for held in ([t[2] for t in texts], done.values()))
        raise RuntimeError(f"{rows_in} texts went in, {rows_out} vectors came out")
    parts = [done[i] for i in range(len(corpus.parts))]
    width = stage.run.read_table(parts[0].file, [EMBEDDING])[EMBEDDING].type.list_size
    facts = {"width": width, "encoder": encoder.path, "encoder_fingerprint": folder.fingerprint(path)}
    held = {kind: [done[i] for i, (own, _, _) in enumerate(texts) if own == kind] for kind in sides}
    return stage.publish(parts, facts, held)


class PartEmbedder:
    """One actor: holds the encoder, encodes parts, writes their files."""

    def __init__(
        self,
        stage: Stage,
        files: list[tuple[str, str]],
        path: str,
        max_length: int | None,
        batch_size: int,
        num_gpus: float,
    ) -> None:
        # The actors share the machine; the tokenizer would start a thread for each of its CPUs in every one of them.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from raydelt.models import classifier
        from raydelt.models.device import assigned_device
        from raydelt.models.embedder import Embedder

        classifier.one_thread()
        self.stage, self.files, self.batch_size = stage, files, batch_size
        self.embedder = Embedder(path, device=assigned_device(num_gpus), max_length=max_length)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        return {"done": [json.dumps(self._embed_part(index)) for index in batch.column("part").to_pylist()]}

    def _embed_part(self, index: int) -> dict[str, Any]:
        run, (name, source) = self.stage.run, self.files[index]
        part = run.standing_part(name)
        if part is None:
            texts = run.read_table(source, [EXAMPLE_ID, TEXT])
            vectors = self.embedder.encode(texts[TEXT].to_pylist(), batch_size=self.batch_size)
            part = run.write_table(name, pa.table({EXAMPLE_ID: texts[EXAMPLE_ID], EMBEDDING: fixed_lists(vectors)}))
        return {"part": index, "file": asdict(part)}
