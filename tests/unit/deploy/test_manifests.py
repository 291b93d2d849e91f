"""Every overlay of cluster/kubernetes holds to the real schemas, and to what the README promises of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
import yaml

from raydelt.cli.app import app
from raydelt.specfile import validate
from tests.manifests import KUBERNETES, OVERLAYS, ROOT, clusters, faults, pod_templates, rendered

LABEL = "app.kubernetes.io/part-of"


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(request.param)


def pods(resources: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for resource in resources:
        yield from pod_templates(resource)


def walked(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from walked(inner, f"{path}.{key}")


def test_every_resource_holds_to_the_published_schemas(resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        assert faults(resource) == [], resource["kind"]


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "value", "told"),
    [
        ("cpu", "RayCluster", "spec.headGroupSpecs", {}, "headGroupSpecs"),
        ("cpu", "RayCluster", "spec.authOptions.mode", "tokens", "tokens"),
        ("cpu", "RayCluster", "spec.autoscalerOptions.idleTimeoutSeconds", "120s", "120s"),
        ("cpu", "RayCluster", "spec.headGroupSpec.rayStartParams", {"num-cpus": 0}, "0 is not of type 'string'"),
        ("gpu-spot", "RayCluster", "spec.workerGroupSpecs.1.maxReplica", 4, "maxReplica"),
        ("gpu-spot", "RayCluster", "spec.workerGroupSpecs.1.template.spec.toleration", [], "toleration"),
        ("gpu-spot", "RayCluster", "spec.workerGroupSpecs.1.template.spec.containers.0.resource", {}, "resource"),
        ("job", "RayJob", "spec.entryPoint", "true", "entryPoint"),
        ("job", "RayJob", "spec.rayClusterSpec.headGroupSpec.template.spec.hostnetwork", True, "hostnetwork"),
        ("scheduled-raycronjob", "RayCronJob", "spec.concurrencyPolicy", "Forbid", "concurrencyPolicy"),
        ("scheduled", "CronJob", "spec.concurrencyPolicy", False, "False is not of type"),
        ("scheduled", "CronJob", "spec.jobTemplate.spec.backofflimit", 3, "backofflimit"),
        ("cpu", "NetworkPolicy", "spec.ingres", [], "ingres"),
        ("aws", "PodMonitor", "spec.podMetricsEndpoint", [], "podMetricsEndpoint"),
    ],
)
def test_a_planted_fault_is_found(overlay: str, kind: str, path: str, value: Any, told: str) -> None:
    [resource] = [one for one in rendered(overlay) if one["kind"] == kind]
    *parents, last = path.split(".")
    inner: Any = resource
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    assert any(told in fault for fault in faults(resource)), faults(resource)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_render_as_kustomize_renders_them(overlay: str) -> None:
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if kustomize is None and kubectl is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    command = [kustomize, "build"] if kustomize else [str(kubectl), "kustomize"]
    done = subprocess.run(
        [*command, str(KUBERNETES / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    def ordered(found: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(one, sort_keys=True) for one in found)

    assert ordered(rendered(overlay)) == ordered(list(yaml.safe_load_all(done.stdout)))


def test_the_dashboard_is_never_on_a_public_address(resources: list[dict[str, Any]]) -> None:
    assert not {one["kind"] for one in resources} & {"Ingress", "Service", "Gateway", "HTTPRoute"}
    for resource in resources:
        for path, value in walked(resource):
            name = path.rpartition(".")[2]
            assert name not in ("hostNetwork", "hostPort", "externalIPs", "ingressOptions", "loadBalancerIP"), path
            assert value not in ("LoadBalancer", "NodePort"), path
        for spec in clusters(resource):
            assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
            assert spec["headGroupSpec"]["enableIngress"] is False


def test_the_network_policy_covers_every_pod_and_lets_in_no_whole_network(resources: list[dict[str, Any]]) -> None:
    [policy] = [one for one in resources if one["kind"] == "NetworkPolicy"]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    for name, pod in pods(resources):
        assert chosen.items() <= pod["metadata"]["labels"].items(), name
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    for rule in policy["spec"]["ingress"]:
        for peer in rule["from"]:
            assert "ipBlock" not in peer
            assert peer["podSelector"].get("matchLabels"), "a rule lets in every pod"


def test_clusters_ask_for_a_token_that_no_manifest_holds(resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        assert resource["kind"] != "Secret"
        for spec in clusters(resource):
            assert spec["authOptions"] == {"mode": "token", "secretName": "raydelt-auth"}
        for path, value in walked(resource):
            if path.endswith("secretKeyRef"):
                assert value == {"name": "raydelt-auth", "key": "auth_token"}
            if isinstance(value, dict) and re.search(r"TOKEN|KEY|SECRET|PASSWORD", str(value.get("name", ""))):
                assert "value" not in value, f"{path} holds a secret"


def test_clusters_grow_from_nothing_and_shrink_again(resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        for spec in clusters(resource):
            assert spec["enableInTreeAutoscaling"] is True
            assert spec["autoscalerOptions"]["version"] == "v2"
            assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
            names = [group["groupName"] for group in spec["workerGroupSpecs"]]
            assert len(set(names)) == len(names)
            for group in spec["workerGroupSpecs"]:
                assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
                assert 0 < group["idleTimeoutSeconds"] <= 600


def test_pods_meet_the_restricted_standard_and_say_what_they_need(resources: list[dict[str, Any]]) -> None:
    for name, pod in pods(resources):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 1000, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    for resource in resources:
        for spec in clusters(resource):
            assert spec["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False


def test_only_heads_hold_a_token_of_the_kubernetes_api(resources: list[dict[str, Any]]) -> None:
    accounts = {one["metadata"]["name"] for one in resources if one["kind"] == "ServiceAccount"}
    for name, pod in pods(resources):
        spec = pod["spec"]
        assert spec["serviceAccountName"] in accounts, name
        assert (spec["serviceAccountName"] == "raydelt-head") is (name == "ray-head")
        assert (name == "ray-head") is spec.get("automountServiceAccountToken", True)


def test_ray_nodes_are_probed_and_leave_within_their_time(resources: list[dict[str, Any]]) -> None:
    for name, pod in pods(resources):
        if name not in ("ray-head", "ray-worker"):
            continue
        [container] = pod["spec"]["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        *command, grace = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["ray", "stop", "--grace-period"]
        assert int(grace) < pod["spec"]["terminationGracePeriodSeconds"]


def test_gpu_workers_are_only_on_spot_machines_with_gpus() -> None:
    for overlay in OVERLAYS:
        for resource in rendered(overlay):
            for spec in clusters(resource):
                for group in spec["workerGroupSpecs"]:
                    pod = group["template"]["spec"]
                    [container] = pod["containers"]
                    if "nvidia.com/gpu" not in container["resources"]["limits"]:
                        assert container["image"].startswith("raydelt-cpu")
                        continue
                    assert container["image"].startswith("raydelt-gpu")
                    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod[
                        "tolerations"
                    ]
                    assert re.search("spot", json.dumps(pod["nodeSelector"]), re.IGNORECASE), overlay


def test_versions_are_those_of_the_package_and_of_its_ray(resources: list[dict[str, Any]]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ray = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ray is not None
    for resource in resources:
        for spec in clusters(resource):
            assert spec["rayVersion"] == ray[1]
    for _, pod in pods(resources):
        for container in pod["spec"]["containers"]:
            assert container["image"] in (f"raydelt-cpu:{version}", f"raydelt-gpu:{version}")


def test_what_is_run_is_a_valid_spec_on_commands_that_exist(resources: list[dict[str, Any]]) -> None:
    [spec] = [one["data"]["run.yaml"] for one in resources if one["kind"] == "ConfigMap"]
    config = validate(yaml.safe_load(spec))
    assert config.cluster.most is not None, "a cluster that starts without workers would be refused"
    commands = []
    for path, value in (found for resource in resources for found in walked(resource)):
        if path.endswith(".entrypoint"):
            program, *arguments = shlex.split(value)
            assert program == "raydelt"
            commands.append(arguments)
        if path.endswith(".args"):
            commands.append(value)
    known: Any = typer.main.get_command(app)
    for name, *arguments in commands:
        assert "/etc/raydelt/run.yaml" in arguments
        parsed = known.commands[name].make_context(name, list(arguments))
        if name == "rescore":
            assert parsed.params["first"] is True, "a run that was never scored would be refused for ever"
        if name == "submit":
            assert parsed.params["job"].value == "rescore"
            assert parsed.params["wait"] is True, "Forbid would forbid nothing"
            assert parsed.params["job_id"] == "$(JOB_NAME)", "a pod's second attempt would be a second job"
            assert parsed.params["address"] == "http://raydelt-head-svc:8265"


def test_a_schedule_never_overlaps_itself() -> None:
    [cron] = [one for one in rendered("scheduled") if one["kind"] == "CronJob"]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron["spec"]["startingDeadlineSeconds"] > 0
    [environment] = [pod["spec"]["containers"][0]["env"] for _, pod in pod_templates(cron)]
    assert "batch.kubernetes.io/job-name" in json.dumps(environment)


def test_a_job_has_the_cluster_that_stands_elsewhere() -> None:
    [own] = [spec for one in rendered("gpu-spot") for spec in clusters(one)]
    for overlay in ("job", "scheduled-raycronjob"):
        assert [spec for one in rendered(overlay) for spec in clusters(one)] == [own]
