"""A text's vector does not depend on its batch, and an encoder's folder runs nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from raydelt.errors import InputError, SpecError
from raydelt.models.embedder import Embedder, fetch, fingerprint
from tests.encoder import MOST_TOKENS, WIDTH, WORDS, write_encoder


@pytest.fixture(scope="module", autouse=True)
def _offline_on_one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        # The variable is read when the library is first imported, which another test may have done.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(str(folder))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return ["", "unknown", *(" ".join(random.choice(WORDS, random.integers(1, 60))) for _ in range(40))]


def test_rows_have_unit_length_and_the_order_of_the_texts(embedder: Embedder, texts: list[str]) -> None:
    rows = embedder.encode(texts)
    assert rows.shape == (len(texts), WIDTH) == (len(texts), embedder.width)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows[::-1], embedder.encode(texts[::-1]), atol=1e-5)


def test_a_vector_is_that_of_the_library(embedder: Embedder, folder: Path, texts: list[str]) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    alone = np.concatenate([model.encode([text], normalize_embeddings=True) for text in texts])
    np.testing.assert_allclose(embedder.encode(texts), alone, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_company_in_a_batch_changes_nothing(embedder: Embedder, texts: list[str], batch_size: int) -> None:
    np.testing.assert_allclose(embedder.encode(texts, batch_size=batch_size), embedder.encode(texts), atol=1e-5)


def test_the_same_call_gives_the_same_bytes(embedder: Embedder, texts: list[str]) -> None:
    assert embedder.encode(texts).tobytes() == embedder.encode(texts).tobytes()


def test_no_texts_are_no_rows(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, WIDTH)


def test_nothing_behind_max_length_is_read(folder: Path) -> None:
    short = Embedder(str(folder), max_length=6)
    rows = short.encode(["red blue cat dog", "red blue cat dog mat mat mat", "red blue cat mat"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_more_tokens_than_the_model_has_positions_are_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match=rf"encoder\.max_length 33 is more than the {MOST_TOKENS} tokens"):
        Embedder(str(folder), max_length=MOST_TOKENS + 1)


def test_a_half_precision_checkpoint_computes_in_float32(copy: Path, texts: list[str]) -> None:
    SentenceTransformer(str(copy), device="cpu", model_kwargs={"dtype": "bfloat16"}).save(str(copy))
    coarse = Embedder(str(copy))
    np.testing.assert_allclose(coarse.encode(texts, batch_size=1), coarse.encode(texts), atol=1e-5)


@pytest.mark.parametrize("module", ["", "2_Dense"])
def test_pickled_weights_are_refused(copy: Path, module: str) -> None:
    (copy / module / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, copy / module / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.*convert it to safetensors"):
        Embedder(str(copy))


def test_a_pickle_beside_safetensors_is_not_read(copy: Path, embedder: Embedder) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"no pickle at all")
    np.testing.assert_array_equal(Embedder(str(copy)).encode(["a cat"]), embedder.encode(["a cat"]))


def test_a_folder_cannot_name_code_to_run(copy: Path) -> None:
    modules = json.loads((copy / "modules.json").read_text())
    modules[0]["type"] = "evil.Evil"
    (copy / "modules.json").write_text(json.dumps(modules))
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="is not an encoder that can be loaded"):
        Embedder(str(copy))
    assert not (copy / "ran").exists()


def test_what_is_no_encoder_is_named(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(InputError, match=r"encoder\.path .*nowhere.* is no folder"):
        Embedder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is not an encoder: it has neither modules\.json nor config\.json"):
        Embedder(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="neither a folder here nor an encoder of the hub"):
        Embedder("nobody/nothing")
    (copy / "modules.json").write_text("{")
    with pytest.raises(InputError, match=r"modules\.json is no list of modules"):
        Embedder(str(copy))


def test_a_missing_library_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SpecError, match=r"pip install 'raydelt\[lm\]'"):
        Embedder(str(folder))


@pytest.fixture
def url(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The encoder in an object store, with a cache of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fs = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            fs.pipe_file(f"/bucket/encoder/{file.relative_to(folder)}", file.read_bytes())
    yield "memory://bucket/encoder"
    fs.rm("/bucket", recursive=True)


def test_a_url_is_copied_once_and_gives_the_same_vectors(
    url: str, folder: Path, tmp_path: Path, embedder: Embedder
) -> None:
    local = Path(fetch(url))
    assert local.is_relative_to(tmp_path)
    names = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert {file.relative_to(local): file.read_bytes() for file in local.rglob("*") if file.is_file()} == names
    stamp = (local / "model.safetensors").stat().st_mtime_ns
    assert fetch(url) == str(local)
    assert (local / "model.safetensors").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(Embedder(url).encode(["a cat"]), embedder.encode(["a cat"]))


def test_changed_bytes_at_a_url_are_another_copy_and_another_fingerprint(url: str) -> None:
    before, mark = fetch(url), fingerprint(url)
    fsspec.filesystem("memory").pipe_file("/bucket/encoder/config.json", b"{}")
    assert fetch(url) != before
    assert fingerprint(url) != mark


def test_a_fingerprint_follows_names_and_bytes(folder: Path, copy: Path) -> None:
    assert fingerprint(str(copy)) == fingerprint(str(folder)) != fingerprint("org/name")
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes() + b" ")
    assert fingerprint(str(copy)) != fingerprint(str(folder))


def test_a_local_folder_and_a_hub_name_are_not_copied(folder: Path) -> None:
    assert fetch(str(folder)) == str(folder)
    assert fetch("org/name") == "org/name"
