"""Streams: no false alarms, quick true ones, equal to river, in any order of arrival, and however often stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from river import drift

from raydelt.errors import InputError, SpecError
from raydelt.monitor.streams import Settings, Stream, WindowSums, alarms_of

EACH = Settings(window=1.0)


def bernoulli(rate: float, n: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < rate).astype(float)


def run(values: np.ndarray, settings: Settings = EACH) -> Stream:
    stream = Stream(settings)
    stream.feed(np.arange(len(values), dtype=float), values)
    stream.finish()
    return stream


def test_no_false_alarm_in_20_stationary_streams_of_20k() -> None:
    assert sum(len(run(bernoulli(0.2, 20_000, seed)).alarms) for seed in range(20)) == 0


def test_a_rise_from_20_to_40_percent_is_found_within_400() -> None:
    for seed in range(20):
        values = np.concatenate([bernoulli(0.2, 5000, seed), bernoulli(0.4, 1000, 1000 + seed)])
        first = run(values).alarms[0]
        assert 5000 <= first.window < 5400


@pytest.mark.parametrize(
    ("settings", "oracle"),
    [
        (EACH, lambda: drift.ADWIN()),
        (Settings("kswin", window=1.0, alpha=0.001, seed=3), lambda: drift.KSWIN(alpha=0.001, seed=3)),
        (Settings("page_hinkley", window=1.0, threshold=20.0), lambda: drift.PageHinkley(threshold=20.0)),
    ],
)
def test_alarms_are_those_of_river_on_a_recorded_stream(settings: Settings, oracle: object) -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(level, 0.5, 400) for level in (0, 2, 1, 4, 0)])
    detector, expected = oracle(), []  # type: ignore[operator]
    for index, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            expected.append(index)
    assert len(expected) >= 3
    assert [alarm.window for alarm in run(values, settings).alarms] == expected


def test_a_stream_that_was_stopped_goes_on_as_if_it_had_not_been() -> None:
    values = np.concatenate([bernoulli(0.2, 700, 1), bernoulli(0.6, 700, 2), bernoulli(0.1, 700, 3)])
    times = np.arange(len(values), dtype=float)
    for settings in (EACH, Settings(window=1.0, memory=150), Settings("kswin", window=1.0, memory=300)):
        whole, stream = run(values, settings), Stream(settings)
        for start in range(0, len(values), 130):
            stream = Stream.restored(json.loads(json.dumps(stream.state())))
            stream.feed(times[start : start + 130], values[start : start + 130])
        stream.finish()
        assert stream.state() == whole.state()


def test_the_order_of_arrival_within_the_lateness_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.random(3000) * 300)
    values = rng.normal(np.where(times > 150, 1.0, 0.0), 0.3)
    settings = Settings(window=2.0, lateness=5.0)
    arrival = np.argsort(times + rng.random(3000) * 4.9)
    in_order, mixed = Stream(settings), Stream(settings)
    in_order.feed(times, values)
    for own in np.array_split(arrival, 50):
        mixed.feed(times[own], values[own])
    in_order.finish()
    mixed.finish()
    assert mixed.late == 0
    assert mixed.state() == in_order.state()
    assert mixed.alarms


def test_what_comes_too_late_is_counted_and_left_out() -> None:
    stream = Stream(Settings(window=10.0, lateness=5.0))
    stream.feed([1.0, 16.0], [1.0, 2.0])
    stream.feed([2.0, 11.0], [9.0, 4.0])
    stream.finish()
    assert stream.late == 1
    assert stream.means == [1.0, 3.0]


def test_the_memory_bounds_what_is_kept() -> None:
    stream = run(bernoulli(0.2, 5000, 0), Settings(window=1.0, memory=1000))
    assert len(stream.means) <= 1000
    assert stream.closed == 5000


def test_sums_of_windows_add_up_in_any_order_to_what_a_stream_sees() -> None:
    rng = np.random.default_rng(0)
    times, values = rng.random(2000) * 1000, rng.random(2000)
    sums = WindowSums(5.0)
    whole = sums.add(sums.zero(), times, values)
    parts = [sums.add(sums.zero(), times[own], values[own]) for own in np.array_split(rng.permutation(2000), 7)]
    merged = sums.zero()
    for part in parts[::-1]:
        merged = sums.merge(merged, part)
    assert sums.finish(merged) == sums.finish(whole)
    stream = Stream(Settings(window=5.0))
    stream.feed(times, values)
    stream.finish()
    assert [mean for _, mean in sums.finish(whole)] == pytest.approx(stream.means, abs=1e-12)
    assert alarms_of(sums.finish(whole), Settings(window=5.0)) == stream.alarms == []


def test_events_without_a_time_or_value_are_no_part_of_a_window() -> None:
    sums = WindowSums(1.0)
    state = sums.add(sums.zero(), np.array([0.5, np.nan, 0.7]), np.array([1.0, 1.0, np.nan]))
    assert sums.finish(state) == [(0.0, 1.0)]


def test_wrong_events_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        Stream(EACH).feed([0.0, np.nan], [1.0, 1.0])
    with pytest.raises(SpecError, match="window"):
        Settings(window=0.0)
    assert Stream(EACH).feed([], []) == []
