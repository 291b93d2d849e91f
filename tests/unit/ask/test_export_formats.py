"""An export holds the examples of the run, in order, with their scores, in every format; nothing is lost unasked."""

from __future__ import annotations

import gzip
import io
import json
import resource
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raydelt.ask import joined
from raydelt.ask.export import export
from raydelt.ask.run import Run
from raydelt.errors import InputError
from tests.asked import CLASSES, Asked, Made

NASTY = ("<script>alert(1)</script>", "שלום עולם", "a\x00b\x1b[31m\r\nc", "👩‍👩‍👧‍👦 ok", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Asked(rows=700).make(tmp_path_factory.mktemp("asked") / "a run")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Asked(rows=300, texts=NASTY).make(tmp_path_factory.mktemp("asked") / "run")


def expected(made: Made) -> list[dict[str, Any]]:
    """The kept examples in training order with what must be joined, from the whole tables."""
    scores = {row["example_id"]: row for row in made.scores.to_pylist()}
    corpus = {row["example_id"]: row for row in made.corpus.to_pylist()}
    ranking = {row["example_id"]: row for row in made.ranking.to_pylist()}
    rows = []
    for row in made.selection.sort_by("position").to_pylist():
        name = row["example_id"]
        own = {"example_id": name, "position": row["position"], "rank": row["rank"], "reason": row["reason"]}
        own |= {key: scores[name][key] for key in ("difficulty", "difficulty_se", "diversity")}
        own |= {key: ranking[name][key] for key in ("score", "score_se", "percentile")}
        own |= {key: corpus[name][key] for key in ("source_file", "row", "label")}
        rows.append(own | {"label_name": CLASSES[corpus[name]["label"]]})
    return rows


def assert_same(rows: list[dict[str, Any]], made: Made) -> None:
    wanted = expected(made)
    assert [{key: row[key] for key in wanted[0]} for row in rows] == wanted


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet"))])


def test_parquet_and_hf_hold_the_selection_in_training_order(made: Made, tmp_path: Path) -> None:
    run = Run.open(made.store.root)
    told = export(run, "parquet", str(tmp_path / "p q"))
    assert told["rows"] == made.selection.num_rows
    assert_same(read(tmp_path / "p q").to_pylist(), made)
    export(run, "hf", str(tmp_path / "hf"))
    assert_same(read(tmp_path / "hf" / "data").to_pylist(), made)
    header = yaml.safe_load((tmp_path / "hf" / "README.md").read_text().split("---")[1])
    [pattern] = [own["path"] for own in header["configs"][0]["data_files"]]
    assert list((tmp_path / "hf").glob(pattern))
    assert "draw_key" not in read(tmp_path / "p q").column_names


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_json_lines_parse_and_keep_every_text(texts: Made, tmp_path: Path, name: str) -> None:
    export(Run.open(texts.store.root), "jsonl", str(tmp_path / name))
    data = (tmp_path / name).read_bytes()
    rows = [
        json.loads(line) for line in (gzip.decompress(data) if name.endswith("gz") else data).decode().split("\n")[:-1]
    ]
    assert_same(rows, texts)
    own = dict(zip(texts.corpus["example_id"].to_pylist(), texts.corpus["text"].to_pylist(), strict=True))
    assert all(row["text"] == own[row["example_id"]] for row in rows)


def test_webdataset_groups_the_files_of_an_example(made: Made, texts: Made, tmp_path: Path) -> None:
    export(Run.open(made.store.root), "webdataset", str(tmp_path / "w"))
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tmp_path / "w" / "shard-000000.tar") as tar:
        for member in tar:
            key, kind = member.name.split(".", 1)
            found.setdefault(key, {})[kind] = tar.extractfile(member).read()  # type: ignore[union-attr]
    assert_same([json.loads(own["json"]) for own in found.values()], made)
    x = dict(zip(made.corpus["example_id"].to_pylist(), made.corpus["x"].to_pylist(), strict=True))
    for own in found.values():
        row = json.loads(own["json"])
        assert np.load(io.BytesIO(own["npy"])).tolist() == x[row["example_id"]]
        assert int(own["cls"]) == row["label"]
    export(Run.open(texts.store.root), "webdataset", str(tmp_path / "t"))
    with tarfile.open(tmp_path / "t" / "shard-000000.tar") as tar:
        assert {member.name.split(".", 1)[1] for member in tar} == {"json", "txt", "cls"}


