"""Every scorer has a page in docs/scorers with all of its columns, its parameters and their defaults, and a spec.

A spec that has the scorer as the page spells it is accepted by the JSON schema, which refuses what a run would refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from raydelt.lqs.terms import columns_of
from raydelt.scorers.lqs import Distil
from raydelt.scorers.registry import BUILT_IN, config_class
from raydelt.specfile import json_schema
from tests.documents import ROOT, Block, blocks, code_words

PAGES = ROOT / "docs/scorers"
KINDS = sorted(BUILT_IN)
SMALL = {"name": "document", "corpus": {"source": "builtin://digits"}, "output": "runs/document"}


def test_every_scorer_has_a_page_and_every_page_a_scorer() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == KINDS
    listed = (ROOT / "docs/README.md").read_text()
    assert all(f"(scorers/{kind}.md)" in listed for kind in KINDS)


def fragment_of(kind: str) -> dict[str, Any]:
    """The scorer as its page spells it in a spec."""
    found = [spec for block in blocks(PAGES / f"{kind}.md") for spec in _scorers(block) if spec["kind"] == kind]
    assert found, f"docs/scorers/{kind}.md has no spec with the scorer"
    return found[0]


def _scorers(block: Block) -> list[dict[str, Any]]:
    return yaml.safe_load(block.text).get("score", []) if block.language == "yaml" else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_names_every_column(kind: str) -> None:
    columns = config_class(kind).model_validate(fragment_of(kind)).build().columns
    columns += columns_of("lqs") if kind == "lqs" else ()
    missing = set(columns) - set(code_words(PAGES / f"{kind}.md"))
    assert not missing, f"docs/scorers/{kind}.md does not name {missing}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_tells_every_parameter_with_its_default(kind: str) -> None:
    fields = {name: field for name, field in config_class(kind).model_fields.items() if name != "kind"}
    told = dict(parameters(PAGES / f"{kind}.md"))
    assert set(told) == set(fields)
    for name, field in fields.items():
        default = "required" if field.is_required() else field.default
        assert told[name] == default, f"{kind}.{name}: the page says {told[name]!r}, the code {default!r}"


def test_the_page_of_lqs_tells_the_settings_of_its_data_scorer() -> None:
    told = re.search(r"takes, with defaults: (.+?)\.\n\n", (PAGES / "lqs.md").read_text(), re.DOTALL)
    assert told is not None
    pairs = re.findall(r"`(\w+)` (\S+?)(?: \([^)]*\))?(?:,\s|$)", told[1])
    assert {name: yaml.safe_load(_with_a_point(value)) for name, value in pairs} == Distil().model_dump()


def _with_a_point(number: str) -> str:
    """1e-4 as YAML reads a number."""
    return re.sub(r"^(\d)e", r"\1.0e", number)


def parameters(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and default of every row of the table of parameters of a page."""
    table = re.search(r"^\| parameter \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", path.read_text(), re.MULTILINE)
    for row in table[1].splitlines() if table else []:
        name, default, *_ = (cell.strip() for cell in row.strip("|").split(" | "))
        yield name.strip("` |"), yaml.safe_load(default.strip("` "))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_its_sections(kind: str) -> None:
    titles = re.findall(r"^## (.+)$", (PAGES / f"{kind}.md").read_text(), re.MULTILINE)
    assert titles == ["Columns", "Cost", "Parameters", "When it fails", "In a spec", "On real data", "Source"]


def test_the_schema_accepts_what_validates_and_refuses_the_rest() -> None:
    schema = Draft202012Validator(json.loads(json.dumps(json_schema())))
    for kind in KINDS:
        assert schema.is_valid(SMALL | {"score": [fragment_of(kind)]}), kind
    assert schema.is_valid(SMALL)
    for wrong in ({"selct": {}}, {"score": [{"kind": "difficulti"}]}, {"select": {"valeu": 0.5}}, {"seed": "x"}):
        assert not schema.is_valid(SMALL | wrong), wrong
