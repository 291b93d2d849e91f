"""From a YAML file to a RunConfig: reading, overrides, one sentence for every fault, and the JSON schema."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raydelt.config import RunConfig
from raydelt.errors import SpecError
from raydelt.storage.near import near
from raydelt.storage.places import masked


def load(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML spec, apply `a.b=value` overrides, and validate it.

    Raises:
        SpecError: the file is missing, is no YAML mapping, or a field is wrong (field, value and cure are named).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"spec {str(path)!r} does not exist: {near(str(path))}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"spec {str(path)!r} cannot be read ({error})") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"spec {str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SpecError(f"spec {str(path)!r} must be a mapping of sections (name, corpus, score, …, output)")
    for override in overrides or []:
        _apply(raw, override)
    return validate(raw, origin=str(path))


def is_spec(place: str) -> bool:
    """Whether a place is meant as the file of a spec, and not as a run."""
    return place.endswith((".yaml", ".yml")) or Path(place).is_file()


def load_or_resume(place: str, overrides: list[str] | None = None) -> RunConfig:
    """The spec of a YAML file, or of the run that holds a directory.

    Raises:
        SpecError: as `load`.
        InputError: the directory holds no run.
    """
    if is_spec(place):
        return load(place, overrides)
    from raydelt.rundir import config_of
    from raydelt.storage import Store, absolute

    raw = config_of(Store(absolute(place))).resolved()
    for override in overrides or []:
        _apply(raw, override)
    return validate(raw | {"output": place}, origin=place)


def validate(raw: dict[str, Any], *, origin: str = "spec") -> RunConfig:
    """A RunConfig from plain data, with pydantic's findings told in one sentence each."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{origin}: " + "; ".join(_sentence(item) for item in error.errors())) from error


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SpecError(f"override {override!r} must read `section.field=value`")
    *parents, leaf = key.split(".")
    target: Any = raw
    for name in parents:
        if isinstance(target, list):
            target = target[_index(name, target, override)]
            continue
        if target.get(name) is None:
            target[name] = {}
        target = target[name]
        if not isinstance(target, dict | list):
            raise SpecError(f"override {override!r}: {name!r} is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"override {override!r}: the value is not valid YAML") from error
    if isinstance(target, list):
        target[_index(leaf, target, override)] = value
    else:
        target[leaf] = value


def _index(name: str, target: list[Any], override: str) -> int:
    if not name.isdigit() or int(name) >= len(target):
        raise SpecError(f"override {override!r}: {name!r} is no index of a list of {len(target)}")
    return int(name)


def _sentence(item: Any) -> str:
    """One finding of pydantic as `field: fault (got value): cure`."""
    where = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = _fields_at(item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
        cure = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"{where}: unknown key: {cure}"
    if item["type"] == "missing":
        return f"{where}: missing: add it to the spec"
    got = item["input"]
    got = masked(got) if isinstance(got, str) else got
    shown = "" if isinstance(got, dict | list | BaseModel) else f" (got {got!r})"
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at this location takes; empty where it is no section."""
    model: Any = RunConfig
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return sorted(getattr(model, "model_fields", {}))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec, with the settings of every built-in scorer."""
    from raydelt.scorers.registry import BUILT_IN, config_class

    schema = RunConfig.model_json_schema()
    kinds = {kind: config_class(kind).model_json_schema() for kind in BUILT_IN}
    schema["$defs"] |= {f"score_{kind}": kind_schema for kind, kind_schema in kinds.items()}
    schema["properties"]["score"]["items"] = {"anyOf": [{"$ref": f"#/$defs/score_{kind}"} for kind in kinds]}
    return schema