def test_the_corpus_and_the_scores_go_out_with_rank_and_position(made: Made, tmp_path: Path) -> None:
    run = Run.open(made.store.root)
    export(run, "parquet", str(tmp_path / "c"), what="corpus")
    export(run, "parquet", str(tmp_path / "s"), what="scores")
    ranks = dict(zip(made.ranking["example_id"].to_pylist(), range(10**6), strict=False))
    places = dict(zip(made.selection["example_id"].to_pylist(), made.selection["position"].to_pylist(), strict=True))
    for folder in ("c", "s"):
        rows = read(tmp_path / folder).to_pylist()
        assert [row["example_id"] for row in rows] == made.scores["example_id"].to_pylist()
        assert [row["difficulty"] for row in rows] == made.scores["difficulty"].to_pylist()
        assert all(row["rank"] == ranks[row["example_id"]] for row in rows)
        assert all(row["position"] == places.get(row["example_id"]) for row in rows)
    assert "x" not in read(tmp_path / "s").column_names


def test_pieces_of_any_size_join_to_the_same(made: Made) -> None:
    run = Run.open(made.store.root)
    for kind in (joined.corpus, joined.selection):
        assert pa.concat_tables(kind(run, at_once=50)).equals(pa.concat_tables(kind(run)))


def test_what_stands_is_replaced_only_when_asked(made: Made, tmp_path: Path) -> None:
    run, out = Run.open(made.store.root), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="other things than an export"):
        export(run, "parquet", str(out), force=True)
    (out / "mine.txt").unlink()
    with pytest.raises(InputError, match="--force"):
        export(run, "parquet", str(out))
    export(run, "hf", str(out), force=True)
    export(run, "parquet", str(out), force=True)
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "part-00000.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for inside in (made.store.root, made.store.root + "/scores", str(Path(made.store.root).parent)):
        with pytest.raises(InputError, match="lie in each other"):
            export(run, "parquet", inside, force=True)
    for wrong in ({"to": "csv"}, {"to": "parquet", "what": "all"}, {"to": "webdataset", "what": "scores"}):
        with pytest.raises(InputError, match="--"):
            export(run, out=str(tmp_path / "new"), **wrong)


def test_a_place_that_cannot_be_written_is_one_sentence(made: Made, tmp_path: Path) -> None:
    run = Run.open(made.store.root)
    (tmp_path / "file").write_text("mine")
    for to in ("parquet", "jsonl"):
        with pytest.raises(
            InputError, match=r"--out '.*' cannot be written \((File exists|Not a directory)\): .* another --out"
        ):
            export(run, to, str(tmp_path / "file" / "below"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"--out '.*' cannot be written \(File too large\)"):
            export(run, "jsonl", str(tmp_path / "rows.jsonl"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_files_that_are_told_stand(made: Made, tmp_path: Path) -> None:
    run = Run.open(made.store.root)
    for to, folder in (("jsonl", tmp_path), ("parquet", tmp_path / "p"), ("webdataset", tmp_path / "w")):
        found = export(run, to, str(tmp_path / ("rows.jsonl" if to == "jsonl" else to[0])))
        assert found["files"]
        assert all((folder / name).is_file() for name in found["files"])


def test_an_export_that_fails_leaves_nothing(made: Made, tmp_path: Path) -> None:
    own = Asked(rows=200).make(tmp_path / "run")
    (tmp_path / "run" / own.manifests["ordered"].parts[0].file).unlink()
    with pytest.raises(InputError, match=r"ordered/part.* is missing"):
        export(Run.open(own.store.root), "parquet", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
