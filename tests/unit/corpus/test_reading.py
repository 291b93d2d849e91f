"""Every format gives the same examples, and every bad row keeps its number and gets a reason."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raydelt.config import Corpus
from raydelt.corpus.canonical import canonical, probe
from raydelt.corpus.features import Layout
from raydelt.corpus.sources import find, items
from raydelt.errors import InputError

ROWS = [{"a": 0.5, "b": -1.25, "y": "cat"}, {"a": 2.0, "b": 3.5, "y": "dog"}, {"a": -0.0, "b": 7.0, "y": "cat"}]


def read(source: Path | str, **settings_: Any) -> tuple[Layout, list[dict[str, Any]]]:
    """Layout and canonical rows of a source, in order."""
    corpus = Corpus(source=str(source), **settings_)
    units = items(find(corpus), text_unit=corpus.text_unit)
    layout = probe(units, corpus)
    return layout, [row for unit in units for table in canonical(unit, corpus, layout) for row in table.to_pylist()]


def reasons(rows: list[dict[str, Any]]) -> dict[int | None, str]:
    return {row["row"]: row["reason"] for row in rows if row["reason"] is not None}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format that the file name says."""
    plain = path.name.removesuffix(".gz").removesuffix(".zst")
    if plain.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if plain.endswith(".jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        sink = io.BytesIO()
        delimiter = "\t" if plain.endswith(".tsv") else ","
        pa.csv.write_csv(pa.Table.from_pylist(rows), sink, pa.csv.WriteOptions(delimiter=delimiter))
        data = sink.getvalue()
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    if path.name.endswith(".zst"):
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


NAMES = ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.csv.gz", "a.csv.zst", "a.tsv"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    _, expected = read(write(tmp_path / "reference.parquet", ROWS), label_column="y")
    layout, found = read(write(tmp_path / name, ROWS), label_column="y")
    assert (layout.kind, layout.columns, layout.input_shape) == ("numbers", ("a", "b"), (2,))
    keep = ("example_id", "draw_key", "group_key", "x", "label_name", "row", "reason")
    assert [{k: row[k] for k in keep} for row in found] == [{k: row[k] for k in keep} for row in expected]
    assert [row["x"] for row in found] == [[0.5, -1.25], [2.0, 3.5], [0.0, 7.0]]


def test_ids_follow_content_and_label_and_groups_follow_content(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[0], ROWS[0] | {"y": "dog"}, ROWS[2], ROWS[2] | {"a": 0.0}]
    _, found = read(write(tmp_path / "a.jsonl", rows), label_column="y")
    ids, groups = [row["example_id"] for row in found], [row["group_key"] for row in found]
    assert ids[0] == ids[1] != ids[2]
    assert groups[0] == groups[1] == groups[2] != groups[3]
    assert ids[3] == ids[4], "minus zero and zero are the same number"
    assert all(len(key) == 32 for key in ids)


@pytest.mark.parametrize("label", [1, 1.0, "1"])
def test_a_class_has_one_name_whatever_its_type(tmp_path: Path, label: Any) -> None:
    _, found = read(write(tmp_path / "a.jsonl", [{"a": 1.0, "y": label}]), label_column="y")
    assert found[0]["label_name"] == "1"


def test_a_line_that_does_not_parse_is_quarantined_and_the_others_are_read(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0])
    (tmp_path / "a.jsonl").write_text(f"{good}\n{{broken\n\n[1]\n{good}\n")
    _, found = read(tmp_path / "a.jsonl", label_column="y")
    assert sorted(row["row"] for row in found) == [0, 1, 3, 4]
    assert reasons(found)[1].startswith("line is not valid JSON")
    assert reasons(found)[3] == "line is not valid JSON: not a JSON object"
    assert all(row["payload_digest"] for row in found if row["reason"])


def test_a_csv_row_of_the_wrong_length_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,y\n1,2,cat\n3,4\n5,6,dog\n7,8,9,10\n11,12,cat\n")
    _, found = read(tmp_path / "a.csv", label_column="y")
    good = {row["row"]: row["x"] for row in found if row["reason"] is None}
    assert good == {0: [1.0, 2.0], 2: [5.0, 6.0], 4: [11.0, 12.0]}
    assert reasons(found) == {1: "row has 2 fields, not 3", 3: "row has 4 fields, not 3"}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv"])
def test_nan_infinite_and_missing_features_are_quarantined_by_name_and_value(tmp_path: Path, name: str) -> None:
    rows = [ROWS[0], ROWS[1] | {"b": float("nan")}, ROWS[1] | {"a": float("inf")}, ROWS[1] | {"a": None}, ROWS[2]]
    _, found = read(write(tmp_path / name, rows), label_column="y", feature_columns=["a", "b"])
    told = reasons(found)
    assert set(told) == {1, 2, 3}
    assert told[1] == "feature 'b' is nan: not a finite number"
    assert told[2] == "feature 'a' is inf: not a finite number"
    assert told[3] == "feature 'a' is None: not a number"


