"""Neighbours found on a cluster: those of the brute force, planted duplicates and no others, the same bytes always."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydelt import pipeline
from raydelt.corpus.canonical import fixed_lists
from raydelt.scorers.near_duplicates import NearDuplicatesConfig
from raydelt.scorers.neighbours import find_neighbours
from raydelt.storage import Manifest, Stage, Store, read_manifest
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


def published(folder: Path, x: np.ndarray, *, parts: int = 1, stage: str = "corpus", column: str = "x") -> Manifest:
    """Rows in corpus order, cut into files."""
    store = Store(str(folder))
    files = []
    for index, rows in enumerate(np.array_split(np.arange(len(x)), parts)):
        vectors = fixed_lists(x[rows].astype(np.float32))
        table = pa.table({"example_id": [f"{row:04d}" for row in rows], column: vectors})
        files.append(store.write_table(f"{stage}/part-{index}.parquet", table))
    return Manifest(stage, f"{stage}-{parts}", files, facts={"width": x.shape[1]})


def found(
    corpus: Manifest, vectors: Manifest | None, folder: Path, name: str = "neighbours", **options: int
) -> tuple[Manifest, pa.Table]:
    stage = Stage(Store(str(folder)), name, f"{name}-fingerprint")
    manifest = find_neighbours(corpus, vectors, stage, seed=1, **options)
    assert stage.published() == manifest
    return manifest, pa.concat_tables([stage.run.read_table(part.file) for part in manifest.parts])


def columns(table: pa.Table) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
    return table["knn_cosine"].to_numpy(), table["earlier_cosine"].to_numpy(), table["neighbour"].to_pylist()


def test_one_cluster_in_three_files_equals_the_brute_force(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(90, 6))
    corpus = published(tmp_path, x, parts=3)
    manifest, table = found(corpus, None, tmp_path)
    knn, earlier, neighbour = columns(table)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = units @ units.T
    others = np.where(np.eye(90, dtype=bool), -2, cosines)
    np.testing.assert_allclose(knn, np.sort(others, axis=1)[:, -10:].mean(axis=1), atol=1e-6)
    before = np.where(np.tri(90, k=-1, dtype=bool), cosines, -1)
    np.testing.assert_allclose(earlier, before.max(axis=1), atol=1e-6)
    assert neighbour == [None, *(f"{row:04d}" for row in before[1:].argmax(axis=1))]
    assert table["example_id"].to_pylist() == [f"{row:04d}" for row in range(90)]
    assert [part.rows for part in manifest.parts] == [part.rows for part in corpus.parts]
    assert manifest.facts == {"clusters": 1, "nearest": 10, "without_direction": 0}


def test_the_files_of_the_corpus_change_nothing(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(120, 6))
    tables = [
        found(published(tmp_path / str(parts), x, parts=parts), None, tmp_path / str(parts), clusters=4)[1]
        for parts in (1, 5)
    ]
    assert tables[0].combine_chunks() == tables[1].combine_chunks()


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Eight clouds with copies of some rows scattered among them; which rows are a later copy."""
    random = np.random.default_rng(4)
    originals = np.repeat(random.normal(size=(8, 32)), 40, axis=0) + 0.6 * random.normal(size=(320, 32))
    source = np.concatenate([np.arange(320), random.choice(320, 60, replace=False), random.choice(320, 30)])
    x = originals[source] + np.concatenate([np.zeros((320, 32)), 1e-3 * random.normal(size=(90, 32))])
    units = originals / np.linalg.norm(originals, axis=1, keepdims=True)
    assert (units @ units.T - 2 * np.eye(320)).max() < 0.98, "no two originals are near-duplicates"
    order = random.permutation(len(x))
    _, first = np.unique(source[order], return_index=True)
    return x[order], ~np.isin(np.arange(len(x)), first)


