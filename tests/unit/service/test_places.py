"""Paths of a spec: what the cluster cannot see is refused, the rest arrives as the job can read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydelt.errors import InputError, SpecError
from raydelt.service.places import localise
from raydelt.specfile import validate


def spec(
    source: str | list[str] = "builtin://digits", output: str = "s3://bucket/out", **fields: Any
) -> dict[str, Any]:
    corpus = {"source": source, "label_column": "label"} | fields.pop("corpus", {})
    return validate({"name": "x", "corpus": corpus, "output": output, **fields}).resolved()


def test_urls_built_in_corpora_and_hub_names_stay(tmp_path: Path) -> None:
    language = {"kind": "causal_lm", "path": "some-org/some-model"}
    for plain in (spec(), spec("hf://datasets/x/y.parquet"), spec("s3://b/x.jsonl", model=language)):
        assert localise(plain, folder=tmp_path, shipped=set(), everywhere=False) == plain


def test_what_is_packed_becomes_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "data" / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    shipped = {"data/a.csv", "data/b.csv"}
    for source in ("data", "data/a.csv", "data/*.csv", str(tmp_path / "data")):
        moved = localise(spec(source), folder=tmp_path, shipped=shipped, everywhere=False)
        assert moved["corpus"]["source"] == source.removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize("source", ["data", "data/b.csv", "data/*.csv"])
def test_a_path_of_which_a_part_is_left_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "data" / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"corpus\.source .* is not shipped .*'data/b\.csv'.*--include"):
        localise(spec(source), folder=tmp_path, shipped={"data/a.csv"}, everywhere=False)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"corpus": {"source": "/data/rows.csv"}}, "corpus.source"),
        ({"corpus": {"source": ["s3://b/x.csv", "/data/rows.csv"]}}, "corpus.source.1"),
        ({"corpus": {"test": {"source": "../held.csv"}}}, "corpus.test.source"),
        ({"corpus": {"source": "file:///data/rows.csv"}}, "corpus.source"),
        ({"model": {"kind": "causal_lm", "path": "/models/lm"}}, "model.path"),
        ({"model": {"kind": "causal_lm", "path": ["org/lm", "~/lm"]}}, "model.path.1"),
        ({"model": {"checkpoint": "models/net.safetensors"}, "rank": {"method": "score"}}, "model.checkpoint"),
        ({"encoder": {"path": "./encoder"}}, "encoder.path"),
        ({"score": [{"kind": "excess_loss", "reference": "/models/ref"}]}, "score.0.reference"),
    ],
)
def test_a_path_of_this_machine_is_refused_by_its_field(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    if fields.get("score"):
        fields |= {
            "model": {"kind": "causal_lm", "path": "org/lm"},
            "rank": {"combine": {"weights": {"excess_loss": 1.0}, "gate": None}},
        }
    with pytest.raises(SpecError) as caught:
        localise(spec(**fields), folder=tmp_path, shipped=set(), everywhere=False)
    assert str(caught.value).startswith(f"{field} ")
    assert "this machine only" in str(caught.value)
    assert "--shared" in str(caught.value)


def test_a_local_output_is_refused_even_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"output 'runs/x' would be written on a node of the cluster and lost"):
        localise(spec(output="runs/x"), folder=tmp_path, shipped=set(), everywhere=False)


def test_where_every_node_sees_them_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm").mkdir()
    (tmp_path / "mlp").mkdir()
    language = {"kind": "causal_lm", "path": "lm"}
    moved = localise(spec("data/x.csv", "runs/x", model=language), folder=None, shipped=set(), everywhere=True)
    assert moved["corpus"]["source"] == str(tmp_path / "data/x.csv")
    assert moved["output"] == str(tmp_path / "runs/x")
    assert moved["model"]["path"] == str(tmp_path / "lm")
    assert moved["model"]["network"] == "mlp"


def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        localise(spec("https://me:planted@host/x.csv"), folder=None, shipped=set(), everywhere=True)
    assert "corpus.source" in str(caught.value)
    assert "planted" not in str(caught.value)
