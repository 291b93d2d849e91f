"""Old versions go, never those that readers may be in; an unfinished one is not touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raydelt.config.rescore import Rescore
from raydelt.rescore import versions
from raydelt.storage import Store
from raydelt.storage.lease import held


def test_the_newest_stay_and_the_unfinished_one_too(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    with held(run, "rescore", owner="test", seconds=60) as fence:
        for number in range(1, 6):
            versions.begin(run, number).write_json("spec.json", {})
            versions.publish(run, number, fence)
            versions.prune(run, keep=2)
            assert versions.known(run) == [max(1, number - 1), number][-min(number, 2) :]
        versions.begin(run, 6).write_json("spec.json", {})
        assert versions.prune(run, keep=2) == []
    assert versions.known(run) == [4, 5, 6]
    assert versions.current(run).number == 5


def test_the_version_before_the_current_one_always_stays() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Rescore(versions=1)
