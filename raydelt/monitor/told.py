"""What a look at a run found, as plain data, as lines on the terminal, and its examples as a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow.csv as pc
import pyarrow.parquet as pq

from raydelt.errors import InputError
from raydelt.monitor.drift import CHANNELS, Comparison, Test
from raydelt.monitor.watch import Watched
from raydelt.storage import filesystem

WORST = 3
SUFFIXES = (".csv", ".parquet")


def plain(found: Watched) -> dict[str, Any]:
    """Everything but the examples, for JSON."""
    names = ("version", "versions", "rows", "utility", "decay", "retirement", "notes")
    return {name: getattr(found, name) for name in names} | {
        "comparisons": [
            asdict(own) | {"verdicts": {channel: own.verdict(channel) for channel in CHANNELS}}
            for own in found.comparisons
        ],
        "alarms": None if found.alarms is None else [asdict(alarm) for alarm in found.alarms],
        "decision": asdict(found.decision),
    }


def lines(found: Watched) -> list[str]:
    """What matters, in a screenful."""
    told = [f"version {found.version}, {found.versions} in all, {found.rows} examples, utility {found.utility}"]
    for comparison in found.comparisons:
        told += ["", *_comparison(comparison)]
    if found.alarms is not None:
        times = ", ".join(f"{alarm.time:.0f}" for alarm in found.alarms) or "none"
        told += ["", f"changes of the error rate in the order of the examples' times: {times}"]
    told += ["", _decay(found), *_retirement(found)]
    fired = ", ".join(found.decision.fired) or "none"
    told += ["", f"triggers: {fired}", f"score again: {found.decision.scope.value} ({found.decision.reason})"]
    return told + ([""] if found.notes else []) + [f"note: {note}" for note in found.notes]


def export(found: Watched, path: str) -> int:
    """Write what is known of each example to a .csv or .parquet file; how many there were.

    Raises:
        InputError: the path ends otherwise, or cannot be written.
    """
    if not path.endswith(SUFFIXES):
        raise InputError(f"--export {path!r} must end in {' or '.join(SUFFIXES)}")
    rows, writer = 0, None
    try:
        fs, place = filesystem(path)
        with fs.open(place, "wb") as file:
            for table in found.examples():
                kind = pc.CSVWriter if path.endswith(".csv") else pq.ParquetWriter
                writer = writer or kind(file, table.schema)
                writer.write_table(table)
                rows += table.num_rows
            if writer is not None:
                writer.close()
    except OSError as error:
        raise InputError(f"--export {path!r} cannot be written ({error}): choose another place") from error
    return rows


def _comparison(own: Comparison) -> list[str]:
    told = [f"{own.name}: {own.reference} ({own.rows[0]}) and {own.current} ({own.rows[1]})"]
    if own.tests:
        told.append(f"  {'channel':8} {'column':24} {'statistic':11} {'value':>9} {'p':>9} {'corrected':>9}  verdict")
    for channel in CHANNELS:
        tests = sorted((t for t in own.tests if t.channel == channel), key=_severity)
        told += [_test(test) for test in tests[:WORST]]
        rest = tests[WORST:]
        if rest:
            drifted = sum(test.verdict == "drift" for test in rest)
            told.append(f"  {channel:8} and {len(rest)} more tests, of which {drifted or 'none'} drifted")
    told += [f"  => {own.concept}"] if own.concept else []
    return told + [f"  note: {note}" for note in own.notes]


def _severity(test: Test) -> tuple[int, float, float]:
    return ("drift", "slight", "none").index(test.verdict), test.adjusted, -abs(test.value)


def _test(test: Test) -> str:
    verdict = test.verdict + (f" ({test.size})" if test.size else "")
    numbers = f"{test.value:9.4f} {test.p_value:9.2g} {test.adjusted:9.2g}"
    return f"  {test.channel:8} {test.name[:24]:24} {test.statistic:11} {numbers}  {verdict}"


def _decay(found: Watched) -> str:
    own = found.decay
    if not own["fitted"]:
        return "decay: no example has 3 versions yet"
    rates = " / ".join(f"{own[f'kappa_{q}']:+.3f}" for q in (10, 50, 90))
    return (
        f"decay of {own['fitted']} examples against the median: rate {rates} (10, 50, 90 %); "
        f"{own['decaying']} surely lose, {own['growing']} surely gain"
    )


def _retirement(found: Watched) -> list[str]:
    states: Any = found.retirement["states"]
    changes: Any = found.retirement["changes"]
    told = ", ".join(f"{count} {name}" for name, count in states.items())
    weight = found.retirement["greatest_weight"]
    return [f"retirement: {told}; greatest weight {weight:.2f}", *(f"  {n} {name}" for name, n in changes.items())]
