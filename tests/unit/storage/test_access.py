"""What workers elsewhere are given: names where those do, keys where only they do, and nothing that runs out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ray import cloudpickle

from raydelt.cluster import connect
from raydelt.storage import access

PROFILES = """
[fixed]
aws_access_key_id = FIXEDKEY
aws_secret_access_key = hush

[role]
role_arn = arn:aws:iam::123456789012:role/x
source_profile = fixed
"""
CONFIG = """
[profile fixed]
region = eu-west-1
endpoint_url = http://127.0.0.1:1
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*access.TOLD, *access.SECRET, *access.PROFILES):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(PROFILES)
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def test_keys_of_the_environment_are_passed_apart_from_what_may_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    told, secret = access.of_this_process()
    assert told == {"AWS_ENDPOINT_URL": "http://127.0.0.1:2"}
    assert secret == {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "hush"}


def test_a_profile_with_fixed_keys_is_resolved_for_machines_that_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "fixed")
    told, secret = access.of_this_process()
    assert told == {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    assert secret == {"AWS_ACCESS_KEY_ID": "FIXEDKEY", "AWS_SECRET_ACCESS_KEY": "hush"}


def test_of_a_profile_that_takes_a_role_only_the_name_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "role")
    told, secret = access.of_this_process()
    assert told["AWS_PROFILE"] == "role"
    assert secret == {}


def test_a_machine_with_keys_of_its_own_is_given_no_part_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "its own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "its own")
    for name in ("AWS_SESSION_TOKEN", "HF_TOKEN"):
        # So that what is set meanwhile is unset again.
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    given = {"AWS_ACCESS_KEY_ID": "given", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "hush"}
    access.giver(given | {"HF_TOKEN": "hush"})()
    assert os.environ["AWS_ACCESS_KEY_ID"] == os.environ["AWS_SECRET_ACCESS_KEY"] == "its own"
    assert "AWS_SESSION_TOKEN" not in os.environ
    assert os.environ["HF_TOKEN"] == "hush"


def test_ray_is_told_names_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    found = connect._runtime_environment()
    assert found["env_vars"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:2"
    assert "hush" not in json.dumps(found, default=repr)
    give = cloudpickle.loads(cloudpickle.dumps(found["worker_process_setup_hook"]))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    give()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hush"


def test_what_a_job_was_submitted_with_is_not_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    job = {"runtime_env": {"env_vars": {"AWS_ENDPOINT_URL": "http://127.0.0.1:3", "PYTHONPATH": "/job"}}}
    monkeypatch.setenv(connect.JOB_CONFIG, json.dumps(job))
    assert set(connect._runtime_environment()["env_vars"]) == {"AWS_REGION"}
