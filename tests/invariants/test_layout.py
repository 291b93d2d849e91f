"""The same examples give the same bytes, however they are cut into files, shuffled, and shared among actors."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydelt import pipeline
from tests.flow import digests, spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def reference(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("reference")
    pipeline.execute(spec(write_digits(folder / "in"), folder / "out"), until="ordered")
    return digests(folder / "out")


@pytest.mark.parametrize(("files", "shuffle"), [(2, None), (7, None), (7, 1)])
def test_bytes_do_not_depend_on_files_blocks_or_row_order(
    reference: dict[str, list[str]], tmp_path: Path, files: int, shuffle: int | None
) -> None:
    source = write_digits(tmp_path / "in", files=files, shuffle=shuffle)
    pipeline.execute(spec(source, tmp_path / "out"), until="ordered")
    assert digests(tmp_path / "out") == reference


@pytest.mark.parametrize("actors", [{"min": 1, "max": 1}, {"min": 3, "max": 3}])
def test_bytes_do_not_depend_on_the_number_of_actors(
    reference: dict[str, list[str]], tmp_path: Path, actors: dict[str, int]
) -> None:
    source = write_digits(tmp_path / "in", files=3)
    pipeline.execute(spec(source, tmp_path / "out", cluster={"actors": actors}), until="ordered")
    assert digests(tmp_path / "out") == reference


def test_another_seed_gives_another_selection(reference: dict[str, list[str]], tmp_path: Path) -> None:
    pipeline.execute(spec(write_digits(tmp_path / "in"), tmp_path / "out", seed=6), until="ordered")
    assert digests(tmp_path / "out")["selection"] != reference["selection"]
