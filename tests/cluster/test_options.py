"""Options of a spec do what they say, end to end."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from raydelt import pipeline
from raydelt.errors import InputError, SpecError
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_trained_model_scores_without_folding_sort(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    train = {"recipe": {"steps": 200}, "seeds": [0], "baselines": []}
    hash_only = {"combine": {"weights": {"hash": 1.0}, "gate": None}}
    first = spec(source, tmp_path / "first", score=[{"kind": "tests.plugins:HashConfig"}], rank=hash_only, train=train)
    pipeline.execute(first)
    model = {"network": "logistic", "checkpoint": str(tmp_path / "first" / "model")}
    run = pipeline.execute(spec(source, tmp_path / "second", model=model, rank={"method": "score"}), until="ranking")
    assert "proxies" not in run.manifests
    scores = table(tmp_path / "second", "scores")
    assert "difficulty" in scores.column_names
    assert "difficulty_se" not in scores.column_names
    assert table(tmp_path / "second", "ranking")["score_se"].null_count == scores.num_rows
    # The checkpoint knows most of these digits: it must find them easier than a coin would.
    assert np.median(scores["difficulty"].to_numpy()) < 0.5

    other = {"network": "mlp", "checkpoint": str(tmp_path / "first" / "model")}
    third = spec(source, tmp_path / "third", model=other, rank={"method": "score"})
    with pytest.raises(InputError, match=r"does not fit the model of the spec"):
        pipeline.execute(third, until="scores")


def test_class_quotas_are_met_exactly_by_the_highest_of_each_class(tmp_path: Path) -> None:
    config = spec(
        write_digits(tmp_path / "in"),
        tmp_path / "out",
        score=[{"kind": "tests.plugins:HashConfig"}],
        rank={"combine": {"weights": {"hash": 1.0}, "gate": None}},
        select={"method": "top_k", "value": 100, "quotas": {"share": "balanced"}},
    )
    pipeline.execute(config, until="selection")
    ranking = table(tmp_path / "out", "ranking").to_pandas()
    kept = set(table(tmp_path / "out", "selection")["example_id"].to_pylist())
    ranking["kept"] = ranking["example_id"].isin(kept)
    assert ranking.groupby("label")["kept"].sum().tolist() == [10] * 10
    for _, group in ranking.groupby("label"):
        assert group[group["kept"]]["rank"].min() > group[~group["kept"]]["rank"].max()


def test_what_fails_the_gate_is_kept_only_to_fill_the_budget_and_says_so(tmp_path: Path) -> None:
    run = pipeline.execute(
        spec(write_digits(tmp_path / "in"), tmp_path / "out", select={"value": 1.0}), until="selection"
    )
    ranking = table(tmp_path / "out", "ranking").to_pandas()
    selection = table(tmp_path / "out", "selection").to_pandas().set_index("example_id")
    failing = ranking[~ranking["gate"]]
    assert 0 < len(failing) == run.manifests["ranking"].facts["gated_out"]
    assert failing["rank"].max() < ranking[ranking["gate"]]["rank"].min()
    assert selection.loc[failing["example_id"], "reason"].str.endswith("though below the gate").all()
    assert run.manifests["selection"].facts["below_gate"] == len(failing)


def test_weights_reach_the_ranking_without_scoring_again(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", rows=300)
    pipeline.execute(spec(source, tmp_path / "out"), until="ranking")
    combine = {"weights": {"diversity": 1.0}, "gate": None, "normalise": "raw"}
    run = pipeline.execute(spec(source, tmp_path / "out", rank__combine=combine), until="ranking")
    assert [name for name, fresh in run.fresh.items() if fresh] == ["ranking"]
    scores = table(tmp_path / "out", "scores").to_pandas().set_index("example_id")["diversity"]
    ranking = table(tmp_path / "out", "ranking").to_pandas()
    assert ranking["score"].tolist() == pytest.approx(scores.loc[ranking["example_id"]].tolist())
    assert ranking["score"].is_monotonic_increasing


def test_a_component_that_tells_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    score = [{"kind": "consistency", "strength": 1e-9}, {"kind": "difficulty"}]
    with caplog.at_level(logging.WARNING, logger="raydelt"):
        pipeline.execute(spec(write_digits(tmp_path / "in", rows=300), tmp_path / "out", score=score), until="scores")
    assert any("augmentation changes no prediction" in message for message in caplog.messages)


def test_an_unlabelled_corpus_can_be_scored_ranked_and_ordered_but_not_trained_on(tmp_path: Path) -> None:
    diverse = {"score": [{"kind": "diversity"}, {"kind": "prototype", "clusters": 8}]}
    rank = {"combine": {"weights": {"diversity": 1.0, "prototype_distance": 1.0}, "gate": None}}
    config = spec(
        write_digits(tmp_path / "in", rows=300),
        tmp_path / "out",
        corpus__label_column=None,
        corpus__noise=None,
        rank=rank,
        **diverse,
    )
    run = pipeline.execute(config, until="ordered")
    assert "proxies" not in run.manifests
    assert run.manifests["ordered"].rows == round(0.5 * run.manifests["corpus"].rows)
    with pytest.raises(SpecError, match=r"training a classifier needs labels: .* `raydelt order`"):
        pipeline.execute(config)
