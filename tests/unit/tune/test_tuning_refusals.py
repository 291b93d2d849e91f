"""A search that a spec cannot give is refused in one sentence, before anything is read and without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydelt.errors import SpecError
from raydelt.tune import search
from tests.flow import spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus__validation": {"fraction": 0.0}}, r"set corpus\.validation\.fraction"),
        ({"rank": {"refine": {"rounds": 2}}}, "drop rank.refine to tune"),
        ({"select": {"plan": "runs/planned"}}, "drop select.plan to tune"),
        (
            {
                "model": {"kind": "causal_lm", "path": "lm"},
                "score": [{"kind": "lm_loss"}, {"kind": "grad_norm"}],
                "rank": {"method": "score", "combine": {"weights": {"loss": 1}, "gate": None}},
                "tune": {"metric": "error"},
            },
            "take loss",
        ),
        ({"train__seeds": [3]}, r"set tune\.final_seeds"),
        ({"train__parallel": "fsdp"}, "set it to ddp to tune"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    raw = {"corpus__validation": {"fraction": 0.2}} | changes
    with pytest.raises(SpecError, match=words):
        search.tune(spec(tmp_path / "nowhere", tmp_path / "run", **raw))
