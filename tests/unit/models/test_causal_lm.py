"""Documents become tensors without losing or doubling a token, whatever their length and however they are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydelt.config import ModelSpec
from raydelt.corpus.tokens import LOSS_FROM, REASON, TOKENS, tokenised
from raydelt.errors import InputError, SpecError
from raydelt.gradients import PerExampleGradients
from raydelt.models import causal_lm
from raydelt.models.causal_lm import CausalLM
from tests.language import sentences, tiny_lm

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_lm(tmp_path_factory.mktemp("lm"))


def batch_of(documents: Sequence[Sequence[int]], starts: Sequence[int] | None = None) -> pa.RecordBatch:
    first = np.asarray(starts if starts is not None else [1] * len(documents), np.int32)
    return pa.record_batch({TOKENS: pa.array(documents, pa.list_(pa.int32())), LOSS_FROM: pa.array(first)})


def documents(*lengths: int) -> list[list[int]]:
    return [RNG.integers(0, 60, length).tolist() for length in lengths]


def truth(model: CausalLM, ids: Sequence[int], start: int, context: int) -> tuple[float, float]:
    """Loss and gradient norm of one document in float64: pieces that overlap by one token, one after the other."""
    parameters = list(model.module.parameters())
    losses = []
    for low in range(0, max(1, len(ids) - 1), context - 1):
        piece = torch.tensor([ids[low : low + context]])
        log_p = torch.log_softmax(model.module(input_ids=piece).logits[0], -1)
        for t in range(piece.shape[1] - 1):
            if low + t + 1 >= start:
                losses.append(-log_p[t, piece[0, t + 1]])
    loss = torch.stack(losses).mean()
    assert len(losses) == len(ids) - start
    return float(loss.detach()), float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).norm())


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("lengths", [(5, 9, 3), (8, 8), (20, 4, 31, 2), (15, 16, 17, 29, 30, 31), (64,)])
def test_losses_and_norms_equal_one_document_at_a_time(folder: str, batching: str, lengths: tuple[int, ...]) -> None:
    spec = ModelSpec(kind="causal_lm", path=folder, context=16, batching=batching)
    model = causal_lm.load(spec, folder)
    model.module.double()
    rows = documents(*lengths)
    starts = [1 + (i * 2) % (len(ids) - 1) for i, ids in enumerate(rows)]
    tensors, index = model.tensors(batch_of(rows, starts), np.arange(len(rows)))
    engine = PerExampleGradients(model.module, model.losses)
    found = engine(tensors, index=index)
    assert engine.backend == "ghost"
    for i, (ids, start) in enumerate(zip(rows, starts, strict=True)):
        loss, norm = truth(model, ids, start, 16)
        assert float(found.losses[i]) == pytest.approx(loss, rel=1e-9)
        assert found.norms is not None
        assert float(found.norms[i]) == pytest.approx(norm, rel=1e-7)


def test_groups_hold_every_row_once_by_falling_length_within_the_budget(folder: str) -> None:
    model = causal_lm.load(ModelSpec(kind="causal_lm", path=folder, context=64), folder)
    rows = documents(*RNG.integers(2, 60, 50))
    batch, chosen = batch_of(rows), np.arange(3, 50)
    whole = model.groups(batch, chosen, 1 << 30)
    assert len(whole) == 1
    lengths = [len(rows[i]) for i in whole[0]]
    assert lengths == sorted(lengths, reverse=True)
    small = model.groups(batch, chosen, 2_000_000)
    assert len(small) > 3
    assert sorted(np.concatenate(small).tolist()) == chosen.tolist()
    room = 2_000_000 / model._bytes_per_token()
    assert all(len(group) == 1 or len(group) * max(len(rows[i]) for i in group) <= room for group in small)


def test_tokens_are_cut_marked_and_refused_as_the_spec_says(folder: str) -> None:
    tokenizer = causal_lm.load_tokenizer(folder)
    long = " ".join(sentences(3, shortest=20))
    texts = ["", "fox", "the quick fox", long, "the fox Answer: dog sleeps", None]

    def columns(**settings: object) -> dict[str, list[object]]:
        spec = ModelSpec.model_validate({"kind": "causal_lm", "path": folder, "context": 16, **settings})
        return {name: column.to_pylist() for name, column in tokenised(tokenizer, texts, spec).items()}

    cut = columns()
    assert [len(ids) for ids in cut[TOKENS]] == [0, 1, 3, 16, 5, 0]  # type: ignore[arg-type]
    assert [reason is None for reason in cut[REASON]] == [False, False, True, True, True, False]
    assert cut[REASON][1] == "document of 1 tokens: nothing to predict"
    kept = columns(long_documents="split")
    assert len(kept[TOKENS][3]) == len(long.split())  # type: ignore[arg-type]
    assert columns(long_documents="quarantine")[REASON][3] == (
        f"document of {len(long.split())} tokens is longer than model.context 16"
    )
    answered = columns(answer_after="Answer:")
    assert answered[LOSS_FROM][4] == 3
    assert [reason is None for reason in answered[REASON]] == [False, False, False, False, True, False]


def test_a_document_without_any_target_has_loss_and_gradient_zero(folder: str) -> None:
    model = causal_lm.load(ModelSpec(kind="causal_lm", path=folder), folder)
    tensors, index = model.tensors(batch_of(documents(6, 7), [6, 1]), np.arange(2))
    found = PerExampleGradients(model.module, model.losses)(tensors, index=index)
    assert found.norms is not None
    assert found.losses[0] == 0
    assert found.norms[0] == 0
    assert found.norms[1] > 0


def test_half_precision_stays_close_and_sums_in_float32(folder: str) -> None:
    rows = documents(12, 30, 7)
    norms = {}
    for dtype in ("float32", "bfloat16"):
        model = causal_lm.load(ModelSpec(kind="causal_lm", path=folder, dtype=dtype), folder)
        tensors, index = model.tensors(batch_of(rows), np.arange(3))
        found = PerExampleGradients(model.module, model.losses)(tensors, index=index).norms
        assert found is not None
        assert found.dtype == torch.float64
        norms[dtype] = found
    torch.testing.assert_close(norms["bfloat16"], norms["float32"], rtol=0.05, atol=0)


def test_an_adapter_alone_gives_the_adapter_s_gradients(folder: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    spec = ModelSpec(kind="causal_lm", path=folder, adapter=str(tmp_path / "adapter"))
    model = causal_lm.load(spec, folder)
    engine = PerExampleGradients(model.module, model.losses, parameters="adapters")
    assert all("lora_" in name for name in engine.shapes)
    tensors, index = model.tensors(batch_of(documents(9, 14)), np.arange(2))
    found = engine(tensors, index=index).norms
    expected = PerExampleGradients(model.module, model.losses, parameters="adapters", backend="loop")(tensors).norms
    assert engine.backend == "ghost"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    plain = causal_lm.load(ModelSpec(kind="causal_lm", path=folder), folder)
    with pytest.raises(SpecError, match="choose nothing"):
        PerExampleGradients(plain.module, plain.losses, parameters="adapters")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle"):
        causal_lm.load(spec, folder)
