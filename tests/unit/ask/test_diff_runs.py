"""What differs between two runs, against sets, scipy and the settings that were changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from raydelt.ask.diff import diff
from raydelt.ask.run import Run
from raydelt.ask.spec_diff import spec_differences
from raydelt.errors import InputError
from tests.asked import CLASSES, Asked, Made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    folder = tmp_path_factory.mktemp("asked")
    one = Asked(rows=1200).make(folder / "one")
    return one, Asked(rows=1200, parts=5, seed=1, share=0.3, weights={"difficulty": 0.5, "diversity": 0.5}).make(
        folder / "two"
    )


def test_overlap_churn_and_agreement(pair: tuple[Made, Made]) -> None:
    one, two = pair
    found = diff(Run.open(one.store.root), Run.open(two.store.root))
    assert found["selection"]["both"] == len(one.kept & two.kept)
    assert found["selection"]["dropped"] == len(one.kept - two.kept)
    assert found["selection"]["new"] == len(two.kept - one.kept)
    assert found["selection"]["jaccard"] == len(one.kept & two.kept) / len(one.kept | two.kept)
    ranks = [dict(zip(own.ranking["example_id"].to_pylist(), range(10**6), strict=False)) for own in pair]
    common = sorted(ranks[0].keys() & ranks[1].keys())
    assert found["common"] == len(common)
    rho = spearmanr(*([own[name] for name in common] for own in ranks)).statistic
    assert found["spearman"] == pytest.approx(rho, abs=1e-12)
    for kind, column in (("classes", "label"), ("sources", "source_file")):
        values = dict(zip(two.all["example_id"].to_pylist(), two.all[column].to_pylist(), strict=True))
        new: dict[str, int] = {}
        for name in two.kept - one.kept:
            key = CLASSES[values[name]] if kind == "classes" else values[name]
            new[key] = new.get(key, 0) + 1
        assert {name: own["new"] for name, own in found[kind].items()} == new


def test_what_moved_most_and_which_component_moved_it(pair: tuple[Made, Made]) -> None:
    one, two = pair
    found = diff(Run.open(one.store.root), Run.open(two.store.root))
    ids = [own.ranking["example_id"].to_pylist() for own in pair]
    common = set(ids[0]) & set(ids[1])
    place = [{name: i for i, name in enumerate(n for n in own if n in common)} for own in ids]
    change = {name: 100 * (place[1][name] - place[0][name]) / len(common) for name in common}
    most = sorted(abs(own) for own in change.values())[-10:][::-1]
    assert [abs(own["percentile_change"]) for own in found["moved"]] == pytest.approx(most)
    for own in found["moved"]:
        assert own["percentile_change"] == pytest.approx(change[own["id"]])
        assert own["kept_a"] == (own["id"] in one.kept)
        assert own["kept_b"] == (own["id"] in two.kept)
        assert own["moved_by"] == "gate of consistency" or abs(own["shifts"][own["moved_by"]]) == max(
            map(abs, own["shifts"].values())
        )
    by_name = {own["name"]: own for own in found["components"]}
    assert by_name["diversity"]["weight_b"] == 0.5
    assert found["moved_by"] == max(by_name, key=lambda name: by_name[name]["weighted_change"])


def test_a_run_does_not_differ_from_itself(pair: tuple[Made, Made]) -> None:
    run = Run.open(pair[0].store.root)
    found = diff(run, run)
    assert (found["spearman"], found["selection"]["jaccard"], found["moved"]) == (1.0, 1.0, [])
    assert (found["spec"], found["versions"], found["moved_by"]) == ([], {}, None)
    assert all(own["same_rows"] and own["same_inputs"] for own in found["stages"].values())


def test_specs_differ_field_by_field(pair: tuple[Made, Made]) -> None:
    fields = {own["field"]: (own["a"], own["b"]) for own in spec_differences(*(own.config.resolved() for own in pair))}
    assert fields == {
        "rank.combine.weights.difficulty": (1.0, 0.5),
        "rank.combine.weights.diversity": ("(absent)", 0.5),
        "select.value": (0.4, 0.3),
    }


def test_runs_of_other_corpora_have_nothing_to_compare(pair: tuple[Made, Made], tmp_path: Path) -> None:
    other = Asked(rows=50).make(tmp_path / "other")
    manifest = other.manifests["ranking"]
    for part in manifest.parts:
        table = other.store.read_table(part.file)
        names = np.char.add(np.asarray(table["example_id"].to_pylist(), str), "-other")
        other.store.write_table(part.file, table.set_column(0, "example_id", [names.tolist()]))
    with pytest.raises(InputError, match="no example in common"):
        diff(Run.open(pair[0].store.root), Run.open(other.store.root))
