"""Language models of transformers, and adapters of peft, have the gradients that autograd gives one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from raydelt.gradients import PerExampleGradients
from tests.unit.gradients.networks import masked_mean, spread, texts
from tests.unit.gradients.oracle import Case, assert_exact, cast

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}


def next_token(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    logits = forward(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    return masked_mean(logits[:, :-1], batch["ids"][:, 1:], batch["mask"][:, 1:].to(logits.dtype))


def gpt2() -> nn.Module:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **sizes))


def llama() -> nn.Module:
    sizes = {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **sizes))


def neox() -> nn.Module:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL, intermediate_size=48))


def qwen3() -> nn.Module:
    sizes = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL, **sizes))


def opt() -> nn.Module:
    return transformers.OPTForCausalLM(transformers.OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32))


RULED = {"gpt2": gpt2, "llama": llama, "neox": neox, "qwen3": qwen3}


def case_of(make: Callable[[], nn.Module], rows: int = 5, length: int = 9) -> Case:
    torch.manual_seed(0)
    batch = texts(rows, length, vocabulary=40)
    return Case(spread(make()), next_token, {"ids": batch["ids"], "mask": batch["mask"].long()})


def adapted(**options: Any) -> nn.Module:
    """A Llama with adapters; none of their factors is left at zero."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], **options)
    return peft.get_peft_model(llama(), config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULED)
def test_a_language_model_takes_one_backward_pass(name: str, dtype: torch.dtype) -> None:
    case = cast(case_of(RULED[name]), dtype)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case)
    assert gradients.backend == "ghost"


@pytest.mark.parametrize("name", RULED)
def test_as_many_tokens_as_rows_are_not_mixed_up(name: str) -> None:
    case = cast(case_of(RULED[name], rows=7, length=7), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case)
    assert gradients.backend == "ghost"


def test_eager_attention_gives_the_same() -> None:
    case = cast(case_of(llama), torch.float64)
    case.model.set_attn_implementation("eager")
    assert_exact(PerExampleGradients(case.model, case.losses), case)


def test_a_model_with_layers_of_its_own_falls_back_and_is_right() -> None:
    case = cast(case_of(opt), torch.float64)
    assert_exact(PerExampleGradients(case.model, case.losses), case)


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_the_last_layer_is_the_output_embedding(name: str) -> None:
    case = cast(case_of(RULED[name]), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, parameters="last_layer")
    assert [tuple(shape) for shape in gradients.shapes.values()] == [(40, 32)]
    assert_exact(gradients, case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adapters_take_one_backward_pass(dtype: torch.dtype) -> None:
    case = cast(case_of(adapted), dtype)
    gradients = PerExampleGradients(case.model, case.losses, parameters="adapters")
    assert len(gradients.shapes) == 2 * 2 * 3
    assert all(".lora_" in name for name in gradients.shapes)
    assert_exact(gradients, case)
    assert gradients.backend == "ghost"


def test_what_trains_of_an_adapted_model_are_its_adapters() -> None:
    case = case_of(adapted)
    adapters = PerExampleGradients(case.model, case.losses, parameters="adapters")
    assert PerExampleGradients(case.model, case.losses).shapes == adapters.shapes


def test_adapters_with_mathematics_of_their_own_fall_back_and_are_right(caplog: pytest.LogCaptureFixture) -> None:
    case = cast(case_of(lambda: adapted(use_dora=True)), torch.float64)
    gradients = PerExampleGradients(case.model, case.losses, parameters="adapters")
    assert "lora_magnitude_vector" in caplog.text
    assert_exact(gradients, case)


def test_checkpointed_layers_fall_back_and_are_right(caplog: pytest.LogCaptureFixture) -> None:
    case = cast(case_of(llama), torch.float64)
    case.model.gradient_checkpointing_enable()
    case.model.train()
    gradients = PerExampleGradients(case.model, case.losses)
    assert_exact(gradients, case)
    assert "is not what autograd gives" in caplog.text
