"""Texts become vectors on a cluster: row by row, the same bytes always, and going on where a run was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydelt import pipeline
from raydelt.config import Actors
from raydelt.errors import InputError, SpecError
from raydelt.models.embedder import Embedder, fingerprint
from raydelt.scorers.embeddings import PartEmbedder, embed_corpus
from raydelt.scorers.neighbours import find_neighbours
from raydelt.storage import Manifest, Stage, Store
from tests.encoder import WIDTH, WORDS, write_encoder
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


@dataclass(frozen=True)
class EncoderSpec:
    """What `embed_corpus` reads of a spec."""

    path: str
    max_length: int | None = None
    batch_size: int = 16


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="module")
def flow(
    ray_session: None, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Manifest, Manifest, Stage]:
    """Three files of texts, embedded by two actors: the corpus, its embeddings, and their stage."""
    folder = tmp_path_factory.mktemp("flow")
    corpus = read_texts(folder, files=3)
    stage = stage_of(folder)
    return corpus, embed_corpus(EncoderSpec(str(encoder)), Actors(min=2, max=2), corpus, stage), stage


def read_texts(folder: Path, *, files: int) -> Manifest:
    """A corpus of short texts in JSON lines, read by the flow into `folder`/out."""
    random = np.random.default_rng(1)
    lines = [
        json.dumps({"text": " ".join(random.choice(WORDS, 4 + row % 30)) + f" {row}", "label": row % 2})
        for row in range(300)
    ]
    (folder / "in").mkdir(parents=True)
    for index, own in enumerate(np.array_split(lines, files)):
        (folder / "in" / f"{index}.jsonl").write_text("\n".join(own) + "\n")
    source = {"source": str(folder / "in"), "text_column": "text", "label_column": "label"}
    return pipeline.execute(spec(folder / "in", folder / "out", corpus=source), until="corpus").manifests["corpus"]


def stage_of(folder: Path) -> Stage:
    return Stage(Store(str(folder / "out")), "embeddings", "0123456789abcdef")


def rows_of(run: Store, manifest: Manifest) -> pa.Table:
    return pa.concat_tables([run.read_table(part.file) for part in manifest.parts])


def vectors_of(run: Store, manifest: Manifest) -> np.ndarray:
    values: np.ndarray = rows_of(run, manifest)["embedding"].combine_chunks().flatten().to_numpy()
    return values.reshape(-1, WIDTH)


def test_texts_become_vectors_row_by_row(flow: tuple[Manifest, Manifest, Stage], encoder: Path) -> None:
    corpus, embeddings, stage = flow
    assert embeddings == stage.published()
    assert len(corpus.parts) > 1
    assert [part.rows for part in embeddings.parts] == [part.rows for part in corpus.parts]
    assert embeddings.facts == {
        "width": WIDTH,
        "encoder": str(encoder),
        "encoder_fingerprint": fingerprint(str(encoder)),
    }
    texts, table = rows_of(stage.run, corpus), rows_of(stage.run, embeddings)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), WIDTH)
    assert table["example_id"] == texts["example_id"]
    expected = Embedder(str(encoder)).encode(texts["text"].to_pylist())
    np.testing.assert_allclose(vectors_of(stage.run, embeddings), expected, atol=1e-5)


def test_neighbours_are_those_of_the_vectors(flow: tuple[Manifest, Manifest, Stage]) -> None:
    corpus, embeddings, stage = flow
    near = find_neighbours(corpus, embeddings, Stage(stage.run, "neighbours", "fedcba9876543210"), seed=1)
    vectors = vectors_of(stage.run, embeddings)
    before = np.where(np.tri(len(vectors), k=-1, dtype=bool), vectors @ vectors.T, -1)
    found = rows_of(stage.run, near)["earlier_cosine"].to_numpy()
    np.testing.assert_allclose(found, before.max(axis=1), atol=1e-5)


@pytest.fixture
def _threads() -> Iterator[None]:
    """Give this process back the threads that an actor inside it does without."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
def test_bytes_depend_on_neither_files_nor_actors_nor_an_interruption(
    flow: tuple[Manifest, Manifest, Stage], encoder: Path, tmp_path: Path
) -> None:
    corpus, stage = read_texts(tmp_path, files=1), stage_of(tmp_path)
    files = [(stage.file("part", i), part.file) for i, part in enumerate(corpus.parts)]
    actor = PartEmbedder(stage, files, str(encoder), None, 16, 0.0)
    items = pa.table({"part": list(range(len(files)))})
    done = [json.loads(entry)["file"] for entry in actor(items)["done"]]
    assert [entry["digest"] for entry in done] == [part.digest for part in flow[1].parts]
    stamps = {entry["file"]: os.stat(tmp_path / "out" / entry["file"]).st_mtime_ns for entry in done[1:]}
    stage.run.delete(done[0]["file"])
    assert [json.loads(entry)["file"] for entry in actor(items)["done"]] == done
    assert {file: os.stat(tmp_path / "out" / file).st_mtime_ns for file in stamps} == stamps


def test_a_corpus_without_texts_is_refused(encoder: Path, tmp_path: Path) -> None:
    config = spec(write_digits(tmp_path / "in", rows=200), tmp_path / "out")
    corpus = pipeline.execute(config, until="corpus").manifests["corpus"]
    with pytest.raises(SpecError, match=r"encoder reads texts, but the corpus has none: set corpus\.text_column"):
        embed_corpus(EncoderSpec(str(encoder)), Actors(), corpus, stage_of(tmp_path))


def test_an_encoder_that_is_not_there_stops_the_stage_at_once(
    flow: tuple[Manifest, Manifest, Stage], tmp_path: Path
) -> None:
    corpus, _, stage = flow
    other = Stage(stage.run, "other", stage.fingerprint)
    with pytest.raises(InputError, match=r"encoder\.path .*nowhere.* is no folder"):
        embed_corpus(EncoderSpec(str(tmp_path / "nowhere")), Actors(), corpus, other)


def test_scorers_compare_documents_by_the_spec_s_encoder(encoder: Path, tmp_path: Path) -> None:
    read_texts(tmp_path, files=2)
    source = {"source": str(tmp_path / "in"), "text_column": "text", "label_column": "label"}
    kinds = ("diversity", "prototype", "typicality", "near_duplicates")
    config = spec(
        tmp_path / "in",
        tmp_path / "run",
        corpus=source,
        encoder={"path": str(encoder)},
        score=[{"kind": kind} for kind in kinds],
        rank={"combine": {"weights": {"diversity": 1.0}, "gate": None}},
        cluster={"actors": {"num_gpus": 0.5}},  # a logical GPU: where torch sees none, the CPU does it
    )
    run = pipeline.execute(config, until="ranking")
    units = rows_of(run.store, run.manifests["embeddings"])
    vectors = np.stack(units["embedding"].to_pylist()).astype(np.float64)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, np.nan)
    scores = rows_of(run.store, run.manifests["scores"])
    assert scores["example_id"].equals(units["example_id"])
    np.testing.assert_allclose(scores["diversity"].to_numpy(), 1 - np.nanmean(cosines, axis=1), atol=1e-5)
    nearest = -np.sort(-np.nan_to_num(cosines, nan=-2), axis=1)[:, :10].mean(axis=1)
    np.testing.assert_allclose(scores["typicality"].to_numpy(), 1 / (1 - nearest), rtol=1e-3)
    again = pipeline.execute(config, until="ranking")
    assert not any(again.fresh.values())
    (encoder / "README.md").write_text("another version\n")
    changed = pipeline.execute(config, until="scores")
    assert changed.fresh["embeddings"]
    assert changed.fresh["scores"]
