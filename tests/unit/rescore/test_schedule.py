"""A schedule does what is due once, however long nobody looked, and goes on after failures and restarts."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from raydelt.cli.rescore import HEAD
from raydelt.errors import InputError, SpecError
from raydelt.rescore.kubernetes import manifests
from raydelt.rescore.schedule import FILE, Clock, Cron, serve
from raydelt.storage import Store
from tests.manifests import rendered

START = datetime.datetime(2026, 1, 1, 0, 30, tzinfo=datetime.UTC).timestamp()
HOUR = 3600.0


class Simulated(Clock):
    """A clock that only moves when somebody waits."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def now(self) -> float:
        return self.moment

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.moment += seconds


def hours(times: list[float]) -> list[float]:
    return [(moment - START) / HOUR for moment in times]


def test_work_is_done_at_the_times_of_the_line(tmp_path: Path) -> None:
    clock, seen = Simulated(START), list[float]()
    serve(Store(str(tmp_path)), Cron("0 * * * *"), lambda: seen.append(clock.now()), clock=clock, times=3)
    assert hours(seen) == [0.5, 1.5, 2.5]


def test_times_that_passed_during_a_long_job_are_caught_up_once(tmp_path: Path) -> None:
    clock, seen = Simulated(START), list[float]()

    def work() -> None:
        seen.append(clock.now())
        clock.moment += 3.2 * HOUR if len(seen) == 1 else 0.0

    serve(Store(str(tmp_path)), Cron("0 * * * *"), work, clock=clock, times=3)
    # 1, 2 and 3 o'clock passed while it worked: of these one is made up for at once.
    assert hours(seen) == [0.5, 3.7, 4.5]


def test_times_missed_while_nothing_ran_are_caught_up_once(tmp_path: Path) -> None:
    store, seen = Store(str(tmp_path)), list[float]()
    clock = Simulated(START)
    serve(store, Cron("0 * * * *"), lambda: None, clock=clock, times=1)
    later = Simulated(START + 10.2 * HOUR)
    serve(store, Cron("0 * * * *"), lambda: seen.append(later.now()), clock=later, times=2)
    assert hours(seen) == [10.2, 10.5]


def test_a_failure_does_not_end_the_schedule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, seen = Simulated(START), list[float]()

    def work() -> None:
        seen.append(clock.now())
        raise InputError("the bucket is gone")

    serve(Store(str(tmp_path)), Cron("0 * * * *"), work, clock=clock, times=2)
    assert len(seen) == 2
    assert "the bucket is gone" in caplog.text


def test_two_hundred_times_leave_one_file(tmp_path: Path) -> None:
    clock = Simulated(START)
    serve(Store(str(tmp_path)), Cron("*/5 * * * *"), lambda: None, clock=clock, times=200)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_hours_of_a_zone_follow_its_summer_time() -> None:
    daily = Cron("0 3 * * *", "Europe/Berlin")
    for day, utc in ((datetime.date(2026, 1, 10), 2), (datetime.date(2026, 7, 10), 1)):
        midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()
        assert daily.after(midnight) == midnight + utc * HOUR


@pytest.mark.parametrize("line", ["", "every day", "61 * * * *", "* * * *"])
def test_a_wrong_line_is_refused(line: str) -> None:
    with pytest.raises(SpecError, match="is no cron line"):
        Cron(line)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(SpecError, match="Mars"):
        Cron("0 3 * * *", "Mars/Olympus")


def test_a_schedule_file_that_says_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(InputError, match="delete the file"):
        serve(Store(str(tmp_path)), Cron("0 * * * *"), lambda: None, clock=Simulated(START), times=1)


def test_the_cron_job_is_one_to_kubernetes() -> None:
    text = manifests(
        "Mails, nightly", "name: mails\n", "0 3 * * *", image="raydelt-cpu:9", zone="UTC", address="http://head:8265"
    )
    config, job = yaml.safe_load_all(text)
    for document in (config, job):
        kubernetes_validate.validate(document, "1.32", strict=True)
    assert job["metadata"]["name"] == config["metadata"]["name"] == "raydelt-mails-nightly"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert config["data"]["run.yaml"] == "name: mails\n"


def test_the_cron_job_is_that_of_the_overlay_but_for_name_times_and_image() -> None:
    text = manifests("x", "", "17 3 * * *", image="raydelt-cpu:0.1.0", zone="Etc/UTC", address=HEAD)
    _, own = yaml.safe_load_all(text)
    [other] = [one for one in rendered("scheduled") if one["kind"] == "CronJob"]
    told = json.dumps(own["spec"]).replace(own["metadata"]["name"], "raydelt-spec")
    told = told.replace(', "app.kubernetes.io/instance": "raydelt-spec"', "")
    assert json.loads(told) == other["spec"]


def test_a_name_that_is_none_in_kubernetes_is_refused() -> None:
    with pytest.raises(SpecError, match="choose another name"):
        manifests("...", "", "0 3 * * *", image="raydelt", zone="UTC", address=HEAD)
