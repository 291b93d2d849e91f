"""Models whose examples have no gradient of their own, and parameters that do not exist, are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raydelt.errors import SpecError
from raydelt.gradients import PerExampleGradients, Selection, select
from tests.unit.gradients.networks import Transformer, case_of, conv2d, mlp, transformer
from tests.unit.gradients.oracle import assert_exact, cast

BACKENDS = ["auto", "ghost", "vmap", "loop"]


def normalised(**options: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, **options), nn.Linear(5, 4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_normalisation_by_the_batch_is_refused(kind: type[nn.Module], backend: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), kind(5), nn.Linear(5, 4)).train()
    with pytest.raises(SpecError, match=rf"1 is a {kind.__name__}.*eval\(\).*GroupNorm"):
        PerExampleGradients(model, mlp().losses, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
def test_normalisation_without_statistics_is_refused_in_either_mode(training: bool, backend: str) -> None:
    model = normalised(track_running_stats=False).train(training)
    with pytest.raises(SpecError, match=r"1 is a BatchNorm1d.*eval\(\).*GroupNorm"):
        PerExampleGradients(model, mlp().losses, backend=backend)


def test_one_layer_in_training_mode_is_enough_to_be_refused() -> None:
    case = conv2d()
    case.model.layers[6].train()
    with pytest.raises(SpecError, match=r"layers\.6 is a BatchNorm2d"):
        PerExampleGradients(case.model, case.losses)


def test_frozen_statistics_are_welcome() -> None:
    case = cast(case_of(normalised(), 6), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout])
def test_active_dropout_is_refused(kind: type[nn.Module], backend: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), kind(0.1), nn.Linear(5, 4)).train()
    with pytest.raises(SpecError, match=rf"1 is a {kind.__name__}.*eval\(\)"):
        PerExampleGradients(model, mlp().losses, backend=backend)


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_dropout_that_drops_nothing_is_welcome(rate: float, training: bool) -> None:
    case = cast(case_of(nn.Sequential(nn.Linear(6, 5), nn.Dropout(rate), nn.Linear(5, 4)), 6), torch.float64)
    case.model.train(training)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["lm_hed.weight"], r"no parameter is called 'lm_hed\.weight': did you mean 'lm_head\.weight'\?"),
        (["norm.weight", "norm.wieght"], r"'norm\.wieght': did you mean 'norm\.weight'\?"),
        (["blocks.7.*"], r"no parameter is called 'blocks\.7\.\*'"),
        (["zzz"], r"there are tokens\.weight, positions\.weight"),
        ([], "choose nothing"),
        ("adapters", "choose nothing"),
        ("everything", "'everything' must be all, last_layer, adapters, or a list"),
    ],
)
def test_parameters_that_do_not_exist_are_refused_with_a_near_name(parameters: str | list[str], message: str) -> None:
    case = transformer()
    with pytest.raises(SpecError, match=message):
        PerExampleGradients(case.model, case.losses, parameters=parameters)


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    case = mlp()
    case.model.requires_grad_(False)
    with pytest.raises(SpecError, match="choose nothing"):
        PerExampleGradients(case.model, case.losses)


def test_a_last_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match="Conv1d has no linear layer"):
        select(nn.Conv1d(2, 3, 1), "last_layer")


def test_all_are_those_that_train() -> None:
    model = Transformer(tied=True)
    model.blocks.requires_grad_(False)
    assert set(select(model).parameters) == {"tokens.weight", "positions.weight", "norm.weight", "norm.bias"}


def test_names_choose_by_wildcard_in_the_order_of_the_model() -> None:
    chosen = select(Transformer(), ["norm.*", "blocks.*.up.weight", "tokens.weight"])
    assert list(chosen.parameters) == ["tokens.weight", "blocks.0.up.weight", "norm.weight", "norm.bias"]
    assert chosen.modules is None


def test_adapters_are_known_by_their_names() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.lora_A, self.adapter_up = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(1, 3)

    chosen = select(Adapted(), "adapters").parameters
    assert set(chosen) == {"lora_A.weight", "lora_A.bias", "adapter_up.weight", "adapter_up.bias"}


def test_the_last_layer_is_the_last_linear_or_the_output_embedding() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)

        def get_output_embeddings(self) -> nn.Module:
            return self.output

    assert set(select(mlp().model, "last_layer").parameters) == {"4.weight", "4.bias"}
    assert set(select(Named(), "last_layer").parameters) == {"output.weight"}


def test_a_selection_may_be_made_beforehand() -> None:
    case = cast(mlp(), torch.float64)
    own: dict[str, nn.Parameter] = {"2.bias": case.model[2].bias}
    gradients = PerExampleGradients(case.model, case.losses, parameters=Selection(own))
    assert_exact(gradients, case)
    assert list(gradients.shapes) == ["2.bias"]


@pytest.mark.parametrize(("name", "value"), [("scale_grad_by_freq", True), ("sparse", True), ("max_norm", 1.0)])
def test_an_embedding_with_gradients_of_its_own_is_not_taken_for_a_plain_one(name: str, value: float) -> None:
    def losses(forward: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return forward(batch["x"]).square().sum((1, 2))

    gradients = PerExampleGradients(nn.Embedding(5, 3, **{name: value}), losses, backend="ghost")
    with pytest.raises(SpecError, match=name):
        gradients({"x": torch.tensor([[0, 1], [1, 1]])})
