"""Renders the overlays of cluster/kubernetes as kustomize does, and holds what comes out to the real schemas.

Only what our overlays use: resources, components, namespace, JSON patches, `$patch: delete` and replacements of whole
fields. Anything else in a kustomization is refused here, and a test compares with kustomize itself where it is found.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "cluster" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
REFERENCE = Path(os.environ.get("RAYDELT_REFERENCE", ROOT.parent / "shared" / "reference"))
CRDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
OLDEST = "1.31"
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "replacements"}
# The Prometheus operator's schema is not to be had here; these are the fields of it that we use.
POD_MONITOR = {
    "type": "object",
    "required": ["selector", "podMetricsEndpoints"],
    "additionalProperties": False,
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "podMetricsEndpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "port": {"type": "string"},
                    "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
                    "relabelings": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "sourceLabels": {"type": "array", "items": {"type": "string"}},
                                "targetLabel": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def rendered(overlay: str) -> list[dict[str, Any]]:
    """The resources of an overlay, in no order that matters."""
    return _accumulated(KUBERNETES / "overlays" / overlay, [])


def _accumulated(folder: Path, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(own) - KNOWN
    assert not unknown, f"{folder}: {unknown} is not rendered here"
    for name in own.get("resources", []):
        path = folder / name
        found += _accumulated(path, []) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for name in own.get("components", []):
        found = _accumulated(folder / name, found)
    for resource in found:
        if "namespace" in own and resource["kind"] != "Namespace":
            resource["metadata"]["namespace"] = own["namespace"]
    for patch in own.get("patches", []):
        found = _patched(found, yaml.safe_load(patch.get("patch") or (folder / patch["path"]).read_text()), patch)
    for one in own.get("replacements", []):
        _replace(found, one)
    return found


def _patched(found: list[dict[str, Any]], change: Any, patch: dict[str, Any]) -> list[dict[str, Any]]:
    targets = [resource for resource in found if _selected(resource, patch["target"])]
    assert targets, f"no resource for {patch['target']}"
    if isinstance(change, dict):
        assert change.get("$patch") == "delete", "only JSON patches and deletions are rendered here"
        return [resource for resource in found if resource not in targets]
    return [jsonpatch.apply_patch(one, copy.deepcopy(change)) if one in targets else one for one in found]


def _replace(found: list[dict[str, Any]], one: dict[str, Any]) -> None:
    source, field = dict(one["source"]), one["source"]["fieldPath"].split(".")
    del source["fieldPath"]
    [origin] = [resource for resource in found if _selected(resource, source)]
    value = functools.reduce(lambda held, key: held[key], field, origin)
    for target in one["targets"]:
        assert target.get("options") == {"create": True}, "replacements create their field here"
        for resource in found:
            for path in target["fieldPaths"] if _selected(resource, target["select"]) else ():
                *parents, last = path.split(".")
                functools.reduce(lambda held, key: held[key], parents, resource)[last] = copy.deepcopy(value)


def _selected(resource: dict[str, Any], by: dict[str, str]) -> bool:
    group = resource["apiVersion"].rpartition("/")[0]
    there = {"group": group, "kind": resource["kind"], "name": resource["metadata"]["name"]}
    return all(there[key] == value for key, value in by.items())


@functools.cache
def crd_validator(kind: str) -> jsonschema.Draft202012Validator:
    """KubeRay's published schema of a kind, with unknown fields refused, as the API server drops or refuses them.

    Its rules in CEL are not checked.
    """
    path = REFERENCE / "kuberay-crds" / f"{CRDS[kind]}.yaml"
    if not path.is_file():
        pytest.skip(f"{path} is absent: set RAYDELT_REFERENCE to the folder that holds kuberay-crds")
    loaded = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [schema] = [v["schema"]["openAPIV3Schema"] for v in loaded["spec"]["versions"] if v["name"] == "v1"]
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict["properties"] = {name: _strict(own) for name, own in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    return strict


def faults(resource: dict[str, Any]) -> list[str]:
    """What the schemas have against a resource and the pods that it makes, as `path: message`."""
    found = []
    if resource["kind"] in CRDS:
        found += [_told(error) for error in crd_validator(resource["kind"]).iter_errors(resource)]
    elif resource["kind"] == "PodMonitor":
        found += [_told(error) for error in jsonschema.Draft202012Validator(POD_MONITOR).iter_errors(resource["spec"])]
    else:
        found += _core_faults(resource)
    for name, pod in pod_templates(resource):
        own = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **pod.get("metadata", {})}}
        found += [f"{name}: {fault}" for fault in _core_faults(own | {"spec": pod["spec"]})]
    return found


def _core_faults(resource: dict[str, Any]) -> list[str]:
    found = []
    for version in (OLDEST, kubernetes_validate.latest_version()):
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(_told(error))
    return found


def _told(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(str(key) for key in error.absolute_path)}: {error.message}"


def pod_templates(resource: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod templates anywhere in a resource, named after their first container."""
    if isinstance(resource, dict):
        if "spec" in resource and isinstance(resource["spec"], dict) and "containers" in resource["spec"]:
            yield resource["spec"]["containers"][0]["name"], resource
        for value in resource.values():
            yield from pod_templates(value)
    elif isinstance(resource, list):
        for value in resource:
            yield from pod_templates(value)


def clusters(resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specs of Ray clusters in a resource."""
    spec = resource.get("spec", {})
    if resource["kind"] == "RayCluster":
        yield spec
    if resource["kind"] == "RayJob":
        yield spec["rayClusterSpec"]
    if resource["kind"] == "RayCronJob":
        yield spec["jobTemplate"]["rayClusterSpec"]
