"""More rounds near the cut: only the uncertain examples change, and as they would if all were scored again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydelt import pipeline
from raydelt.errors import SpecError
from raydelt.pipeline import Run
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


def refined(source: Path, output: Path, *, within: float) -> Run:
    combine = {"weights": {"difficulty": 1.0}, "gate": {"component": "consistency", "at_least": 0.5}}
    rank = {"folds": 2, "rounds": 2, "proxy": {"epochs": 10}, "combine": combine}
    return pipeline.execute(
        spec(source, output, rank=rank | {"refine": {"rounds": 2, "within": within}}, select={"value": 0.3}),
        until="selection",
    )


def rows(run: Run, stage: str) -> pa.Table:
    tables = [run.store.read_table(part.file) for part in run.manifests[stage].parts]
    return pa.concat_tables(tables).sort_by("example_id")


def test_only_uncertain_examples_are_scored_again_and_just_as_all_would_be(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", rows=400)
    near = refined(source, tmp_path / "near", within=1.0)
    everything = refined(source, tmp_path / "all", within=1e9)
    before, after, whole = rows(near, "scores"), rows(near, "refined"), rows(everything, "refined")
    changed = before["difficulty"].to_numpy() != after["difficulty"].to_numpy()
    assert 0 < near.manifests["rescored"].rows < everything.manifests["rescored"].rows <= before.num_rows
    assert changed.sum() <= near.manifests["rescored"].rows
    assert after["diversity"].equals(before["diversity"])
    same = pa.array(changed)
    for name in ("difficulty", "difficulty_se", "grad_norm", "consistency"):
        assert after[name].filter(same).equals(whole[name].filter(same))
        assert after[name].filter(pa.array(~changed)).equals(before[name].filter(pa.array(~changed)))
    ranked = rows(near, "ranking")
    assert ranked.num_rows == before.num_rows
    assert np.isfinite(ranked["score"].to_numpy()).all()


def test_the_result_does_not_depend_on_the_files_of_the_corpus(tmp_path: Path) -> None:
    one = refined(write_digits(tmp_path / "one", rows=400), tmp_path / "a", within=1.0)
    three = refined(write_digits(tmp_path / "three", rows=400, files=3, shuffle=1), tmp_path / "b", within=1.0)
    assert rows(one, "refined").equals(rows(three, "refined"))


def test_refining_needs_a_scorer_with_rounds(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no scorer of this spec has any"):
        pipeline.execute(
            spec(
                write_digits(tmp_path / "digits", rows=40),
                tmp_path / "run",
                score=[{"kind": "diversity"}],
                rank={"refine": {"rounds": 2}, "combine": {"weights": {"diversity": 1.0}, "gate": None}},
            )
        )
