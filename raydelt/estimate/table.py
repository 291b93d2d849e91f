"""An estimate as text: a line for every stage, then one for every size of cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raydelt.report.wording import duration, size


def text(found: Mapping[str, Any]) -> str:
    """The estimate as aligned lines."""
    trials = ", ".join(f"{one['rows']:,} rows in {duration(one['seconds'])}" for one in found["trials"])
    lines = [f"{found['name']}: {found['rows']:,} rows, up to {found['until']}; trials: {trials}", ""]
    head = ("stage", "time", "fixed", "shared by", "grows with", "shared up to")
    rows = [
        (
            name,
            duration(own["seconds"]),
            duration(own["fixed_seconds"]),
            f"{round(own['hands'], 1):g}",
            own["grows_with"],
            own["shared_up_to"],
        )
        for name, own in found["stages"].items()
    ]
    lines += _aligned([head, *rows], right=(1, 2, 3))
    if found["scorers"]:
        told = ", ".join(f"{name} {rate:,.0f}" for name, rate in found["scorers"].items())
        lines += ["", f"rows/s of an actor: {told}"]
    lines += ["", *_aligned(_clusters(found["clusters"]), right=range(1, 9)), ""]
    lines += [f"x{one['times']}: {told}" for one in found["clusters"] for told in one["limits"]]
    asked = found["clusters"][0]["requests"]
    if any(asked.values()):
        lines.append("requests to the object store: " + ", ".join(f"{n:,} {name}" for name, n in asked.items()))
    lines += [_bill(one) for one in found["clusters"][0]["prices"]]
    serial = found["clusters"][0]["serial_seconds"]
    lines.append(f"{duration(serial)} of it is serial: no number of actors shortens that")
    return "\n".join(lines)


def _clusters(clusters: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("actors", "CPUs", "time", "CPU-hours", "GPU-hours", "memory", "object store", "disk", "compute")
    ]
    for one in clusters:
        costs = [offer["compute"] for offer in one["prices"]]
        rows.append(
            (
                f"{one['actors']} (x{one['times']})",
                f"{one['cpus']}",
                duration(one["seconds"]),
                f"{one['cpu_hours']:.3g}",
                f"{one['gpu_hours']:.3g}",
                size(one["memory_bytes"]),
                size(one["object_store_bytes"]),
                size(one["disk_bytes"]),
                f"{min(costs):.3g} to {max(costs):.3g}" if costs else "-",
            )
        )
    return rows


def _bill(one: Mapping[str, Any]) -> str:
    machines = f"{one['machines']} x {one['instance']} {one['compute']:.3g} {one['currency']}"
    storage = f"storage {one['storage_month']:.2g} a month, requests {one['requests']:.2g}"
    return f"{one['cloud']} {one['region']}: {machines}, {storage} ({one['note']}, {one['date']})"


def _aligned(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:>{width}}" if place in right else f"{cell:{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
