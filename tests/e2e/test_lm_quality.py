"""The job of the mixed corpus as a user runs it, on documents whose source nobody told it. Slow (`make assets`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from raydelt.specfile import load
from tests import graded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not graded.CORPUS.exists(), reason="no graded corpus: run `make assets`"),
]


def test_the_job_prefers_prose_like_its_target_and_goes_on_where_it_was(tmp_path: Path) -> None:
    from tests.bench.lm_quality import BAD, SPEC, scored, separation

    # A sixth of the corpus, for time; which, a hash of the id says.
    options = [f"output={tmp_path / 'out'}", "corpus.test.fraction=0.83"]
    command = [sys.executable, "-m", "raydelt", "order", SPEC, "--json"]
    for option in options:
        command += ["-o", option]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "visited steps" in done.stderr
    result = json.loads(done.stdout)
    assert result
    found = scored(load(SPEC, options))
    assert set(found["source"]) == set(graded.GRADES)
    assert separation(found, "lqs", BAD) >= 0.95
    for other in ("low loss", "low perplexity"):
        assert separation(found, "lqs", BAD) > separation(found, other, BAD)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stderr.count("up to date") >= 5
    kept = pd.concat([pd.read_parquet(file) for file in (tmp_path / "out" / "selection").glob("part-*.parquet")])
    assert len(kept) == result["kept"] if "kept" in result else len(kept) > 0
