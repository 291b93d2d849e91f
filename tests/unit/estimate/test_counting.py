"""How many rows there are, and specs of trials that the flow accepts; bad input told in one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from raydelt.config import Corpus, RunConfig
from raydelt.corpus.sources import find, items
from raydelt.errors import InputError, SpecError
from raydelt.estimate import answer, sample
from raydelt.estimate.prices import load, price
from raydelt.estimate.requests import requests
from raydelt.estimate.sample import count_rows, trial_spec
from raydelt.specfile import validate
from tests.flow import spec, write_digits


def rows_of(config: RunConfig) -> int:
    return count_rows(config.corpus, items(find(config.corpus), text_unit=config.corpus.text_unit))


def documents(source: Path, **changes: Any) -> RunConfig:
    raw = {"source": str(source), "text_column": "text", "label_column": "label"} | changes
    return validate({"name": "count", "corpus": raw, "output": str(source.parent / "out")})


def write_lines(path: Path, rows: int) -> None:
    lines = "".join(json.dumps({"text": f"line {row:06d}", "label": row % 2}) + "\n" for row in range(rows))
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def test_rows_of_parquet_files_are_counted_exactly(tmp_path: Path) -> None:
    write_digits(tmp_path / "in", files=3, rows=601)
    assert rows_of(spec(tmp_path / "in", tmp_path / "out")) == 601


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_lines_of_small_files_are_counted_exactly(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        write_lines(tmp_path / "in" / f"{index}.{suffix}", 100 + index)
    assert rows_of(documents(tmp_path / "in")) == 303


def test_the_rows_of_a_large_file_follow_from_a_part_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "COUNTED_BYTES", 1 << 20)
    write_lines(tmp_path / "large.jsonl", 200_000)
    assert (tmp_path / "large.jsonl").stat().st_size > 4 << 20
    assert rows_of(documents(tmp_path / "large.jsonl")) == pytest.approx(200_000, rel=0.01)


def test_the_header_of_a_csv_file_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,label\na,0\nb,1\n")
    assert rows_of(documents(tmp_path / "in.csv")) == 2


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no row"):
        rows_of(documents(tmp_path / "in.jsonl"))


@pytest.mark.parametrize("rows", [256, 900, 1797])
def test_what_does_not_shrink_with_the_corpus_is_cut_by_the_same_share(tmp_path: Path, rows: int) -> None:
    config = spec("builtin://digits", tmp_path / "out", corpus=Corpus(source="builtin://digits").model_dump())
    own = trial_spec(config, rows=rows, total=1797, output=str(tmp_path / "trial"))
    assert own.output == str(tmp_path / "trial")
    assert own.corpus.limit == (None if rows == 1797 else rows)
    assert own.train.recipe.steps == max(20, round(60 * rows / 1797))
    assert own.train.seeds == config.train.seeds
    kept = {"output", "corpus", "train", "rank"}
    assert own.model_dump(exclude=kept) == config.model_dump(exclude=kept)


def test_a_trajectory_is_shorter_and_denser_in_a_trial(tmp_path: Path) -> None:
    scorer = {"kind": "lqs", "steps": 30, "interval": 5, "target_limit": 300, "annotate": {"proxy": 1000}}
    config = validate(
        {
            "name": "walk",
            "corpus": {"source": "x.jsonl", "text_column": "text", "validation": {"fraction": 0.1}},
            "model": {"kind": "causal_lm", "path": "lm"},
            "score": [scorer],
            "rank": {"method": "score", "combine": {"weights": {"lqs": 1.0}, "gate": None}},
            "output": str(tmp_path),
        }
    )
    found = []
    for rows in (80, 320, 2000, 8000):
        [own] = trial_spec(config, rows=rows, total=8000, output="x").score
        found.append((own.interval, own.steps, own.target_limit, own.annotate.proxy))  # type: ignore[attr-defined]
    assert found == [(1, 2, 256, 20), (3, 6, 256, 40), (5, 15, 256, 250), (5, 30, 300, 1000)]


@pytest.mark.parametrize("seconds", [0.0, -3.0, float("nan")])
def test_no_time_at_all_is_refused(tmp_path: Path, seconds: float) -> None:
    write_digits(tmp_path / "in", rows=100)
    with pytest.raises(SpecError, match="leaves no time"):
        answer.estimate(spec(tmp_path / "in", tmp_path / "out"), until="report", seconds=seconds)
    assert not (tmp_path / "out").exists()


def test_every_price_has_a_date_and_a_note() -> None:
    for cloud in load().values():
        assert cloud.date.year >= 2025
        assert "check yours" in cloud.note


def test_the_users_prices_replace_the_list(tmp_path: Path) -> None:
    table = {
        "own": {
            "date": "2026-01-01",
            "region": "cellar",
            "storage": {"gb_month": 0.5, "put_1000": 2.0, "get_1000": 1.0},
            "instances": [
                {"name": "small", "cpus": 4, "memory_gib": 16, "per_hour": 1.0},
                {"name": "gpu", "cpus": 8, "gpus": 2, "memory_gib": 64, "per_hour": 10.0},
            ],
        }
    }
    (tmp_path / "prices.yaml").write_text(json.dumps(table))
    clouds = load(str(tmp_path / "prices.yaml"))
    asked = {"put": 3000, "get": 500, "list": 1000}
    job = {"seconds": 7200.0, "disk": 3e9, "requests": asked}
    [own] = price(clouds, cpus=10, gpus=0, memory=1e9, **job)  # type: ignore[arg-type]
    assert (own["instance"], own["machines"], own["compute"]) == ("small", 3, 6.0)
    assert own["storage_month"] == pytest.approx(1.5)
    assert own["requests"] == pytest.approx(4 * 2.0 + 0.5 * 1.0)
    [gpu] = price(clouds, cpus=10, gpus=4, memory=1e9, **job)  # type: ignore[arg-type]
    assert (gpu["instance"], gpu["machines"], gpu["compute"]) == ("gpu", 2, 40.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "own: {date: 2026-01-01, region: a, storage: {gb_month: 1, put_1000: 1, get_1000: 1}, instances: []}",
            "own.ins",
        ),
        ("own: {region: a}", "own.date"),
        ("[1, 2]", "must map"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_price_file_is_told_by_its_field(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as told:
        load(str(tmp_path / "prices.yaml"))
    assert "\n" not in str(told.value)


def test_requests_count_what_lies_in_an_object_store_only() -> None:
    files = {"corpus": 10, "scores": 10}
    assert requests(files, sources=5, remote_source=False, remote_output=False) == {"put": 0, "get": 0, "list": 0}
    own = requests(files, sources=2500, remote_source=True, remote_output=True)
    assert own == {"put": 20 + 4, "get": 3 * (30 + 20) + 3 * 2500, "list": 2 + 3}
