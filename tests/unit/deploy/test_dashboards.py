"""The dashboard shows our metrics, all of them, by queries that Prometheus would take."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml

from raydelt.metrics import DEFINITIONS, Definition
from tests.manifests import ROOT, rendered

MONITORING = ROOT / "cluster" / "monitoring"
BUILT_IN = {"$__rate_interval": "1m", "$run": ".*"}
OWN = {name: definition for definition in DEFINITIONS for name in definition.exported}
# Labels that Prometheus and its histograms add.
MORE = {"le", "job", "instance"}


@pytest.fixture
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def parsed(query: str, dashboard: dict[str, Any]) -> Any:
    """A query's syntax tree, with Grafana's variables replaced by values."""
    values = {f"${own['name']}": own.get("query", "") for own in dashboard["templating"]["list"]} | BUILT_IN
    for name in sorted(values, key=len, reverse=True):
        if isinstance(values[name], str):
            query = query.replace(name, values[name])
    assert "$" not in query, f"a variable that nothing defines: {query}"
    return promql_parser.parse(query)


def selected(query: str, dashboard: dict[str, Any]) -> list[tuple[str, set[str]]]:
    """Every metric that a query reads, with the labels it is matched or grouped by."""
    found = []

    def visit(node: Any, labels: set[str]) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, labels | {one.name for one in node.matchers.matchers}))
            return
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels = labels | set(node.modifier.labels)
        for name in ("expr", "lhs", "rhs", "vector_selector"):
            if hasattr(node, name):
                visit(getattr(node, name), labels)
        for argument in getattr(node, "args", []):
            visit(argument, labels)

    visit(parsed(query, dashboard), set())
    return found


def faults(dashboard: dict[str, Any]) -> list[str]:
    found = []
    for name, labels in itertools.chain.from_iterable(selected(query, dashboard) for query in queries(dashboard)):
        definition = OWN.get(name)
        if definition is None:
            found.append(f"{name} is no metric of ours")
        else:
            found += [f"{name} has no label {own}" for own in labels - set(definition.labels) - MORE]
    return found


def test_queries_read_metrics_and_labels_that_are_defined(dashboard: dict[str, Any]) -> None:
    assert faults(dashboard) == []


def test_every_metric_is_shown(dashboard: dict[str, Any]) -> None:
    shown = {name for query in queries(dashboard) for name, _ in selected(query, dashboard)}
    for definition in DEFINITIONS:
        assert shown & definition.exported, definition.name


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("sum(ray_raydelt_row_total)", "no metric of ours"),
        ('sum(ray_raydelt_rows_total{stages="scores"})', "no label stages"),
        ("sum by (node) (ray_raydelt_rows_total)", "no label node"),
    ],
)
def test_a_planted_fault_is_found(dashboard: dict[str, Any], query: str, told: str) -> None:
    dashboard["panels"][0]["targets"][0]["expr"] = query
    assert any(told in fault for fault in faults(dashboard))


@pytest.mark.parametrize("query", ["sum(ray_raydelt_rows_total", "rate(ray_raydelt_rows_total)", "a b"])
def test_what_is_no_query_is_refused(dashboard: dict[str, Any], query: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(query, dashboard)


def test_panels_are_whole_and_lie_beside_one_another(dashboard: dict[str, Any]) -> None:
    assert {"title", "uid", "schemaVersion", "time", "templating", "panels"} <= dashboard.keys()
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert {"id", "title", "type", "datasource", "gridPos", "targets", "fieldConfig"} <= panel.keys()
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not own & cells, panel["title"]
        cells |= own
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_cost_is_what_the_cluster_held_at_the_prices_given(dashboard: dict[str, Any]) -> None:
    prices = {own["name"]: own for own in dashboard["templating"]["list"] if own["type"] == "textbox"}
    [cost] = [panel for panel in dashboard["panels"] if panel["title"] == "Cost so far"]
    for name in prices:
        assert f"/ 3600 * ${name}" in cost["targets"][0]["expr"]
    assert {name for name, _ in selected(cost["targets"][0]["expr"], dashboard)} == {"ray_raydelt_held_seconds_total"}


def test_names_are_those_that_prometheus_wants() -> None:
    for definition in DEFINITIONS:
        assert re.fullmatch(r"raydelt_[a-z_]+", definition.name)
        assert definition.name.endswith("_total") is (definition.kind == "counter")
    assert len({definition.name for definition in DEFINITIONS}) == len(DEFINITIONS)
    histogram = Definition("histogram", "raydelt_x", "x.")
    assert histogram.exported == {"ray_raydelt_x_bucket", "ray_raydelt_x_count", "ray_raydelt_x_sum"}


def test_prometheus_reads_the_list_that_ray_keeps() -> None:
    from ray._private import ray_constants

    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["scrape_configs"],
        "properties": {
            "global": {"type": "object", "additionalProperties": False, "properties": {"scrape_interval": {}}},
            "scrape_configs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["job_name", "file_sd_configs"],
                    "properties": {"job_name": {"type": "string"}, "file_sd_configs": {"type": "array"}},
                },
            },
        },
    }
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    jsonschema.validate(config, schema)
    [job] = config["scrape_configs"]
    [files] = [own["files"] for own in job["file_sd_configs"]]
    assert [file.rpartition("/")[2] for file in files] == [ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE]


def test_the_monitor_scrapes_ports_that_pods_have() -> None:
    resources = rendered("aws")
    [monitor] = [one["spec"] for one in resources if one["kind"] == "PodMonitor"]
    [cluster] = [one["spec"] for one in resources if one["kind"] == "RayCluster"]
    [policy] = [one["spec"] for one in resources if one["kind"] == "NetworkPolicy"]
    [head] = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    scraped = {ports[endpoint["port"]] for endpoint in monitor["podMetricsEndpoints"]}
    [allowed] = [
        {port["port"] for port in rule["ports"]}
        for rule in policy["ingress"]
        if "prometheus" in json.dumps(rule["from"])
    ]
    assert scraped == allowed
    for group in cluster["workerGroupSpecs"]:
        [worker] = group["template"]["spec"]["containers"]
        assert {"name": "metrics", "containerPort": ports["metrics"]} in worker["ports"]
        assert group["rayStartParams"]["metrics-export-port"] == str(ports["metrics"])
