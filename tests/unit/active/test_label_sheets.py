"""Sheets go out and come back as people and their spreadsheets save them, and labels are never written over."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydelt.active.sheets import check_place, export, read_labels
from raydelt.errors import InputError

ROWS = pa.table({"example_id": ["a1", "b2"], "text": ['a "quoted", text; here\nin two lines', "naïve"]})


def filled(path: Path, label: str = "dog") -> str:
    """The exported sheet with the first label filled in, as text."""
    export(ROWS, str(path))
    return path.read_text().replace('in two lines",""', f'in two lines","{label}"')


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_exported_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "out" / f"round.{suffix}"
    assert export(ROWS, str(path)) == 2
    assert read_labels(str(path)) == [(0, "a1", ""), (1, "b2", "")]
    if suffix == "csv":
        path.write_text(filled(path))
    else:
        table = pq.read_table(path)
        pq.write_table(table.set_column(2, "label", pa.array(["dog", None])), path)
    assert read_labels(str(path)) == [(0, "a1", "dog"), (1, "b2", "")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_sheet_comes_back_as_spreadsheets_save_it(tmp_path: Path, separator: str, end: str, mark: str) -> None:
    path = tmp_path / "saved.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=separator, lineterminator=end)
        writer.writerow(["example_id ", "text", "label", "note", "", ""])
        writer.writerow(["a1", f"one{separator}two", "dog", "sure", "", ""])
        writer.writerow(["", "", "", "", "", ""])
        writer.writerow(["b2", "naïve", "", "", "", ""])
    assert read_labels(str(path)) == [(0, "a1", "dog"), (1, "b2", "")]


def test_pandas_turns_classes_into_numbers_and_they_come_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"example_id": [7, 8], "label": [3, None]})
    table.to_parquet(tmp_path / "p.parquet")
    table.to_csv(tmp_path / "p.csv", index=False)
    assert read_labels(str(tmp_path / "p.parquet")) == [(0, "7", "3"), (1, "8", "")]
    assert read_labels(str(tmp_path / "p.csv")) == [(0, "7", "3.0"), (1, "8", "")]


def test_a_long_text_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "long.csv")
    export(pa.table({"example_id": ["a"], "text": ["word " * 100_000]}), path)
    assert read_labels(path) == [(0, "a", "")]


def test_rows_of_another_length_have_no_label_to_trust(tmp_path: Path) -> None:
    path = tmp_path / "shifted.csv"
    path.write_text("example_id,text,label\na,x, y,cat\nb,x\nc,x,dog\n")
    assert read_labels(str(path)) == [(0, "a", None), (1, "b", None), (2, "c", "dog")]


def test_labels_are_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "round.csv"
    path.write_text(filled(path))
    labelled = path.read_bytes()
    for ask in (lambda: check_place(str(path)), lambda: export(ROWS, str(path))):
        with pytest.raises(InputError, match=r"with labels in it.*absorb"):
            ask()
    (tmp_path / "notes.csv").write_text("mine\n")
    with pytest.raises(InputError, match=r"notes\.csv stands already"):
        check_place(str(tmp_path / "notes.csv"))
    assert (path.read_bytes(), (tmp_path / "notes.csv").read_text()) == (labelled, "mine\n")
    export(ROWS, str(tmp_path / "blank.csv"))
    assert export(ROWS, str(tmp_path / "blank.csv")) == 2


def test_rows_that_cannot_be_exported_are_refused(tmp_path: Path) -> None:
    ids = pa.table({"example_id": ["a"]})
    nested = ids.append_column("x", pa.array([[1.0, 2.0]]))
    labelled = ids.append_column("label", pa.array(["cat"]))
    wrong = [(nested, "a.csv"), (labelled, "a.csv"), (nested.drop_columns("example_id"), "a.csv"), (ids, "a")]
    for rows, name in wrong:
        with pytest.raises(InputError, match=r"a(\.csv)?\b"):
            export(rows, str(tmp_path / name))
    assert export(nested, str(tmp_path / "a.parquet")) == 1
    assert export(ids.slice(0, 0), str(tmp_path / "none.csv")) == 0
    assert read_labels(str(tmp_path / "none.csv")) == []


def test_places_that_cannot_be_written_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for place in (tmp_path / "file" / "a.csv", tmp_path / "folder.csv"):
        with pytest.raises(InputError, match="choose another --out"):
            export(ROWS, str(place))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("other.csv", b"id,label\n1,cat\n"),
        ("twice.csv", b"example_id,label,label\n1,cat,dog\n"),
        ("empty.csv", b""),
        ("quote.csv", b'example_id,label\n1,"cat\n2,dog\n'),
        ("latin.csv", b"example_id,label\n\xff\xfe,cat\n"),
        ("wide.csv", "example_id,label\n1,cat\n".encode("utf-16")),
        ("text.parquet", b"no parquet"),
        ("odd.xlsx", b"PK"),
        ("none.csv", None),
    ],
)
def test_files_that_are_no_answers_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} .*: ") as told:
        read_labels(str(tmp_path / name))
    assert "\n" not in str(told.value)


def test_no_cell_is_a_formula_to_a_spreadsheet_and_every_id_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "round.csv"
    ids = ["=a", "'=a", "''@b", "-c", "'plain", "d=", "\te"]
    texts = ['=HYPERLINK("http://x", "y")', "+1", "-2", "@sum", "\tx", "2 = 2", "'quoted'"]
    export(pa.table({"example_id": ids, "text": texts, "amount": [-1.5] * 7}), str(path))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert not any(row[name][:1] in "=+-@\t\r\n" for row in rows for name in ("example_id", "text") if row[name])
    assert [row["text"] for row in rows[5:]] == texts[5:]
    assert [row["amount"] for row in rows] == ["-1.5"] * 7
    assert [key for _, key, _ in read_labels(str(path))] == ids
