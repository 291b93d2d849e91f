"""Every scorer that takes gradients or training dynamics, through Ray actors, against one example at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydelt import pipeline
from raydelt.config import RunConfig
from raydelt.errors import SpecError
from raydelt.examples import column_of, features_of
from raydelt.gradients import Sketch
from raydelt.scorers.crossfit import fold_matrix
from raydelt.scorers.proxies import load_models
from raydelt.storage import Store, read_manifest
from tests.flow import spec, table, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")

SCORE: list[dict[str, Any]] = [
    {"kind": "el2n"},
    {"kind": "grad_norm", "parameters": "all"},
    {"kind": "input_saliency"},
    {"kind": "uncertainty"},
    {"kind": "target_alignment", "learning_rates": [0.5, 0.25]},
    {"kind": "gradient_neighbours", "k": 128, "seed": 3, "targets": 20},
    {"kind": "dynamics"},
    {"kind": "sample_weight"},
    {"kind": "typicality"},
    {"kind": "near_duplicates"},
]
BY_NORM = {"folds": 2, "rounds": 2, "proxy": {"epochs": 40}, "combine": {"weights": {"grad_norm": 1.0}, "gate": None}}


def gradient_spec(source: Path, output: Path, **changes: Any) -> RunConfig:
    settings = {
        "score": SCORE,
        "rank": BY_NORM,
        "model": {"network": "mlp", "hidden": [16]},
        "corpus__validation": {"fraction": 0.1},
    }
    return spec(source, output, **settings | changes)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    folder = tmp_path_factory.mktemp("gradients")
    pipeline.execute(gradient_spec(write_digits(folder / "in"), folder / "out"), until="scores")
    return folder / "out"


def flat(gradients: Any) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradients])


def test_norms_and_alignment_equal_one_example_at_a_time_in_float64(scored: Path) -> None:
    store = Store(str(scored))
    corpus, proxies = read_manifest(store, "corpus"), read_manifest(store, "proxies")
    assert corpus is not None
    assert proxies is not None
    config = gradient_spec(Path("in"), scored)
    models = [[m.double().eval() for m in row] for row in load_models(store, config.model, corpus.facts, proxies)]
    target = pa.concat_tables([store.read_table(part.file) for part in corpus.sides["validation"]])

    def gradient(model: Any, x: np.ndarray, label: int) -> torch.Tensor:
        loss = model.losses(model, {"x": torch.from_numpy(x[None]).double(), "y": torch.tensor([label])})
        return flat(torch.autograd.grad(loss.sum(), list(model.parameters())))

    def mean_gradient(model: Any) -> torch.Tensor:
        pairs = zip(features_of(target), column_of(target, "label"), strict=True)
        return torch.stack([gradient(model, x, int(label)) for x, label in pairs]).mean(0)

    targets = [[mean_gradient(model) for model in row] for row in models]
    found = {row["example_id"]: row for row in table(scored, "scores").to_pylist()}
    rows, folds = store.read_table(corpus.parts[0].file), store.read_table(proxies.parts[0].file)
    for i, (row, own) in enumerate(zip(rows.to_pylist()[:20], fold_matrix(folds).T, strict=False)):
        x, score = np.asarray(row["x"], np.float32), found[row["example_id"]]
        gradients = [gradient(models[r][f], x, row["label"]) for r, f in enumerate(own)]
        dots = [float(g @ targets[r][f]) for r, (g, f) in enumerate(zip(gradients, own, strict=True))]
        lengths = [float(g.norm() * targets[r][f].norm()) for r, (g, f) in enumerate(zip(gradients, own, strict=True))]
        assert score["grad_norm"] == pytest.approx(np.mean([float(g.norm()) for g in gradients]), rel=1e-5), i
        assert score["alignment"] == pytest.approx(np.mean(dots), rel=1e-4, abs=1e-6)
        assert score["alignment_cosine"] == pytest.approx(np.mean(np.divide(dots, lengths)), rel=1e-4, abs=1e-6)
        assert score["tracin"] == pytest.approx(0.5 * dots[0] + 0.25 * dots[1], rel=1e-4, abs=1e-6)


def test_nearest_target_gradients_equal_sketches_of_single_gradients_in_float64(scored: Path) -> None:
    store = Store(str(scored))
    corpus, proxies = read_manifest(store, "corpus"), read_manifest(store, "proxies")
    assert corpus is not None
    assert proxies is not None
    config = gradient_spec(Path("in"), scored)
    models = [[m.double().eval() for m in row] for row in load_models(store, config.model, corpus.facts, proxies)]
    sketch = Sketch(128, 3)

    def unit_sketch(model: Any, x: np.ndarray, label: int) -> torch.Tensor:
        loss = model.losses(model, {"x": torch.from_numpy(x[None]).double(), "y": torch.tensor([label])}).sum()
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters)
        whole = sum(sketch.dense(g[None], name)[0] for name, g in zip(names, gradients, strict=True))
        return whole / whole.norm()  # type: ignore[union-attr]

    target = pa.concat_tables([store.read_table(part.file) for part in corpus.sides["validation"]]).slice(0, 20)
    pairs = list(zip(features_of(target), column_of(target, "label"), strict=True))
    units = [[torch.stack([unit_sketch(m, x, int(y)) for x, y in pairs]) for m in row] for row in models]
    found = {row["example_id"]: row for row in table(scored, "scores").to_pylist()}
    rows, folds = store.read_table(corpus.parts[0].file), store.read_table(proxies.parts[0].file)
    for row, own in zip(rows.to_pylist()[:10], fold_matrix(folds).T, strict=False):
        x, score = np.asarray(row["x"], np.float32), found[row["example_id"]]
        each = [units[r][f] @ unit_sketch(models[r][f], x, row["label"]) for r, f in enumerate(own)]
        cosines = torch.stack(each).mean(0)
        assert score["gradient_nearest"] == pytest.approx(float(cosines.max().detach()), abs=1e-5)
        assert score["gradient_mean"] == pytest.approx(float(cosines.mean().detach()), abs=1e-5)


def test_every_component_is_there_and_flips_stand_out_where_they_should(scored: Path) -> None:
    scores, corpus = table(scored, "scores").to_pandas(), table(scored, "corpus").to_pandas()
    joined = scores.merge(corpus[["example_id", "label", "label_clean"]], on="example_id")
    flipped = joined["label"] != joined["label_clean"]
    for name, sign in {"el2n": 1, "grad_norm": 1, "input_saliency": 1, "aum": -1, "confidence": -1}.items():
        ranks = (sign * joined[name]).rank()
        auroc = (ranks[flipped].mean() - (flipped.sum() + 1) / 2) / (~flipped).sum()
        assert auroc > 0.85, (name, auroc)
    for name in ("entropy", "sample_weight", "forgetting", "variability", "typicality", "novelty", "gradient_nearest"):
        assert np.isfinite(joined[name]).all()


def test_files_actors_and_batches_change_nothing(scored: Path, tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in", files=5, shuffle=3)
    one = {"actors": {"min": 1, "max": 1}}
    pipeline.execute(gradient_spec(source, tmp_path / "out", cluster=one), until="scores")
    expected, found = table(scored, "scores"), table(tmp_path / "out", "scores")
    assert found.drop(["model_version"]).equals(expected.drop(["model_version"]))
    small = {"actors": {"min": 1, "max": 1, "batch_bytes": 20_000}}
    pipeline.execute(gradient_spec(source, tmp_path / "small", cluster=small), until="scores")
    again = table(tmp_path / "small", "scores")
    for name in ("grad_norm", "alignment", "alignment_cosine"):
        np.testing.assert_allclose(again[name].to_numpy(), expected[name].to_numpy(), rtol=1e-5, atol=1e-7)


def test_several_checkpoints_all_score_and_their_number_is_that_of_the_rounds(scored: Path, tmp_path: Path) -> None:
    files = sorted((scored / "proxies").glob("model-*.safetensors"))[:3]
    model = {"network": "mlp", "hidden": [16], "checkpoint": [str(file) for file in files]}
    rank = {"method": "score", "combine": {"weights": {"grad_norm": 1.0}, "gate": None}}
    score = [{"kind": "grad_norm", "parameters": ["network.1.*"]}, {"kind": "target_alignment", "parameters": "all"}]
    config = gradient_spec(write_digits(tmp_path / "in"), tmp_path / "out", model=model, rank=rank, score=score)
    first = pipeline.execute(config, until="scores")
    assert "grad_norm_se" in table(tmp_path / "out", "scores").column_names
    files[0].write_bytes(files[1].read_bytes())
    second = pipeline.execute(config, until="scores")
    assert first.fresh["scores"]
    assert second.fresh["scores"], "a checkpoint replaced in place must be noticed"
    pipeline_again = pipeline.execute(config, until="scores")
    assert not pipeline_again.fresh["scores"]


def test_a_gpu_share_puts_several_actors_on_one_logical_gpu_with_equal_scores(scored: Path, tmp_path: Path) -> None:
    where = {"kind": "tests.plugins:PlaceConfig", "folder": str(tmp_path), "actors": 2}
    gpu = {"actors": {"min": 2, "max": 2, "num_gpus": 0.5, "num_cpus": 0.5}}
    config = gradient_spec(write_digits(tmp_path / "in"), tmp_path / "out", cluster=gpu, score=[*SCORE, where])
    pipeline.execute(config, until="scores")
    placed = [line.split() for file in tmp_path.glob("*.place") for line in file.read_text().splitlines()]
    assert {gpus for _, gpus in placed} == {"0"}
    assert len({process for process, _ in placed}) == 2
    expected, found = table(scored, "scores"), table(tmp_path / "out", "scores")
    for name in ("grad_norm", "alignment", "entropy"):
        assert found[name].equals(expected[name])


def test_an_actor_loads_its_model_once_however_many_parts_it_scores(tmp_path: Path) -> None:
    model = {"kind": "torch", "factory": "tests.plugins:counted_logistic"}
    train = spec(write_digits(tmp_path / "in"), tmp_path / "first", model=model)
    pipeline.execute(train, until="proxies")
    [checkpoint, *_] = sorted((tmp_path / "first" / "proxies").glob("model-*.safetensors"))
    rank = {"method": "score", "combine": {"weights": {"builds": 1.0}, "gate": None}}
    own = spec(
        tmp_path / "in",
        tmp_path / "out",
        model=model | {"checkpoint": str(checkpoint)},
        rank=rank,
        score=[{"kind": "grad_norm", "parameters": "all"}, {"kind": "tests.plugins:BuildsConfig"}],
        cluster={"actors": {"min": 1, "max": 1}},
    )
    run = pipeline.execute(own, until="scores")
    assert len(run.manifests["corpus"].parts) > 1
    assert set(table(tmp_path / "out", "scores")["builds"].to_pylist()) == {1.0}


def test_what_gradient_scorers_lack_is_named(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "in")

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(SpecError, match=match):
            pipeline.execute(gradient_spec(source, tmp_path / "out", **changes), until="scores")

    refused("needs a target set", corpus__validation={"fraction": 0})
    aged = [{"kind": "sample_weight", "half_life_days": 3}, {"kind": "grad_norm"}]
    refused(r"needs the age of examples: set corpus\.time_column", score=aged)
    named = [{"kind": "grad_norm", "parameters": ["netwrk.1.weight"]}]
    refused(r"no parameter is called 'netwrk.1.weight': did you mean 'network.1.weight'", score=named)
    batch_norm = {"kind": "torch", "factory": "tests.plugins:batch_coupled"}
    refused(
        r"normalises by the batch.*GroupNorm", model=batch_norm, score=[{"kind": "grad_norm", "parameters": "all"}]
    )
    rates = [{"kind": "grad_norm"}, {"kind": "target_alignment", "learning_rates": [0.1]}]
    refused("learning_rates has 1 entries but 2 models", score=rates)


def test_the_pool_grows_from_its_least_to_its_most_while_there_is_work(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    slow = {"kind": "tests.plugins:SlowConfig", "folder": str(tmp_path / "pids"), "seconds": 2.0}
    config = gradient_spec(
        write_digits(tmp_path / "in"),
        tmp_path / "out",
        score=[slow],
        rank={"combine": {"weights": {"hash": 1.0}, "gate": None}},
        cluster={"actors": {"min": 1, "max": 2}},
    )
    pipeline.execute(config, until="scores")
    assert len({file.read_text() for file in (tmp_path / "pids").iterdir()}) == 2
