"""How a source is to be read, found out before its rows: its encoding, what a text file is, and what a model is.

Any file reads without a fault as Latin-1, whatever it really is, so the encoding that is written is only a way in.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from typing import Any

from raydelt import storage
from raydelt.config import Corpus
from raydelt.corpus.formats import unpacked
from raydelt.corpus.limit import evenly
from raydelt.errors import InputError
from raydelt.models import folder as model_folder
from raydelt.setup.places import Places

CONTEXT = 512
FILES, HEAD_BYTES, SINGLE_BYTES = 200, 1 << 16, 1 << 20
# A run puts aside up to 5 % of the rows; half of that is worth a remark.
FEW = 0.025
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
ENCODERS = re.compile(r"sentence|minilm|embed|bge|e5|gte", re.IGNORECASE)


def kind_of_model(path: str | None) -> tuple[str | None, str | None, int]:
    """The path as a language model, or as an encoder of sentences, and the tokens that a language model takes.

    Raises:
        InputError: there is no such folder, it is neither, or its config.json is broken.
    """
    if path is None:
        return None, None, CONTEXT
    place = path if "://" in path else model_folder.fetch(path, field="--model")
    if "://" not in place and not os.path.isdir(place):  # a name of the hub
        return (None, path, CONTEXT) if ENCODERS.search(path) else (path, None, CONTEXT)
    fs, root = storage.filesystem(place)
    if fs.exists(posixpath.join(root, "modules.json")):
        return None, path, CONTEXT
    settings = posixpath.join(root, "config.json")
    if not fs.exists(settings):
        raise InputError(f"--model {path!r} holds no config.json: give a folder as save_pretrained writes it")
    try:
        held = json.loads(fs.cat_file(settings))
        context = int(held.get("max_position_embeddings") or held.get("n_positions") or CONTEXT)
        causal = any("Causal" in name or "LMHead" in name for name in held.get("architectures") or [])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"--model {path!r}: its config.json cannot be read ({error}): give a folder as save_pretrained writes it"
        ) from error
    return (path, None, min(CONTEXT, context)) if causal else (None, path, CONTEXT)


def how_to_read(places: Places, source: str) -> tuple[Corpus, dict[str, tuple[Any, str]]]:
    """The corpus to look with, and the fields that reading itself needs: encoding, and what a text file is."""
    extra: dict[str, tuple[Any, str]] = {}
    raw: dict[str, Any] = {"source": source}
    if places.format is not None:
        raw["format"] = places.format
    kind = places.files[0].format
    if kind == "text" and len(places.files) == 1:
        extra["text_unit"] = ("paragraph", "parts between blank lines are the examples; or file")
    if kind in ("text", "csv"):
        extra |= _encoding(places)
    return Corpus(**raw, **{name: value for name, (value, _) in extra.items()}), extra


def _encoding(places: Places) -> dict[str, tuple[Any, str]]:
    """Latin-1, which reads any bytes, where more files or lines are no UTF-8 than a run would put aside."""
    chosen = [places.files[place] for place in evenly(len(places.files), min(len(places.files), FILES))]
    failed = total = 0
    for file in chosen:
        try:
            with unpacked(file.path) as opened:
                head = bytes(opened.read(HEAD_BYTES if len(chosen) > 1 else SINGLE_BYTES))
        except Exception as error:
            if storage.of_store(error):
                raise storage.told(error, file.path, "read") from error
            continue
        if head[:2] in UTF_16:
            return _utf_16(file.path, file.format)
        parts = [head] if file.format == "text" and len(chosen) > 1 else head.split(b"\n")[:-1] or [head]
        total += len(parts)
        failed += sum(not _is_utf8(part) for part in parts)
    if total and failed > FEW * total:
        return {"encoding": ("latin-1", f"{failed} of {total} looked at are not UTF-8; or cp1252, shift_jis, …")}
    return {}


def _utf_16(path: str, kind: str) -> dict[str, tuple[Any, str]]:
    if kind == "csv":
        raise InputError(f"{path} is in UTF-16, whose lines cannot be told apart: save it in UTF-8")
    return {"encoding": ("utf-16", "as the mark at the beginning of the files says")}


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(data) and error.reason == "unexpected end of data"
    return True
