"""What a run counts is what Prometheus reads from the node."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from raydelt import metrics, pipeline
from tests.flow import spec, write_digits

pytestmark = pytest.mark.usefixtures("ray_session")
PATIENCE_SECONDS = 60
LINE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$")


def scraped(run: str) -> dict[tuple[str, str], float]:
    """Values of a run by metric and stage (or resource), summed over processes."""
    found: dict[tuple[str, str], float] = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        for line in text.splitlines():
            match = LINE.match(line)
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"])) if match else {}
            if match and labels.get("run") == run:
                key = match["name"], labels.get("stage", labels.get("resource", ""))
                found[key] = found.get(key, 0.0) + float(match["value"])
    return found


def test_a_run_is_counted_exactly_and_every_metric_is_exported(tmp_path: Path) -> None:
    config = spec(
        write_digits(tmp_path / "in", rows=1500),
        tmp_path / "out",
        name="counted",
        score=[{"kind": "tests.plugins:NanConfig", "share": 0.02}],
        rank={"combine": {"weights": {"hash": 1.0}, "gate": None}},
        corpus={"source": str(tmp_path / "in"), "feature_columns": ["pixels"], "label_column": "label"}
        | {"error_budget": 0.1},
    )
    run = pipeline.execute(config, until="ranking")
    scores = run.manifests["scores"]
    quarantined = sum(part.rows for part in scores.sides["quarantine"])
    assert quarantined > 0
    expected = {
        ("ray_raydelt_rows_total", "corpus"): run.manifests["corpus"].rows,
        ("ray_raydelt_rows_total", "scores"): scores.rows + quarantined,
        ("ray_raydelt_rows_total", "ranking"): run.manifests["ranking"].rows,
        ("ray_raydelt_quarantined_total", "scores"): quarantined,
        ("ray_raydelt_queue_parts", "scores"): 0,
        ("ray_raydelt_part_seconds_count", "scores"): len(scores.parts),
    }
    names = {name for definition in metrics.DEFINITIONS for name in definition.exported}
    seen: set[str] = set()
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = scraped("counted")
        seen |= {name for name, _ in found}
        if (names <= seen and expected.items() <= found.items()) or time.monotonic() > until:
            break
        time.sleep(0.5)
    assert {key: found.get(key) for key in expected} == expected
    assert names <= seen
    # At most two actors, one for each CPU, are at work at a time.
    assert 0 < found["ray_raydelt_actor_busy_seconds_total", "scores"] <= 2 * run.seconds["scores"]
    held = found["ray_raydelt_held_seconds_total", "CPU"]
    assert held == pytest.approx(2 * found["ray_raydelt_held_seconds_total", "GPU"], rel=1e-6)
    assert held >= 2 * sum(run.seconds.values())

    before = found["ray_raydelt_rows_total", "scores"]
    pipeline.execute(config, until="ranking")
    assert scraped("counted")["ray_raydelt_rows_total", "scores"] == before