def test_labels_that_are_missing_or_unknown_are_quarantined(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[0] | {"y": "horse"}, ROWS[0] | {"y": None}]
    _, found = read(write(tmp_path / "a.jsonl", rows), label_column="y", classes=["cat", "dog"])
    assert reasons(found) == {1: "label 'horse' is none of corpus.classes", 2: "label 'y' is missing"}


def test_a_missing_key_is_quarantined_and_keys_become_ids(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"key": 17}, ROWS[1] | {"key": None}]
    _, found = read(write(tmp_path / "a.jsonl", rows), label_column="y", id_column="key")
    assert found[0]["example_id"] == "17"
    assert reasons(found) == {1: "key 'key' is missing"}


def test_an_unreadable_file_among_good_ones_is_quarantined_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ROWS)
    whole = write(tmp_path / "b.parquet", ROWS).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(b"")
    _, found = read(tmp_path, label_column="y")
    assert sum(row["reason"] is None for row in found) == 3
    bad = [row for row in found if row["reason"] is not None]
    assert [(Path(row["source_file"]).name, row["row"]) for row in bad] == [("b.parquet", None), ("c.parquet", None)]
    assert all(row["reason"].startswith("file cannot be read to its end") for row in bad)


def test_the_rows_before_a_truncated_gzip_ends_count_and_the_fault_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"a": float(v), "b": float(v), "y": "cat"} for v in rng.normal(size=200_00)]
    whole = write(tmp_path / "a.jsonl.gz", rows).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    _, found = read(tmp_path / "a.jsonl.gz", label_column="y")
    bad = [row for row in found if row["reason"] is not None]
    assert [row["row"] for row in bad] == [None]
    assert 0 < len(found) - 1 < len(rows)


def test_a_column_that_only_some_files_have_is_told_for_each_row(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", [{"a": 1.0, "y": "cat"}])
    _, found = read(tmp_path, label_column="y")
    assert [row["reason"] for row in found] == [None, None, None, "column 'b' is missing"]


def test_a_parquet_file_is_read_by_row_groups_with_rows_numbered_through(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"a": float(i), "y": str(i % 2)} for i in range(50)])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    assert len(items(find(Corpus(source=str(tmp_path / "a.parquet"))), text_unit="file")) == 8
    _, found = read(tmp_path / "a.parquet", label_column="y")
    assert [(row["row"], row["x"]) for row in found] == [(i, [float(i)]) for i in range(50)]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_nested_lists_keep_their_shape_and_odd_ones_are_quarantined(tmp_path: Path, name: str) -> None:
    image = np.arange(6, dtype=float).reshape(1, 2, 3).tolist()
    rows = [{"p": image, "y": "a"}, {"p": [[[1.0]]], "y": "b"}, {"p": image, "y": "b"}, {"p": None, "y": "b"}]
    layout, found = read(write(tmp_path / name, rows), label_column="y", feature_columns=["p"])
    assert (layout.kind, layout.input_shape) == ("list", (1, 2, 3))
    assert found[0]["x"] == found[2]["x"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert set(reasons(found)) == {1, 3}
    assert reasons(found)[1] == "feature 'p' has shape [1, 1, 1], not [1, 2, 3]"


def png(value: int, size: tuple[int, int] = (4, 3), mode: str = "L") -> bytes:
    sink = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


def test_encoded_images_become_channels_height_width_between_0_and_1(tmp_path: Path) -> None:
    rows = [{"image": png(255), "y": "a"}, {"image": png(51), "y": "b"}, {"image": b"no image", "y": "a"}]
    layout, found = read(write(tmp_path / "a.parquet", rows), label_column="y", image_column="image")
    assert layout.input_shape == (1, 3, 4)
    assert set(found[0]["x"]) == {1.0}
    assert found[1]["x"] == pytest.approx([0.2] * 12)
    assert reasons(found)[2].startswith("image cannot be decoded")


def test_image_shape_resizes_and_greys(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": png(200, (9, 9), "RGB"), "path": "x"}, "y": "a"}]
    source = write(tmp_path / "a.parquet", rows)
    layout, found = read(source, label_column="y", image_column="image", image_shape=[1, 5, 4])
    assert layout.input_shape == (1, 5, 4)
    assert len(found[0]["x"]) == 20


def test_a_folder_of_images_is_labelled_by_its_folders(tmp_path: Path) -> None:
    for label, value in (("black", 0), ("white", 255)):
        (tmp_path / label).mkdir()
        for index in range(3):
            (tmp_path / label / f"{index}.png").write_bytes(png(value))
    layout, found = read(tmp_path, label_from_folder=True)
    assert layout.input_shape == (1, 3, 4)
    assert [row["label_name"] for row in found] == ["black"] * 3 + ["white"] * 3
    assert len({row["source_file"] for row in found}) == 6


def test_idx_files_are_read_with_the_labels_beside_them(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + images.tobytes())
    )
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 2) + bytes([7, 9]))
    )
    layout, found = read(tmp_path / "train-images-idx3-ubyte.gz")
    assert layout.input_shape == (1, 3, 4)
    assert [row["label_name"] for row in found] == ["7", "9"]
    assert found[1]["x"] == pytest.approx((images[1].reshape(-1) / 255).tolist())


