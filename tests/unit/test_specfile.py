"""A wrong spec gets one sentence that names field, value and cure; a right one resolves to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raydelt.errors import SpecError
from raydelt.specfile import json_schema, load, validate

LEAST: dict[str, Any] = {"name": "a", "corpus": {"source": "builtin://digits"}, "output": "runs/a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selct": {}}, "selct: unknown key: did you mean 'select'?"),
        ({"rank": {"fold": 3}}, "rank.fold: unknown key: did you mean 'folds'?"),
        ({"train": {"recipe": {"lrr": 1}}}, "train.recipe.lrr: unknown key: did you mean 'lr'?"),
        ({"select": {"value": 0}}, "value 0.0 must lie in (0, 1] when method is ratio, for example 0.3"),
        ({"select": {"value": 1.01}}, "value 1.01 must lie in (0, 1] when method is ratio, for example 0.3"),
        ({"select": {"method": "top_k", "value": 2.5}}, "value 2.5 must be a whole number"),
        ({"select": {"method": "top_k", "value": 0}}, "value 0.0 must be a whole number of at least 1"),
        ({"select": {"method": "threshold", "value": 1, "quotas": {}}}, "quotas need method ratio or top_k"),
        ({"score": [{"kind": "dificulty"}]}, "unknown scorer kind 'dificulty': did you mean 'difficulty'?"),
        ({"score": []}, "needs at least one scorer"),
        ({"score": [{"kind": "difficulty"}, {"kind": "difficulty"}]}, "no column twice"),
        ({"score": [{"kind": "no.such.module:Scorer"}]}, "cannot be loaded"),
        ({"rank": {"folds": 1}}, "rank.folds"),
        ({"rank": {"combine": {"weights": {"difficult": 1}}}}, "did you mean 'difficulty'?"),
        ({"rank": {"combine": {"weights": {"difficulty": -1}}}}, "rank.combine.weights.difficulty"),
        ({"rank": {"combine": {"weights": {}}}}, "needs at least one component with a weight above 0"),
        ({"rank": {"combine": {"gate": {"component": "x"}}}}, "rank.combine.gate.component: no scorer"),
        ({"order": {"method": "segment", "layers": 3}}, "order: layers is for folding, zigzag, stair, saw: drop it"),
        ({"order": {"sections": 2}}, "order: sections is for stair, saw: drop it, or choose one of these methods"),
        ({"order": {"method": "sorted", "front": 0.1}}, "order: front is for segment: drop it"),
        ({"order": {"method": "segment", "front": 0.6, "back": 0.5}}, "let them add up to at most 1"),
        ({"order": {"method": "saw", "sections": 1}}, "order.sections"),
        ({"order": {"method": "stair", "reach": 0.6}}, "order.reach"),
        ({"order": {"window": 0}}, "order.window"),
        ({"train": {"workers": 64}}, "workers 64 is more than recipe.batch_size 32"),
        ({"train": {"seeds": [1, 1]}}, "train.seeds: needs at least one seed, each once"),
        ({"train": {"recipe": {"steps": 5, "epochs": 5}}}, "give either `epochs` or `steps`, not both"),
        ({"train": {"recipe": {"lr": float("nan")}}}, "train.recipe.lr"),
        ({"model": {"kind": "torch"}}, "`kind: torch` and `factory: module:function` go together"),
        ({"model": {"kind": "torch", "factory": "x"}}, "must read `module:function`"),
        ({"cluster": {"actors": {"min": 3, "max": 2}}}, "max 2 is below min 3"),
        ({"name": "../x"}, "name"),
        ({"corpus": {}}, "corpus: source is missing: add it"),
        ({"select": {"sample": {}}}, "select.sample.method: missing: add it to the spec"),
        (
            {"corpus": {"source": "a", "test": {"fraction": 0.6}, "validation": {"fraction": 0.5}}},
            "nothing to train on",
        ),
        ({"corpus": {"source": "a", "test": {"fraction": 0.6, "source": "b"}}}, "either `fraction` or `source`"),
        ({"corpus": {"source": "a", "classes": ["1", "1"]}}, "two different class names"),
        ({"corpus": {"source": "a", "text_column": "t", "image_column": "i"}}, "exclude each other"),
        ({"corpus": {"source": "a", "label_column": "y", "label_from_folder": True}}, "exclude each other"),
    ],
)
def test_a_wrong_field_is_named_with_its_cure(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        validate(LEAST | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_resolved_spec_validates_to_itself() -> None:
    config = validate(LEAST)
    assert validate(config.resolved()) == config


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("folding", {"layers": 3}),
        ("zigzag", {"layers": 5}),
        ("segment", {"front": 0.1, "back": 0.1}),
        ("stair", {"layers": 3, "sections": 2, "reach": 0.225}),
        ("saw", {"layers": 2, "sections": 3, "reach": 0.075}),
        ("sorted", {}),
        ("shuffled", {}),
    ],
)
def test_an_order_is_filled_in_with_the_options_of_its_method(method: str, options: dict[str, float]) -> None:
    config = validate(LEAST | {"order": {"method": method}})
    rest = {"method": method, "window": 1, "descending": False, "later_epochs": "shuffled"}
    assert config.order.model_dump(exclude_none=True) == rest | options
    assert validate(config.resolved()) == config


def test_another_method_keeps_the_layers_that_the_spec_names(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(LEAST | {"order": {"method": "folding", "layers": 3}}))
    order = load(spec, ["order.method=zigzag"]).order
    assert (order.method, order.layers) == ("zigzag", 3)


def test_the_quickstart_is_valid() -> None:
    assert load("jobs/quickstart.yaml").name == "digits-quickstart"


def test_overrides_reach_nested_fields_and_list_entries(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(LEAST | {"score": [{"kind": "difficulty"}, {"kind": "consistency"}]}))
    config = load(spec, ["select.value=0.5", "score.1.variants=7", "corpus.noise.fraction=0.2", "train.seeds=[4, 5]"])
    assert (config.select.value, config.train.seeds) == (0.5, [4, 5])
    assert config.score[1].model_dump()["variants"] == 7
    assert config.corpus.noise is not None
    assert config.corpus.noise.fraction == 0.2


@pytest.mark.parametrize(
    "override", ["select.value", "=3", "name.x=3", "score.9.kind=difficulty", "select.value=[1", "select.valu=0.5"]
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(LEAST | {"score": [{"kind": "difficulty"}, {"kind": "consistency"}]}))
    with pytest.raises(SpecError):
        load(spec, [override])


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [", "just words", "name: a\n\tb: c"])
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, text: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    with pytest.raises(SpecError, match=r"spec\.yaml"):
        load(spec)


def test_a_missing_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist: check the path"):
        load(tmp_path / "none.yaml")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(SpecError, match="not valid YAML"):
        load(spec)


def test_the_json_schema_knows_every_section_and_scorer() -> None:
    schema = json_schema()
    assert set(LEAST) <= set(schema["properties"])
    assert "score_consistency" in schema["$defs"]
    assert {"zigzag", "saw"} <= set(schema["$defs"]["Order"]["properties"]["method"]["enum"])
