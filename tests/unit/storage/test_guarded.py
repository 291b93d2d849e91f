"""Whoever has lost its lease publishes nothing over what the next holder has published."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raydelt.errors import InputError
from raydelt.storage import Manifest, Stage, Store, guarded, read_manifest
from raydelt.storage.lease import held


def published(run: Store, fingerprint: str) -> Manifest:
    stage = Stage(run, "scores", fingerprint)
    return stage.publish([run.write_table(stage.file("part", 0), pa.table({"of": [fingerprint]}))], {})


def test_a_late_holder_is_stopped_before_its_next_publication(tmp_path: Path) -> None:
    run = Store(str(tmp_path))
    with held(run, "work", owner="late", seconds=60) as fence, guarded(fence.check):
        published(run, "a" * 32)
        fence.store.create_only("00000002", b"{}")
        theirs = published_by_the_next(run)
        with pytest.raises(InputError, match="was taken over"):
            published(run, "c" * 32)
    assert read_manifest(run, "scores") == theirs
    assert run.exists(theirs.parts[0].file)
    assert published(run, "d" * 32).fingerprint == "d" * 32, "nothing is asked outside the context"


def published_by_the_next(run: Store) -> Manifest:
    """What another process publishes: it has a context of its own."""
    from contextvars import Context

    return Context().run(published, run, "b" * 32)
