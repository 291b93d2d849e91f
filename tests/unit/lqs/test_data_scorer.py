"""A data scorer predicts from an example alone: not from its batch, its place, padding, or who asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.lqs import data_scorer
from raydelt.lqs.data_scorer import DataScorer, MeanPooled, build
from raydelt.scorers.lqs import Distil
from tests.encoder import WORDS as BERT_WORDS
from tests.flow import spec
from tests.language import WORDS, sentences, tiny_lm

TEXTS = [*sentences(64, longest=30), "", "fox"]
FACTS: dict[str, Any] = {"input_shape": [6], "width": 6, "classes": ["a", "b", "c"], "standardize": True}


def config_of(path: str, **changes: Any) -> RunConfig:
    score = [{"kind": "lm_loss"}]
    rank = {"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}}
    model = {"kind": "causal_lm", "path": path}
    return spec("in", Path("out"), model=model, score=score, rank=rank, **changes)


def rows(texts: list[str | None]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.string())})


def with_head(scorer: DataScorer) -> DataScorer:
    """The same with a head that tells texts apart."""
    assert isinstance(scorer.module, MeanPooled)
    torch.manual_seed(0)
    torch.nn.init.normal_(scorer.module.head.weight, std=0.2)
    torch.nn.init.constant_(scorer.module.head.bias, 0.25)
    return scorer


def small(kind: str, folder: Path, **changes: Any) -> str:
    """A tiny encoder with a word-level tokenizer: a decoder, a BERT saved without pooler, or a RoBERTa."""
    if kind == "llama":
        return tiny_lm(folder, **changes)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    names = [*special, *sorted({*WORDS, *BERT_WORDS})]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    options = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **options).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"vocab_size": len(names), "max_position_embeddings": 34, "initializer_range": 0.2} | changes
    torch.manual_seed(3)
    if kind == "bert":
        BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder)
    else:
        RobertaModel(RobertaConfig(**sizes, pad_token_id=0)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root, made = tmp_path_factory.mktemp("encoders"), dict[str, str]()

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = small(kind, root / kind)
        return made[kind]

    return folder


def document_scorer(path: str, *, max_length: int = 64, budget: int = 512 << 20) -> DataScorer:
    config = config_of(path, cluster={"actors": {"batch_bytes": budget}})
    return with_head(build(config, Distil(max_length=max_length), {}, device="cpu"))


def alone(scorer: DataScorer, text: str) -> float:
    """The prediction for one text without any padding, by hand in float64."""
    assert isinstance(scorer.module, MeanPooled)
    module = scorer.module.double()
    ids = scorer.inputs(rows([text])).arguments["ids"][0]
    hidden = module.encoder(input_ids=torch.tensor([ids.tolist()])).last_hidden_state[0]
    return float((hidden.mean(0) @ module.head.weight[0] + module.head.bias[0]).detach())


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
def test_a_prediction_is_that_of_the_text_alone(folders: Callable[[str], str], kind: str) -> None:
    scorer = document_scorer(folders(kind))
    found = scorer.predict(rows(list(TEXTS)))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.std() > 0.05
    known = [index for index, text in enumerate(TEXTS) if text]
    np.testing.assert_allclose(found[known], [alone(scorer, TEXTS[i]) for i in known], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_prediction_depends_neither_on_the_batch_nor_on_the_order(folders: Callable[[str], str], kind: str) -> None:
    scorer = document_scorer(folders(kind))
    expected = scorer.predict(rows(list(TEXTS)))
    for size in (1, 8, 64):
        parts = [scorer.predict(rows(TEXTS[start : start + size])) for start in range(0, len(TEXTS), size)]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-6, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    turned = scorer.predict(rows([TEXTS[i] for i in order]))
    np.testing.assert_allclose(turned, expected[order], rtol=1e-6, atol=1e-6)
    narrow = document_scorer(folders(kind), budget=1)
    inputs = narrow.inputs(rows(list(TEXTS)))
    assert {len(group) for group in narrow.groups(inputs, np.arange(len(TEXTS)))} == {1}
    np.testing.assert_allclose(narrow.predict(rows(list(TEXTS))), expected, rtol=1e-6, atol=1e-6)


def test_a_text_without_tokens_is_predicted_from_zeros_and_harms_no_gradient(folders: Callable[[str], str]) -> None:
    scorer = document_scorer(folders("llama"))
    found = scorer.predict(rows(["", None, "fox dog"]))
    np.testing.assert_array_equal(found[:2], np.float32(0.25))
    assert found[2] != np.float32(0.25)
    assert scorer.predict(rows([])).shape == (0,)
    inputs = scorer.inputs(rows(["", "fox dog river"]))
    scorer.module(**scorer.tensors(inputs, np.arange(2))).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in scorer.module.parameters())


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
def test_every_weight_is_trained(folders: Callable[[str], str], kind: str) -> None:
    scorer = document_scorer(folders(kind))
    assert not scorer.module.training
    scorer.module(**scorer.tensors(scorer.inputs(rows(TEXTS[:9])), np.arange(9))).square().sum().backward()
    assert [name for name, p in scorer.module.named_parameters() if p.grad is None] == []


def test_training_and_use_read_a_text_by_the_same_function(folders: Callable[[str], str]) -> None:
    scorer = document_scorer(folders("bert"), budget=60_000)
    seen: list[tuple[list[int], int]] = []

    def spy(module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        seen.extend(zip(kwargs["ids"].tolist(), kwargs["lengths"].tolist(), strict=True))

    def read() -> list[list[int]]:
        return sorted(ids[:length] for ids, length in seen)

    batch, calls = rows(list(TEXTS)), []
    scorer.inputs = lambda own, inner=scorer.inputs: (calls.append(own), inner(own))[1]  # type: ignore[misc]
    inputs, everything = scorer.inputs(batch), np.arange(len(TEXTS))
    groups = scorer.groups(inputs, everything, training=True)
    assert len(groups) > len(scorer.groups(inputs, everything)) > 1
    scorer.module.register_forward_pre_hook(spy, with_kwargs=True)
    for group in groups:
        scorer.module(**scorer.tensors(inputs, group))
    trained = read()
    seen.clear()
    scorer.predict(batch)
    assert read() == trained
    assert len(calls) == 2


@pytest.mark.parametrize(("kind", "most"), [("llama", 256), ("bert", 34), ("roberta", 33)])
def test_a_text_is_cut_to_what_the_spec_and_the_encoder_allow(
    folders: Callable[[str], str], kind: str, most: int
) -> None:
    long = " ".join(WORDS * 12)
    for wanted in (10, 100_000):
        scorer = document_scorer(folders(kind), max_length=wanted)
        assert scorer.inputs(rows([long])).sizes.tolist() == [min(wanted, most)]
        changed, cut = (scorer.predict(rows([long + end, long])) for end in (" fox", " dog"))
        np.testing.assert_array_equal(changed, cut)
    if kind != "llama":
        ids = scorer.inputs(rows([long])).arguments["ids"][0]
        assert [int(ids[0]), int(ids[-1])] == [2, 3]


def test_a_saved_scorer_predicts_the_same_bits(folders: Callable[[str], str]) -> None:
    scorer = document_scorer(folders("bert"))
    data = scorer.dump()
    assert {name.split(".")[0] for name in safetensors.torch.load(data)} == {"encoder", "head"}
    other = build(config_of(folders("bert")), Distil(max_length=64), {}, device="cpu")
    assert not other.predict(rows(TEXTS[:4])).any()
    other.restore(data, origin="scorer.safetensors")
    np.testing.assert_array_equal(other.predict(rows(list(TEXTS))), scorer.predict(rows(list(TEXTS))))
    assert other.dump() == data


def test_weights_of_another_encoder_are_refused(folders: Callable[[str], str], tmp_path: Path) -> None:
    scorer = document_scorer(folders("bert"))
    wide = document_scorer(small("bert", tmp_path / "wide", hidden_size=48))
    llama = document_scorer(folders("llama"))
    for data in (wide.dump(), llama.dump(), b"nothing", scorer.dump()[:-9]):
        with pytest.raises(InputError, match=r"scorer\.st does not fit the data scorer of the spec .*trained with"):
            scorer.restore(data, origin="scorer.st")


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def pickled(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shortened(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: x for name, x in tensors.items() if "layer.1" not in name}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def one_more_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["unheard-of"] = len(content["model"]["vocab"])
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "damage", "told"),
    [
        ("llama", without_tokenizer, "no tokenizer"),
        ("bert", without_tokenizer, "no tokenizer"),
        ("bert", pickled, "is a pickle.*convert it to safetensors"),
        ("bert", shortened, "lacks 16 tensors .*use a complete checkpoint"),
        ("bert", one_more_token, r"mismatch.*tokenizer has \d+ ids but the encoder only \d+ embeddings"),
        ("bert", shutil.rmtree, "is no folder"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_refused(
    folders: Callable[[str], str], tmp_path: Path, kind: str, damage: Callable[[Path], None], told: str
) -> None:
    folder = Path(shutil.copytree(folders(kind), tmp_path / kind))
    damage(folder)
    with pytest.raises(InputError, match=told) as caught:
        build(config_of(folders("llama")), Distil(encoder=str(folder)), {}, device="cpu")
    assert str(caught.value).startswith("score.lqs.annotate.encoder")


def test_an_encoder_decoder_and_room_for_special_tokens_only_are_refused(
    folders: Callable[[str], str], tmp_path: Path
) -> None:
    from transformers import T5Config, T5Model

    shutil.copytree(folders("bert"), tmp_path / "t5")
    T5Model(T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=80)).save_pretrained(
        tmp_path / "t5"
    )
    with pytest.raises(InputError, match="has an encoder and a decoder"):
        document_scorer(str(tmp_path / "t5"))
    with pytest.raises(InputError, match=r"max_length 2: .* reads 2 tokens, of which 2 are its special ones"):
        document_scorer(folders("bert"), max_length=2)


# Classifiers


def feature_rows(count: int = 40) -> pa.RecordBatch:
    rng = np.random.default_rng(1)
    x = rng.normal(3.0, [1, 2, 3, 4, 5, 6], (count, 6)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 6)
    return pa.record_batch({"x": column, "label": pa.array(rng.integers(0, 3, count).astype(np.int32))})


def feature_scorer(**changes: Any) -> DataScorer:
    config = spec("in", Path("out"), model={"network": "mlp"}, **changes)
    return build(config, Distil(), FACTS, device="cpu")


def test_a_classifier_gives_the_output_of_the_examples_own_label() -> None:
    scorer, batch = feature_scorer(), feature_rows()
    inputs = scorer.inputs(batch)
    scorer.standardise(inputs, np.arange(30))
    x, label = (np.asarray(inputs.arguments[name]) for name in ("x", "label"))
    network: Any = scorer.module.network
    np.testing.assert_allclose(network.mean.numpy(), x[:30].mean(0), rtol=1e-5)
    np.testing.assert_allclose(network.scale.numpy(), x[:30].std(0), rtol=1e-5)
    found = scorer.predict(batch)
    np.testing.assert_allclose(found, network.predict(x)[np.arange(40), label], rtol=1e-6)
    one_by_one = np.concatenate([scorer.predict(batch.slice(i, 1)) for i in range(40)])
    np.testing.assert_allclose(one_by_one, found, rtol=1e-6, atol=1e-6)


def test_a_saved_classifier_keeps_its_standardisation_and_fits_no_other() -> None:
    scorer, batch = feature_scorer(), feature_rows()
    assert feature_scorer().dump() == scorer.dump() != feature_scorer(seed=6).dump()
    scorer.standardise(scorer.inputs(batch), np.arange(40))
    other = feature_scorer(seed=6)
    other.restore(scorer.dump(), origin="scorer.st")
    np.testing.assert_array_equal(other.predict(batch), scorer.predict(batch))
    config = spec("in", Path("out"), model={"network": "mlp", "hidden": [8]})
    with pytest.raises(InputError, match="does not fit the data scorer"):
        build(config, Distil(), FACTS, device="cpu").restore(scorer.dump(), origin="scorer.st")


def test_memory_of_a_batch_is_measured_once(folders: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    inner = data_scorer.bytes_per_row
    monkeypatch.setattr(data_scorer, "bytes_per_row", lambda *args: (calls.append(1), inner(*args))[1])
    scorer = document_scorer(folders("llama"))
    for _ in range(3):
        scorer.predict(rows(TEXTS[:5]))
    assert len(calls) == 1
