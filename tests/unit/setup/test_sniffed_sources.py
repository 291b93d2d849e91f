"""What init finds in sources of every format, and that the spec it writes is one that a run accepts."""

from __future__ import annotations

import csv
import gzip
import http.server
import io
import json
import struct
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from raydelt.config import Select
from raydelt.corpus.canonical import probe
from raydelt.corpus.sources import find, items
from raydelt.errors import InputError
from raydelt.precheck import check
from raydelt.scorers.registry import parse_scorer
from raydelt.setup import begin, look
from raydelt.setup.begin import Begun, Wish
from raydelt.setup.offers import Task, offers
from raydelt.setup.write import STRATA
from raydelt.specfile import load
from tests import s3server
from tests.s3server import BUCKET, using

CLASSES = ("cat", "dog", "hen")
SAYINGS = (
    "the quick brown fox jumps over it",
    "a lazy dog sleeps all day long here",
    "nobody expects rain in the desert",
)
UP_TO_THE_REPORT = ("corpus", "proxies", "scores", "ranking", "selection", "ordered", "model", "report")


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Two numbers and a class."""
    draw = np.random.default_rng(3)
    return [
        {"width": round(float(draw.normal()), 4), "height": round(float(draw.normal()), 4), "kind": CLASSES[i % 3]}
        for i in range(count)
    ]


def texts(count: int = 60) -> list[dict[str, Any]]:
    return [{"body": f"{SAYINGS[i % 3]} number {i}", "kind": CLASSES[i % 3]} for i in range(count)]


def write_csv(path: Path, table: list[dict[str, Any]], *, header: bool = True, encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(table[0]))
        if header:
            writer.writeheader()
        writer.writerows(table)
    return path


def write_jsonl(path: Path, table: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_idx(folder: Path, stem: str, count: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (count, 6, 5), np.uint8)
    labels = (np.arange(count) % 4).astype(np.uint8)
    images = struct.pack(">IIII", 0x803, count, 6, 5) + pixels.tobytes()
    (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">II", 0x801, count) + labels.tobytes())
    )


def png(size: tuple[int, int] = (8, 9), shade: int = 0) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", size, (shade, 20, 30)).save(held, "PNG")
    return held.getvalue()


def begun(source: Path | str, folder: Path, **wish: Any) -> Begun:
    """What init makes of a source, its spec written, read again, and taken by all that a run asks of a spec."""
    file = folder / "made by init.yaml"
    found = begin.begin(Wish(str(source), **wish), file=str(file))
    begin.write(found.text, str(file), force=True)
    assert load(file) == found.config
    check(found.config, UP_TO_THE_REPORT)
    units = items(find(found.config.corpus), text_unit=found.config.corpus.text_unit)
    probe([unit for unit in units if unit.split == "corpus"], found.config.corpus)
    return found


def refusal(source: Path | str, **wish: Any) -> str:
    with pytest.raises(InputError) as caught:
        begin.begin(Wish(str(source), **wish), file="spec.yaml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.jsonl.gz", "d.parquet", "d.json"])
def test_the_same_table_gives_the_same_choices_in_every_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("csv"):
        write_csv(path, rows())
    elif "json" in name:
        write_jsonl(path, rows())
    else:
        pq.write_table(pa.Table.from_pylist(rows()), path)
    found = begun(path, tmp_path)
    corpus = found.config.corpus
    assert (corpus.label_column, corpus.feature_columns) == ("kind", ["width", "height"])
    assert (found.found["classes"], found.found["rows"], found.found["bad"]) == (3, 120, 0.0)
    assert found.found["task"] == "numbers"
    assert [spec.kind for spec in found.config.score] == ["difficulty", "consistency", "diversity", "grad_norm"]
    assert found.config.train.baselines == ["random", "full"]


def test_a_tsv_is_read_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text("x\ty\n" + "".join(f"{i}.5\t{CLASSES[i % 3]}\n" for i in range(60)))
    assert begun(path, tmp_path).config.corpus.label_column == "y"


@pytest.mark.parametrize(
    "names", [("kind", "width", "height"), ("width", "kind", "height"), ("width", "height", "kind")]
)
def test_a_label_is_found_first_last_and_between(names: tuple[str, ...], tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", [{name: row[name] for name in names} for row in rows()])
    assert begun(path, tmp_path).config.corpus.label_column == "kind"


def test_a_name_outweighs_place_and_the_other_is_told(tmp_path: Path) -> None:
    table = [{"label": i % 4, "x": i * 0.37, "colour": CLASSES[i % 3], "topic": CLASSES[i % 2]} for i in range(80)]
    found = begun(write_csv(tmp_path / "d.csv", table), tmp_path)
    assert found.config.corpus.label_column == "label"
    assert found.config.corpus.feature_columns == ["x"]
    [note] = [note for note in found.draft.notes if "might also be" in note]
    assert "topic" in note
    assert "might also be" in found.text


def test_whole_numbers_are_classes_and_measured_ones_are_not(tmp_path: Path) -> None:
    table = [{"a": i * 0.5, "b": (i * 7) % 11 / 3, "target": i % 5} for i in range(100)]
    assert begun(write_csv(tmp_path / "d.csv", table), tmp_path).found["classes"] == 5
    regression = [{**row, "target": row["a"] * 1.7} for row in table]
    assert "regression" in refusal(write_csv(tmp_path / "r.csv", regression))


def test_a_label_that_is_named_is_taken_or_the_nearest_is_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", [{"label": i % 2, "x": i * 0.5, "colour": CLASSES[i % 3]} for i in range(60)])
    assert begun(path, tmp_path, label="colour").config.corpus.label_column == "colour"
    assert "did you mean 'colour'?" in refusal(path, label="color")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([{"x": i * 0.5, "label": "same"} for i in range(30)], ["one class only", "--label"]),
        ([{"x": i * 0.5, "z": i * 0.25} for i in range(30)], ["no label found", "--label"]),
        ([{"body": f"{SAYINGS[i % 3]} {i}"} for i in range(30)], ["without labels", "--model"]),
        ([{"x": str(i) if i % 2 else f"w{i}", "label": i % 2} for i in range(60)], ["mixed", "let each column"]),
        ([{"picture": f"images/{i}.png", "label": i % 2} for i in range(60)], ["names image files", "folder"]),
    ],
)
def test_what_cannot_work_is_told_in_one_sentence(
    table: list[dict[str, Any]], words: list[str], tmp_path: Path
) -> None:
    sentence = refusal(write_csv(tmp_path / "d.csv", table))
    assert all(word in sentence for word in words), sentence


def test_a_csv_without_names_is_refused_unless_the_label_is_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", rows(), header=False)
    assert "looks like a row" in refusal(path)
    counted = [{str(place): value for place, value in enumerate(row.values())} for row in rows()]
    found = begun(write_csv(tmp_path / "e.csv", counted), tmp_path)
    assert found.config.corpus.label_column == "2"


def test_semicolons_and_arrays_are_told_with_their_cure(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a;b;label\n" + "".join(f"{i};{i};{i % 2}\n" for i in range(30)))
    assert "';'" in refusal(path)
    path = tmp_path / "d.json"
    path.write_text(json.dumps(rows()))
    assert "jq -c" in refusal(path)


def test_marks_quotes_scripts_and_spaces_do_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "my data, v2"
    folder.mkdir()
    words = ("שלום עולם זה טקסט ארוך מאוד", "مرحبا بالعالم هذا نص طويل", "🎉 many 🎈 emoji 🎊 in a long line")
    table = [{"text": f'{words[i % 3]}\nsecond, "quoted" line {i}', "קטגוריה": CLASSES[i % 3]} for i in range(60)]
    path = write_csv(folder / "a b.csv", table, encoding="utf-8-sig")
    found = begun(path, folder)
    assert (found.config.corpus.text_column, found.config.corpus.label_column) == ("text", "קטגוריה")
    assert (found.found["looked_at"], found.found["bad"], found.found["classes"]) == (60, 0.0, 3)
    assert found.config.name == "a-b"


def test_names_that_would_break_yaml_are_written_so_that_they_do_not(tmp_path: Path) -> None:
    odd = ["yes", "a: b", "# c", "'q\"", "null", "1e3", "- x", "line\u2028break"]
    table = [{**{name: i * 0.5 + n for n, name in enumerate(odd)}, "label": i % 2} for i in range(40)]
    found = begun(write_jsonl(tmp_path / "d.jsonl", table), tmp_path)
    assert found.config.corpus.feature_columns == odd


def test_columns_of_all_kinds_are_told_apart(tmp_path: Path) -> None:
    table = [
        {
            "uuid": f"{i:032x}",
            "made_at": f"2024-01-{i % 28 + 1:02d}T10:00:00",
            "patient": f"p{i // 2}",
            "nothing": None,
            "always": "one",
            "x": i * 0.25,
            "gaps": None if i % 3 else 1.5 * i,
            "label": CLASSES[i % 3],
        }
        for i in range(90)
    ]
    found = begun(write_jsonl(tmp_path / "d.jsonl", table), tmp_path)
    kinds = {column["name"]: column["kind"] for column in found.found["columns"]}
    assert kinds == {
        "uuid": "id",
        "made_at": "time",
        "patient": "category",
        "nothing": "empty",
        "always": "constant",
        "x": "number",
        "gaps": "number",
        "label": "category",
    }
    corpus = found.config.corpus
    assert (corpus.feature_columns, corpus.group_column, corpus.label_column) == (["x"], "patient", "label")
    assert "# id_column: uuid" in found.text
    assert "# time_column: made_at" in found.text
    assert any("gaps" in note for note in found.draft.notes)


def test_lists_and_encoded_images_in_columns(tmp_path: Path) -> None:
    vectors = pa.table({"vector": [[float(i), 1.0, 2.0] for i in range(40)], "label": [i % 2 for i in range(40)]})
    pq.write_table(vectors, tmp_path / "v.parquet")
    found = begun(tmp_path / "v.parquet", tmp_path)
    assert (found.found["task"], found.config.corpus.feature_columns) == ("list", ["vector"])
    images = pa.table({"image": [{"bytes": png(shade=i)} for i in range(40)], "label": [i % 2 for i in range(40)]})
    pq.write_table(images, tmp_path / "i.parquet")
    found = begun(tmp_path / "i.parquet", tmp_path)
    assert (found.config.corpus.image_column, found.config.corpus.image_shape) == ("image", [3, 9, 8])


def test_bytes_that_are_no_images_are_refused(tmp_path: Path) -> None:
    table = pa.table({"blob": [bytes([i, 0, 255]) for i in range(40)], "label": [i % 2 for i in range(40)]})
    pq.write_table(table, tmp_path / "d.parquet")
    assert "'blob' binary" in refusal(tmp_path / "d.parquet")


def test_folders_of_images_are_classes_and_large_ones_are_made_small(tmp_path: Path) -> None:
    for name in ("cat s", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "pets" / name / f"{i}.png").write_bytes(png((200, 100), i))
    found = begun(tmp_path / "pets", tmp_path)
    assert found.config.corpus.label_from_folder
    assert found.config.corpus.image_shape == [3, 32, 32]
    assert (found.found["classes"], found.found["rows"]) == (2, 12)


def test_folders_of_mails_with_other_bytes_are_read_whole(tmp_path: Path) -> None:
    for name in ("ham", "spam"):
        (tmp_path / "mails" / name).mkdir(parents=True)
        for i in range(20):
            line = f"Subject: {name}\n\nfür alle {SAYINGS[i % 3]} {i}\n"
            (tmp_path / "mails" / name / f"{i:03d}.{name}").write_bytes(line.encode("latin-1"))
    found = begun(tmp_path / "mails", tmp_path)
    corpus = found.config.corpus
    assert (corpus.format, corpus.encoding, corpus.label_from_folder) == ("text", "iso8859-1", True)
    assert (found.found["looked_at"], found.found["bad"], found.found["classes"]) == (40, 0.0, 2)


def test_files_beside_the_folders_of_classes_are_no_class(tmp_path: Path) -> None:
    for name in ("ham", "spam"):
        (tmp_path / "mails" / name).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "mails" / name / f"{i}.txt").write_text(f"{SAYINGS[i % 3]} {name} {i}")
    (tmp_path / "mails" / "notes.txt").write_text("how these were collected")
    found = begun(tmp_path / "mails", tmp_path)
    assert (found.found["classes"], found.found["rows"]) == (2, 20)
    assert len(find(found.config.corpus)) == 20


def test_files_in_utf_16_are_read_or_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "in" / name / f"{i}.txt").write_text(f"{SAYINGS[i % 3]} {i}", encoding="utf-16")
    assert begun(tmp_path / "in", tmp_path).config.corpus.encoding == "utf-16"
    assert "UTF-16" in refusal(write_csv(tmp_path / "d.csv", rows(), encoding="utf-16"))


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "d.parquet")
    assert "no readable row" in refusal(tmp_path / "d.parquet")


def test_idx_pairs_and_their_test_split(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 50)
    write_idx(tmp_path, "t10k", 20)
    (tmp_path / "README.md").write_text("about the data")
    found = begun(tmp_path, tmp_path)
    assert found.config.corpus.source == f"{tmp_path}/train-images-idx3-ubyte.gz"
    assert found.config.corpus.test.source == f"{tmp_path}/t10k-images-idx3-ubyte.gz"
    assert (found.found["classes"], found.found["rows"], found.found["task"]) == (4, 50, "image")
    alone = begun(tmp_path / "train-images-idx3-ubyte.gz", tmp_path)
    assert alone.config.corpus.test.source == found.config.corpus.test.source


@pytest.mark.parametrize("layout", ["folders", "files", "many", "beside"])
def test_splits_are_found_where_they_lie(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    parts = {"train": 3 if layout == "many" else 1, "test": 1, "valid": 1}
    for split, count in parts.items():
        for index in range(count):
            name = (
                f"{split}/part.jsonl"
                if layout == "folders"
                else f"{split}-{index}.jsonl"
                if layout == "many"
                else f"{split}.jsonl"
            )
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(root / name, texts())
    found = begun(root / "train.jsonl" if layout == "beside" else root, tmp_path)
    corpus = found.config.corpus
    files = {
        split: sorted(f.path for f in find(corpus) if f.split == split) for split in ("corpus", "test", "validation")
    }
    assert [len(own) for own in files.values()] == [parts["train"], 1, 1]
    assert all("train" in path for path in files["corpus"])
    assert "valid" in files["validation"][0]


def test_a_test_split_without_labels_is_left_out_or_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", rows())
    write_csv(tmp_path / "test.csv", [{name: row[name] for name in ("width", "height")} for row in rows()])
    found = begun(tmp_path / "train.csv", tmp_path)
    assert found.config.corpus.test.source is None
    assert any("no column 'kind'" in note for note in found.draft.notes)
    assert "no column 'kind'" in refusal(tmp_path / "train.csv", test=str(tmp_path / "test.csv"))


def test_of_several_formats_the_commonest_is_read_and_the_rest_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "in" / name / f"{i}.txt").write_text(f"{SAYINGS[i % 3]} {name} {i}")
        write_jsonl(tmp_path / "in" / name / "meta.jsonl", [{"about": name}])
    found = begun(tmp_path / "in", tmp_path)
    assert found.config.corpus.format == "text"
    assert any("2 of jsonl" in note for note in found.draft.notes)


def test_bad_rows_are_told_and_the_budget_covers_them(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    lines = [json.dumps(row) for row in rows()]
    lines[::8] = ["{broken"] * len(lines[::8])
    path.write_text("\n".join(lines) + "\n")
    found = begun(path, tmp_path)
    assert found.found["bad"] == pytest.approx(15 / 120)
    assert found.config.corpus.error_budget > 0.125
    assert any("12.5%" in note for note in found.draft.notes)
    path.write_text("{broken\n" * 90 + "\n".join(lines[1:8]) + "\n")
    assert "cannot be used" in refusal(path)


def test_garbage_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "garbage.bin").write_bytes(bytes(np.random.default_rng(0).integers(0, 255, 4096, np.uint8)))
    assert "no format that is read" in refusal(tmp_path / "garbage.bin")
    (tmp_path / "garbage.parquet").write_bytes(b"not at all parquet")
    assert "no readable row" in refusal(tmp_path / "garbage.parquet")
    (tmp_path / "empty.csv").write_text("")
    assert "no readable row" in refusal(tmp_path / "empty.csv")
    (tmp_path / "void").mkdir()
    assert refusal(tmp_path / "void")
    assert "did you mean" in refusal(tmp_path / "garbage.parquetx")
    assert "user:pw" not in refusal("s3://user:pw@bucket/data")


def test_a_long_file_is_looked_at_all_over_and_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "HEAD_BYTES", 64 << 10)
    monkeypatch.setattr(look, "PIECE_BYTES", 4 << 10)
    table = [{"body": f"{SAYINGS[i % 3]} {'word ' * 20}{i}", "kind": f"class {i // 1000}"} for i in range(9000)]
    found = begun(write_jsonl(tmp_path / "sorted.jsonl", table), tmp_path)
    assert found.found["classes"] == 9
    assert found.found["looked_at"] < 2001
    assert found.found["rows"] == pytest.approx(9000, rel=0.05)
    assert not found.found["rows_exact"]
    quoted = [{"body": f'says "{row["body"]}",\nand more', "kind": f"class {i % 4}"} for i, row in enumerate(table)]
    found = begun(write_csv(tmp_path / "quoted.csv", quoted), tmp_path)
    assert (found.found["bad"], found.found["classes"]) == (0.0, 4)


def test_a_huge_text_does_not_hide_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "in" / name / f"{i}.txt").write_text(f"{SAYINGS[i % 3]} {i}")
    (tmp_path / "in" / "a" / "huge.txt").write_text("word " * (look.DOCUMENT_BYTES // 4))
    found = begun(tmp_path / "in", tmp_path)
    assert (found.found["looked_at"], found.found["rows"]) == (8, 9)


def test_bundled_sets_and_urls(tmp_path: Path) -> None:
    found = begun("builtin://iris", tmp_path)
    assert (found.found["rows"], found.found["classes"], found.config.name) == (150, 3, "iris")
    write_csv(tmp_path / "d.csv", rows())
    handler = partial(_Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = begun(f"http://127.0.0.1:{server.server_address[1]}/d.csv", tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert (found.config.corpus.label_column, found.found["rows"]) == ("kind", 120)


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_splits_in_a_store_are_found_by_its_urls(scheme: str, tmp_path: Path) -> None:
    with s3server.rclone(tmp_path / "s3") as server, using(server):
        for split in ("train", "test"):
            (tmp_path / "s3" / BUCKET / "set" / split).mkdir(parents=True)
            write_jsonl(tmp_path / "s3" / BUCKET / "set" / split / "a b.jsonl", texts())
        found = begun(f"{scheme}://{BUCKET}/set", tmp_path)
        assert found.found["rows"] == 60
        assert str(found.config.corpus.source).endswith(f"://{BUCKET}/set/train")
        assert str(found.config.corpus.test.source).endswith(f"://{BUCKET}/set/test")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return None


def test_a_spec_is_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("name: mine\n")
    with pytest.raises(InputError, match="--force"):
        begin.refuse_existing(str(file))
    with pytest.raises(InputError, match="--force"):
        begin.write("name: new\n", str(file), force=False)
    assert file.read_text() == "name: mine\n"
    begin.write("name: new\n", str(file), force=True)
    assert yaml.safe_load(file.read_text()) == {"name": "new"}


@pytest.mark.parametrize("task", ["text", "image", "list", "numbers", "language", "vectors"])
def test_whatever_is_offered_can_be_taken(task: Task) -> None:
    assert [parse_scorer(yaml.safe_load(offer.line)) for offer in offers(task)]
    assert any(offer.active for offer in offers(task))
    assert Select.model_validate(yaml.safe_load(STRATA)["select"]).strata


def test_the_same_data_give_the_same_spec(tmp_path: Path) -> None:
    write_csv(tmp_path / "d.csv", rows())
    assert begun(tmp_path / "d.csv", tmp_path).text == begun(tmp_path / "d.csv", tmp_path).text
