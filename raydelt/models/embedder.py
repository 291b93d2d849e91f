"""Sentence encoders: texts to vectors of unit length, whatever else is in their batch.

    embedding(text) = v / ||v||,   v = encoder(the first max_length tokens of the text)

A padded token is masked, so a text's vector does not depend on its company beyond the last digits of float32; texts
of similar length form a batch, so that little is padded. Weights are safetensors in float32 and no code of a model's
folder runs. Cost: one forward pass per text; memory: the model, one batch's activations, and the vectors. Reimers and
Gurevych 2019 (sentence encoders).

Caution: what lies behind `max_length` tokens is not seen; two long texts with the same beginning have the same vector.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydelt.errors import InputError, SpecError
from raydelt.models import folder as folders
from raydelt.models.folder import PICKLED, fingerprint

__all__ = ["Embedder", "fetch", "fingerprint"]

FIELD = "encoder.path"


class Embedder:
    """A sentence encoder from a local folder, a URL or the hub.

    `max_length` is the number of tokens that it reads of a text; by default what its folder says.

    Raises:
        SpecError: sentence-transformers is not installed, or `max_length` is more than the model can read.
        InputError: no such folder, no encoder, or pickled weights.
    """

    def __init__(self, path: str, *, device: str = "cpu", max_length: int | None = None) -> None:
        folder = fetch(path)
        local = os.path.isdir(folder)
        if local:
            _check_folder(folder)
        library = _library()
        try:
            self._model = library.SentenceTransformer(
                folder,
                device=device,
                trust_remote_code=False,
                local_files_only=local,
                # Half precision would let a text's vector depend on its batch in the third digit.
                model_kwargs={"use_safetensors": True, "dtype": "float32"},
            )
        except Exception as error:
            raise InputError(_not_loaded(path, local, error)) from error
        if max_length is not None:
            _limit(self._model, path, max_length)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Float32 [n, width], rows of unit length in the order of the texts; a text without a direction gets zeros.

        A text that the encoder gives no finite vector for keeps NaN.
        """
        if len(texts) == 0:
            return np.empty((0, self.width), np.float32)
        rows = self._model.encode(
            list(texts),
            batch_size=batch_size,
            convert_to_numpy=True,
            normalize_embeddings=False,
            show_progress_bar=False,
        )
        exact = np.asarray(rows, np.float64)
        norms = np.linalg.norm(exact, axis=1, keepdims=True)
        # An infinite or NaN norm is not above zero for the division to hide: the row keeps what is wrong with it.
        with np.errstate(invalid="ignore"):
            return (exact / np.where(norms > 0, norms, 1.0)).astype(np.float32)

    @cached_property
    def width(self) -> int:
        """The number of components of a vector."""
        return int(self.encode(["width"]).shape[1])


def fetch(path: str) -> str:
    """A local folder as it is, the cached copy of a URL, or a hub name passed through.

    Raises:
        InputError: there is no such folder.
    """
    return folders.fetch(path, field=FIELD)


def _library() -> Any:
    # Imported where it is needed: it takes seconds, and it comes with an extra.
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError:
        raise SpecError("encoder needs sentence-transformers: pip install 'raydelt[lm]'") from None


def _check_folder(folder: str) -> None:
    """Refuse a local folder that holds no encoder, or has pickled weights where it needs safetensors."""
    if not any(os.path.isfile(os.path.join(folder, name)) for name in ("modules.json", "config.json")):
        raise InputError(
            f"{FIELD}: {folder} is not an encoder: it has neither modules.json nor config.json; "
            "name the folder of a sentence-transformers model"
        )
    # Each module loads weights from its own folder, and falls back to a pickle where that has no safetensors.
    for place in _module_folders(folder):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        pickled = [name for name in names if name.endswith(PICKLED)]
        if pickled and not any(name.endswith(".safetensors") for name in names):
            file = os.path.join(place, pickled[0])
            raise InputError(f"{FIELD}: {file} is a pickle, which could run code: convert it to safetensors")


def _module_folders(folder: str) -> list[str]:
    """The folders that the encoder's modules are loaded from, the encoder's own first."""
    file = os.path.join(folder, "modules.json")
    if not os.path.isfile(file):
        return [folder]
    try:
        with open(file, encoding="utf-8") as opened:
            paths = [str(module["path"]) for module in json.load(opened)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{FIELD}: {file} is no list of modules ({error}): use a complete folder") from error
    return [folder, *(os.path.join(folder, path) for path in paths if path)]


def _not_loaded(path: str, local: bool, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    if local:
        return f"{FIELD} {path!r} is not an encoder that can be loaded: {reason}"
    return f"{FIELD} {path!r} is neither a folder here nor an encoder of the hub: {reason}"


def _limit(model: Any, path: str, max_length: int) -> None:
    """Have the model read `max_length` tokens of a text."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and max_length > most:
        raise SpecError(
            f"encoder.max_length {max_length} is more than the {most} tokens that {path!r} reads: lower it"
        )
    model.max_seq_length = max_length
