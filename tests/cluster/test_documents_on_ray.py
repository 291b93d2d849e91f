"""The Python blocks of README and docs/ that read a run or start one, in a folder with a small run and its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydelt import pipeline
from tests import documents
from tests.flow import spec, write_digits

BLOCKS = [block for block in documents.all_blocks() if block.note == documents.ON_RAY]


@pytest.fixture(scope="module")
def workplace(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    digits = write_digits(folder / "data/digits", rows=300)
    pair = [{"kind": "difficulty"}, {"kind": "consistency"}]
    run = spec(digits, folder / "runs/digits-quickstart", score=pair, rank__rounds=1)
    pipeline.execute(run, until="ordered")
    return folder


def test_there_are_such_blocks() -> None:
    assert {block.path for block in BLOCKS} >= {"docs/ask.md"}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_that_needs_a_run_works(
    block: documents.Block, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, object] = {}
    exec(compile(block.text, str(block), "exec"), names)
    assert names["run"].scores().num_rows > 200  # type: ignore[attr-defined]
