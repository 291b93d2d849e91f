"""`--since` only spares the opening of files that look the same and are old, and only where that changes nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydelt.config import RunConfig
from raydelt.corpus.sources import find
from raydelt.errors import SpecError
from raydelt.rescore.begun import made_of
from raydelt.rescore.since import since, unopened
from raydelt.storage import Manifest
from tests.flow import spec, write_digits

NOW = 1_800_000_000.0
CORPUS = Manifest("corpus", "c", [], facts={"duplicates": 0, "overlap": 0, "quarantined": 0})


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = spec(write_digits(tmp_path / "in", files=3, rows=60), tmp_path / "run")
    for file in (tmp_path / "in").iterdir():
        os.utime(file, (1000, 1000))
    return config


def told(config: RunConfig) -> dict[str, Any]:
    return made_of(config, fitted="keep")


def names(found: frozenset[str]) -> list[str]:
    return sorted(Path(path).name for path in found)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - 90),
        ("12h", NOW - 12 * 3600),
        ("1.5d", NOW - 1.5 * 86_400),
        ("2w", NOW - 14 * 86_400),
        ("2026-01-31", 1_769_817_600.0),
        ("2026-01-31T06:00+01:00", 1_769_835_600.0),
        ("2026-01-31T05:00:00Z", 1_769_835_600.0),
    ],
)
def test_a_time_is_a_date_or_a_duration(text: str, moment: float) -> None:
    assert since(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-3d", "7 days", "2026-13-01", "d", "2030-01-01"])
def test_what_is_no_past_time_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--since"):
        since(text, now=NOW)


def test_old_files_that_look_the_same_are_not_opened(config: RunConfig, tmp_path: Path) -> None:
    before = told(config)
    assert names(unopened(config, before, CORPUS, 2000)) == [f"digits-{i}.parquet" for i in range(3)]
    assert not unopened(config, before, CORPUS, 1000)
    os.utime(tmp_path / "in" / "digits-0.parquet", (1500, 1500))
    assert "digits-0.parquet" not in names(unopened(config, before, CORPUS, 2000)), "another mark"
    (tmp_path / "in" / "digits-9.parquet").write_bytes((tmp_path / "in" / "digits-1.parquet").read_bytes())
    os.utime(tmp_path / "in" / "digits-9.parquet", (1000, 1000))
    assert "digits-9.parquet" not in names(unopened(config, before, CORPUS, 2000)), "new, however old"


def test_all_are_opened_where_the_version_before_does_not_say_it_all(config: RunConfig, tmp_path: Path) -> None:
    before, moment = told(config), 2000.0
    assert unopened(config, before, CORPUS, moment)
    assert not unopened(config, None, CORPUS, moment)
    other = config.model_copy(update={"corpus": config.corpus.model_copy(update={"label_column": "other"})})
    assert not unopened(other, before, CORPUS, moment)
    kept = config.model_copy(update={"corpus": config.corpus.model_copy(update={"duplicates": "keep"})})
    assert not unopened(kept, told(kept), CORPUS, moment)
    doubled = replace(CORPUS, facts=CORPUS.facts | {"duplicates": 3})
    assert unopened(config, before, doubled, moment), "all rows that stand for others are still there"
    (tmp_path / "in" / "digits-2.parquet").unlink()
    assert unopened(config, before, CORPUS, moment)
    assert not unopened(config, before, doubled, moment), "the row that stood for others may be gone"


def test_a_file_says_when_it_was_changed(config: RunConfig) -> None:
    assert {file.modified for file in find(config.corpus)} == {1000.0}
