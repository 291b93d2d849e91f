"""The files for `ray up` hold to Ray's own schema and checks, and their machines to the cloud's own request model."""

from __future__ import annotations

import copy
import json
import shlex
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate
import jsonschema
import pytest
import yaml

from tests.manifests import ROOT

LAUNCHER = ROOT / "cluster" / "launcher"
FILES = sorted(path.stem for path in LAUNCHER.glob("*.yaml"))


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((LAUNCHER / f"{name}.yaml").read_text())
    return found


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The file as `ray up` reads it: filled up with defaults, and validated."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def ec2_faults(node_config: dict[str, Any]) -> str:
    """What EC2's own model of RunInstances has against a machine; empty where nothing."""
    model = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    shape = botocore.model.ServiceModel(model).operation_model("RunInstances").input_shape
    request = {"ImageId": "ami-0", "MinCount": 1, "MaxCount": 1, **node_config}
    unknown = [f"unknown field {path}" for path in _unknown(request, shape)]
    return "; ".join([*unknown, botocore.validate.ParamValidator().validate(request, shape).generate_report()]).strip()


def _unknown(value: Any, shape: Any, path: str = "") -> list[str]:
    if shape.type_name == "structure":
        known = shape.members
        found = [f"{path}.{key}" for key in value if key not in known]
        pairs = [(f"{path}.{key}", inner, known[key]) for key, inner in value.items() if key in known]
    elif shape.type_name == "list":
        found, pairs = [], [(f"{path}.{i}", inner, shape.member) for i, inner in enumerate(value)]
    else:
        return []
    return found + [fault for own, inner, member in pairs for fault in _unknown(inner, member, own)]


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name: str) -> None:
    ready = checked(loaded(name))
    assert ready["available_node_types"]["gpu"]["max_workers"] > 0


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("path", "value", "error", "told"),
    [
        ("idle_timeout_minute", 5, jsonschema.ValidationError, "idle_timeout_minute"),
        ("max_workers", "12", jsonschema.ValidationError, "'12' is not of type 'integer'"),
        ("available_node_types.gpu.maximum", 2, jsonschema.ValidationError, "maximum"),
        ("available_node_types.gpu.resources", {"GPU": "1"}, jsonschema.ValidationError, "'1' is not of type"),
        ("docker.images", "raydelt", jsonschema.ValidationError, "images"),
        ("head_node_type", "heads", ValueError, "head_node_type"),
        ("available_node_types.gpu.min_workers", 100, ValueError, "max_workers"),
    ],
)
def test_a_planted_fault_is_found(name: str, path: str, value: Any, error: type[Exception], told: str) -> None:
    config = loaded(name)
    *parents, last = path.split(".")
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(error, match=told):
        checked(config)


def test_machines_are_what_ec2_takes() -> None:
    for kind, own in loaded("aws")["available_node_types"].items():
        assert ec2_faults(own["node_config"]) == "", kind


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"InstanceTypes": "g5.2xlarge"}, "InstanceTypes"),
        ({"InstanceMarketOptions": {"MarketTyp": "spot"}}, "MarketTyp"),
        ({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": "large"}}]}, "VolumeSize"),
    ],
)
def test_a_fault_in_a_machine_is_found(change: dict[str, Any], told: str) -> None:
    assert told in ec2_faults(loaded("aws")["available_node_types"]["gpu"]["node_config"] | change)


def test_workers_are_spot_machines_that_come_and_go() -> None:
    for name in FILES:
        config = loaded(name)
        assert 0 < config["idle_timeout_minutes"] <= 10
        types = config["available_node_types"]
        assert "GPU" in types["gpu"]["resources"]
        for kind in ("cpu", "gpu"):
            assert types[kind]["min_workers"] == 0 < types[kind]["max_workers"]
            assert "spot" in json.dumps(types[kind]["node_config"]).lower()
        assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
        assert "spot" not in json.dumps(types[config["head_node_type"]]["node_config"]).lower()


def test_the_head_on_ec2_has_a_role_of_its_own() -> None:
    types = loaded("aws")["available_node_types"]
    names = {kind: own["node_config"]["IamInstanceProfile"]["Name"] for kind, own in types.items()}
    # Ray's default for a head may not pass another role on, and workers that name one never start.
    assert names == {"head": "raydelt-head", "cpu": "raydelt-worker", "gpu": "raydelt-worker"}


def test_the_dashboard_stays_on_loopback_and_every_node_has_the_token() -> None:
    for name in FILES:
        config = loaded(name)
        [start] = [line for line in config["head_start_ray_commands"] if "ray start" in line]
        assert "--dashboard-host=127.0.0.1" in start
        assert "--num-cpus=0" in start
        assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert config["file_mounts"] == {"/home/raydelt/.ray/auth_token": "~/.ray/auth_token"}


def test_containers_start_with_the_shell_that_ray_asks_for() -> None:
    from ray.autoscaler._private.docker import docker_start_cmds

    for name in FILES:
        docker = loaded(name)["docker"]
        command = docker_start_cmds(
            "ubuntu", docker["image"], {}, "raydelt", docker["run_options"], "/tmp", "docker", "/home/raydelt"
        )
        assert shlex.split(command)[-2:] == [docker["image"], "bash"]
        assert "--entrypoint=" in shlex.split(command)


def test_images_are_ours() -> None:
    for name in FILES:
        config = loaded(name)
        assert config["docker"]["image"].startswith("raydelt-cpu:")
        assert config["available_node_types"]["gpu"]["docker"]["worker_image"].startswith("raydelt-gpu:")
