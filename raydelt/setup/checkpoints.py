"""Checks of the models that a spec names: that they can be loaded, without loading their weights."""

from __future__ import annotations

import json
import os
import posixpath

from raydelt import storage
from raydelt.config import RunConfig
from raydelt.errors import InputError
from raydelt.models import folder
from raydelt.setup.findings import Finding, parted

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def models(config: RunConfig) -> list[Finding]:
    """Whether every model, adapter, encoder and checkpoint of the spec has what loading it needs."""
    named = [(f"model.path {path}", path, True) for path in config.model.paths]
    named += [(f"encoder.path {config.encoder.path}", config.encoder.path, True)] if config.encoder else []
    named += [(f"model.adapter {config.model.adapter}", config.model.adapter, False)] if config.model.adapter else []
    named += [
        (f"score.{spec.kind}.reference {spec.reference}", spec.reference, True)
        for spec in config.score
        if hasattr(spec, "reference")
    ]
    found = [_model(field, path, tokenizer=tokenizer) for field, path, tokenizer in named]
    return found + [_checkpoint(path) for path in config.model.checkpoints]


def _model(field: str, path: str, *, tokenizer: bool) -> Finding:
    name = field.split()[0]
    try:
        names, place = _files(path, name)
    except InputError as error:
        return Finding("model", "fail", *parted(error))
    if names is None:
        return _of_hub(name, path)
    settings = "config.json" if "config.json" in names else "adapter_config.json"
    if settings not in names:
        # An encoder of sentences keeps its settings in a folder of its own.
        inner = [own for own in names if own.endswith("/config.json")]
        if "modules.json" not in names or not inner:
            return Finding(
                "model", "fail", f"{field} has no config.json", "give a folder as save_pretrained writes it"
            )
        settings = inner[0]
    try:
        fs, root = storage.filesystem(place)
        json.loads(fs.cat_file(posixpath.join(root, settings)))
    except ValueError as error:
        return Finding("model", "fail", f"{field}/{settings} is no JSON ({error})", "copy the folder again")
    weights = [own for own in names if own.endswith(".safetensors")]
    if not weights:
        cure = "convert its weights to safetensors: pickled ones could run code, and none at all score at random"
        return Finding("model", "fail", f"{field} holds no *.safetensors", cure)
    if tokenizer and not any(posixpath.basename(own) in TOKENIZERS for own in names):
        return Finding("model", "fail", f"{field} has no tokenizer", f"add one of {', '.join(TOKENIZERS)}")
    broken = _broken(place, weights)
    if broken:
        return Finding("model", "fail", f"{field}: {broken}", "copy the folder again")
    return Finding("model", "ok", f"{field}: config, {'tokenizer, ' if tokenizer else ''}{len(weights)} safetensors")


def _files(path: str, field: str) -> tuple[list[str] | None, str]:
    """Names below a folder or URL, and its place; None for a name of the hub."""
    place = path if "://" in path else folder.fetch(path, field=field)
    if "://" not in place and not os.path.isdir(place):
        return None, place
    fs, root = storage.filesystem(place)
    try:
        found = fs.find(root)
    except Exception as error:
        raise storage.told(error, path, "listed") from error
    if not found:
        raise InputError(f"{field} {path!r} holds no file: check the path")
    return [name.removeprefix(root).lstrip("/") for name in found], place


def _broken(place: str, weights: list[str]) -> str:
    """Why the weights of a local folder cannot be opened; "" where they can. Reads their headers alone."""
    if "://" in place:
        return ""
    from safetensors import SafetensorError, safe_open

    for name in weights:
        try:
            with safe_open(os.path.join(place, name), "pt") as opened:
                if not list(opened.keys()):
                    return f"{name} holds no tensor"
        except (SafetensorError, OSError) as error:
            return f"{name} cannot be opened ({' '.join(str(error).split())[:80]})"
    return ""


def _of_hub(field: str, path: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(path, "config.json"), str):
        return Finding("model", "ok", f"{field} {path}: in the hub's cache")
    cure = f"check the spelling; it is downloaded as the run starts, or beforehand by `hf download {path}`"
    return Finding("model", "warn", f"{field} {path!r} is no folder here, and taken for a name of the hub", cure)


def _checkpoint(path: str) -> Finding:
    fs, inner = storage.filesystem(storage.absolute(path))
    try:
        there = fs.exists(inner)
    except Exception as error:
        raise storage.told(error, path, "read") from error
    if not there:
        return Finding("model", "fail", f"model.checkpoint {path!r} is not there", "check the path")
    return Finding("model", "ok", f"model.checkpoint {path}: there")
