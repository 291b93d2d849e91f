"""The protocol refuses what it could not measure before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from raydelt.errors import SpecError
from raydelt.specfile import validate
from raydelt.valuation.measures import check


@pytest.mark.parametrize(
    ("match", "corpus"),
    [
        (r"set corpus\.label_column", {"source": "data.csv"}),
        (r"corpus\.test\.fraction", {"source": "data.csv", "label_column": "y", "test": {"fraction": 0}}),
    ],
)
def test_a_spec_that_cannot_be_measured_is_refused(match: str, corpus: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=match):
        check(validate({"name": "x", "corpus": corpus, "output": "x"}))


def test_labels_and_a_test_split_are_enough() -> None:
    own: dict[str, Any] = {"source": "d.csv", "label_column": "y", "test": {"source": "t.csv"}}
    for corpus in (own, {"source": "builtin://digits"}):
        check(validate({"name": "x", "corpus": corpus, "output": "x"}))
