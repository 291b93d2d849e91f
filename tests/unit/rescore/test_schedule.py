"""A schedule does what is due once, however long nobody looked, and goes on after failures and restarts."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from raydelt.cli.rescore import HEAD
from raydelt.errors import ErrorBudgetExceeded, InputError, SpecError
from raydelt.rescore.kubernetes import in_numbers, manifests
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


@pytest.mark.parametrize("error", [RuntimeError("an actor died"), FileNotFoundError("gone")])
def test_a_failure_that_nobody_foresaw_is_logged_whole_and_does_not_end_the_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    clock, seen = Simulated(START), list[float]()

    def work() -> None:
        seen.append(clock.now())
        raise error

    serve(Store(str(tmp_path)), Cron("0 * * * *"), work, clock=clock, times=2)
    assert hours(seen) == [0.5, 1.5]
    assert "Traceback" in caplog.text


def test_a_store_that_is_away_when_it_is_due_does_not_end_the_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, seen, store = Simulated(START), list[float](), Store(str(tmp_path / "run"))

    def work() -> None:
        seen.append(clock.now())
        if len(seen) == 1:
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run").write_text("in the way")
        else:
            (tmp_path / "run").unlink(missing_ok=True)

    serve(store, Cron("0 * * * *"), work, clock=clock, times=3)
    assert hours(seen) == [0.5, 1.5, 2.5]
    assert "due at 2026-01-01T01:00+00:00" in caplog.text
    assert store.read_json(FILE)["done"] == START + 2.5 * HOUR


def test_a_time_missed_before_the_first_was_due_is_caught_up(tmp_path: Path) -> None:
    store, seen = Store(str(tmp_path)), list[float]()
    serve(store, Cron("0 * * * *"), lambda: None, clock=Simulated(START), times=0)
    later = Simulated(START + 5.2 * HOUR)
    serve(store, Cron("0 * * * *"), lambda: seen.append(later.now()), clock=later, times=1)
    assert hours(seen) == [5.2]


def test_two_hundred_times_leave_one_file(tmp_path: Path) -> None:
    clock = Simulated(START)
    serve(Store(str(tmp_path)), Cron("*/5 * * * *"), lambda: None, clock=clock, times=200)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


def test_hours_of_a_zone_follow_its_summer_time() -> None:
    daily = Cron("0 3 * * *", "Europe/Berlin")
    for day, utc in ((datetime.date(2026, 1, 10), 2), (datetime.date(2026, 7, 10), 1)):
        midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()
        assert daily.after(midnight) == midnight + utc * HOUR


@pytest.mark.parametrize("line", ["", "every day", "61 * * * *", "* * * *", "0 3 * * * 30", "0 3 * * * 0 2020"])
def test_a_wrong_line_is_refused(line: str) -> None:
    with pytest.raises(SpecError, match="is no cron line"):
        Cron(line)


@pytest.mark.parametrize("line", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6 *"])
def test_a_line_that_is_never_due_is_refused(line: str) -> None:
    with pytest.raises(SpecError, match="is never due"):
        Cron(line)


@pytest.mark.parametrize("line", ["0 0 29 2 *", "0 0 30 2 1", "@daily"])
def test_a_line_that_is_seldom_due_is_none_that_never_is(line: str) -> None:
    assert Cron(line).after(START) > START


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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("17 3 * * *", "17 3 * * *"),
        ("0 3 * * 7", "0 3 * * 0"),
        ("0 3 * * 5-7", "0 3 * * 0,5,6"),
        ("0 22-2 * Jan fri-sun", "0 0,1,2,22,23 * 1 0,5,6"),
        ("*/20 * ? * *", "0,20,40 * * * *"),
        ("@daily", "0 0 * * *"),
    ],
)
def test_a_line_means_the_same_to_kubernetes(line: str, expected: str) -> None:
    assert in_numbers(line) == expected


@pytest.mark.parametrize("line", ["0 3 L * *", "0 3 * * 2#3", "0 3 * * L5", "0 3 3W * *", "R 3 * * *"])
def test_times_that_kubernetes_has_no_words_for_are_refused(line: str) -> None:
    with pytest.raises(SpecError, match="is none to Kubernetes"):
        manifests("x", "", line, image="raydelt", zone="UTC", address=HEAD)


def test_only_too_many_bad_rows_are_not_tried_again() -> None:
    [cron] = [one for one in rendered("scheduled") if one["kind"] == "CronJob"]
    [rule] = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    # Code 2 is also a head that restarts, or a store that is away.
    assert rule["onExitCodes"]["values"] == [ErrorBudgetExceeded.exit_code]


def test_a_name_that_is_none_in_kubernetes_is_refused() -> None:
    with pytest.raises(SpecError, match="choose another name"):
        manifests("...", "", "0 3 * * *", image="raydelt", zone="UTC", address=HEAD)