@pytest.mark.parametrize(("clusters", "largest"), [(1, 500), (8, 500), (3, 60)])
def test_planted_duplicates_are_found_and_no_others(tmp_path: Path, clusters: int, largest: int) -> None:
    x, later_copy = planted()
    corpus = published(tmp_path, x, parts=4)
    manifest, table = found(corpus, None, tmp_path, clusters=clusters, largest=largest)
    assert manifest.facts["clusters"] == clusters
    scored = NearDuplicatesConfig(epsilon=0.01).build().score(table.combine_chunks().to_batches()[0])
    np.testing.assert_array_equal(scored["near_duplicate"] == 1.0, later_copy)
    for row, (name, other) in enumerate(
        zip(*(table[c].to_pylist() for c in ("example_id", "neighbour")), strict=True)
    ):
        if later_copy[row]:
            assert other < name
            assert np.linalg.norm(x[row] - x[int(other)]) < 0.05


def test_rows_without_a_direction_are_left_out_and_embeddings_replace_features(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(40, 5))
    spoilt = x.copy()
    spoilt[7], spoilt[8, 2], spoilt[30, 0] = 0, np.nan, np.inf
    corpus = published(tmp_path, np.ones((40, 2)), parts=2)
    vectors = published(tmp_path, spoilt, parts=2, stage="embeddings", column="embedding")
    manifest, table = found(corpus, vectors, tmp_path)
    knn, earlier, neighbour = columns(table)
    lost = [7, 8, 30]
    np.testing.assert_array_equal(knn[lost], [0, np.nan, np.nan])
    np.testing.assert_array_equal(earlier[lost], [0, np.nan, np.nan])
    assert [neighbour[row] for row in lost] == [None] * 3
    assert manifest.facts["without_direction"] == 3
    rest = np.delete(np.arange(40), lost)
    other = published(tmp_path / "rest", x[rest])
    expected = columns(found(other, None, tmp_path / "rest")[1])
    np.testing.assert_allclose(knn[rest], expected[0], atol=1e-6)
    np.testing.assert_allclose(earlier[rest], expected[1], atol=1e-6)


@pytest.mark.parametrize("clusters", [1, 6])
def test_a_corpus_without_any_direction_is_neutral(tmp_path: Path, clusters: int) -> None:
    _, table = found(published(tmp_path, np.zeros((9, 3)), parts=2), None, tmp_path, clusters=clusters)
    knn, earlier, neighbour = columns(table)
    assert knn.tolist() == earlier.tolist() == [0.0] * 9
    assert neighbour == [None] * 9


def test_more_clusters_than_distinct_rows_are_as_many_as_there_are(tmp_path: Path) -> None:
    x = np.repeat(np.eye(3), 4, axis=0)
    manifest, table = found(published(tmp_path, x, parts=2), None, tmp_path, clusters=7)
    assert manifest.facts["clusters"] == 3
    assert table["earlier_cosine"].to_pylist() == [-1, 1, 1, 1] * 3


def test_vectors_of_another_corpus_are_refused(tmp_path: Path) -> None:
    corpus = published(tmp_path, np.ones((6, 2)), parts=2)
    vectors = published(tmp_path, np.ones((6, 2)), stage="embeddings", column="embedding")
    with pytest.raises(RuntimeError, match="embeddings has other rows than the corpus"):
        found(corpus, vectors, tmp_path)


def test_bytes_do_not_depend_on_the_files_of_the_input(tmp_path: Path) -> None:
    digests = []
    for files, shuffle in ((1, None), (3, 1)):
        out = tmp_path / f"out-{files}"
        source = write_digits(tmp_path / f"in-{files}", files=files, shuffle=shuffle)
        pipeline.execute(spec(source, out), until="corpus")
        corpus = read_manifest(Store(str(out)), "corpus")
        assert corpus is not None
        manifest, table = found(corpus, None, out, clusters=5, largest=80)
        assert table.num_rows == corpus.rows
        assert table["earlier_cosine"].to_numpy().max() > 0.95
        digests.append([part.digest for part in manifest.parts])
    assert digests[0] == digests[1]