def test_text_files_and_paragraphs_are_documents(tmp_path: Path) -> None:
    for label in ("ham", "spam"):
        (tmp_path / label).mkdir()
    (tmp_path / "ham" / "a.txt").write_text("one fine\nday\n\n\nanother day\n")
    (tmp_path / "spam" / "b.txt").write_bytes(b"buy \xff\xfe now")
    layout, found = read(tmp_path, label_from_folder=True, text_features=64)
    assert (layout.kind, layout.width) == ("text", 64)
    [document] = [row for row in found if row["reason"] is None]
    assert document["text"].startswith("one fine")
    assert document["label_name"] == "ham"
    assert np.linalg.norm(document["x"]) == pytest.approx(1.0)
    [bad] = [row for row in found if row["reason"] is not None]
    assert bad["reason"] == "text is not valid UTF-8: invalid start byte at byte 4"
    assert bad["source_file"].endswith("b.txt")
    _, paragraphs = read(tmp_path / "ham", label_from_folder=True, text_unit="paragraph")
    assert [row["text"] for row in paragraphs] == ["one fine\nday", "another day"]


def test_a_text_column_is_hashed_and_empty_text_is_quarantined(tmp_path: Path) -> None:
    rows = [{"t": "hello world", "y": "a"}, {"t": "  ", "y": "b"}, {"t": 3, "y": "b"}]
    _, found = read(write(tmp_path / "a.jsonl", rows), label_column="y", text_column="t")
    assert reasons(found) == {1: "text 't' is empty", 2: "text 't' is 3: not a string"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.parquet", "does not exist: check the path"),
        ("none-*.parquet", "does not exist: check the path"),
        ("empty", "holds no files of a known format"),
        ("odd.xyz", "has no known extension"),
        ("builtin://digitz", "no such bundled set"),
        ("nowhere://x", "cannot be listed"),
        ("empty.csv", "holds no readable row"),
        ("header.csv", "holds no readable row"),
        ("empty.jsonl", "holds no readable row"),
    ],
)
def test_a_source_that_gives_nothing_is_told_in_one_sentence(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.xyz").write_text("?")
    for name in ("empty.csv", "empty.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "header.csv").write_text("a,b,y\n")
    with pytest.raises(InputError, match=message):
        read(source if "://" in source else tmp_path / source)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"label_column": "yy"}, "corpus.label_column 'yy' is no column of .*: did you mean 'y'"),
        ({"label_column": "y", "feature_columns": ["a", "zzz"]}, "corpus.feature_columns 'zzz' is no column of"),
        ({"label_column": "y", "id_column": "key"}, "corpus.id_column 'key' is no column of"),
        ({"label_column": "y", "text_column": "body"}, "corpus.text_column 'body' is no column of"),
    ],
)
def test_a_column_that_no_file_has_is_refused_with_a_hint(
    tmp_path: Path, settings_: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "a.parquet", ROWS), **settings_)


def test_folders_pass_over_hidden_files_and_globs_are_sorted(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl", "_SUCCESS.jsonl", "notes.doc"):
        write(tmp_path / name, ROWS) if name.endswith("jsonl") else (tmp_path / name).write_text("x")
    assert [Path(f.path).name for f in find(Corpus(source=str(tmp_path)))] == ["a.jsonl", "b.jsonl"]
    assert [Path(f.path).name for f in find(Corpus(source=f"{tmp_path}/?.jsonl"))] == ["a.jsonl", "b.jsonl"]


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), st.sampled_from(["p", "q"])),
        min_size=1,
        max_size=30,
    ),
    seed=st.integers(0, 100),
)
def test_ids_do_not_depend_on_row_order(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, float, str]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("order")
    rows = [{"a": a, "b": b, "y": y} for a, b, y in values]
    mixed = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    _, one = read(write(folder / "a.parquet", rows), label_column="y")
    _, two = read(write(folder / "b.parquet", mixed), label_column="y")
    assert sorted(row["example_id"] for row in one) == sorted(row["example_id"] for row in two)
