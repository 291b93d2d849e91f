"""Ids and metadata: the same spec and code are the same job, and nothing secret is shown."""

from __future__ import annotations

from typing import Any

import pytest

from raydelt.errors import SpecError
from raydelt.service.identity import WHO, Attempt, attempt, base_id, identity, metadata, shown

SPEC: dict[str, Any] = {"name": "digits", "corpus": {"source": "s3://bucket/rows"}, "seed": 7}


def jobs(*statuses: str, who: str = "w", base: str = "a") -> dict[str, tuple[str, dict[str, str]]]:
    names = [base if number == 1 else f"{base}-{number}" for number in range(1, len(statuses) + 1)]
    return {name: (status, {WHO: who}) for name, status in zip(names, statuses, strict=True)}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], Attempt("a")),
        (["PENDING"], Attempt("a", "PENDING")),
        (["RUNNING"], Attempt("a", "RUNNING")),
        (["SUCCEEDED"], Attempt("a", "SUCCEEDED")),
        (["FAILED"], Attempt("a-2")),
        (["STOPPED", "FAILED"], Attempt("a-3")),
        (["FAILED", "RUNNING"], Attempt("a-2", "RUNNING")),
        (["FAILED", "SUCCEEDED"], Attempt("a-2", "SUCCEEDED")),
    ],
)
def test_a_job_that_stands_is_returned_and_after_a_failed_one_comes_another(
    statuses: list[str], expected: Attempt
) -> None:
    assert attempt("a", "w", jobs(*statuses)) == expected


def test_again_passes_over_success_and_never_doubles_what_runs() -> None:
    assert attempt("a", "w", jobs("SUCCEEDED"), again=True) == Attempt("a-2")
    assert attempt("a", "w", jobs("SUCCEEDED", "RUNNING"), again=True) == Attempt("a-2", "RUNNING")


def test_an_id_of_another_spec_or_of_a_stranger_is_refused() -> None:
    with pytest.raises(SpecError, match="belongs to a job of another spec or code"):
        attempt("a", "w", jobs("SUCCEEDED", who="other"))
    with pytest.raises(SpecError, match="belongs to a job of another spec or code"):
        attempt("a", "w", {"a": ("RUNNING", {})})


def test_the_id_changes_with_spec_code_and_settings_and_with_nothing_else() -> None:
    who = identity(SPEC, "code", {"job": "run"})
    assert who == identity(dict(reversed(list(SPEC.items()))), "code", {"job": "run"})
    others = [
        identity(SPEC | {"seed": 8}, "code", {"job": "run"}),
        identity(SPEC, "changed", {"job": "run"}),
        identity(SPEC, "code", {"job": "rank"}),
    ]
    assert len({who, *others}) == 4
    assert base_id("digits", who) == f"digits-{who[:10]}"


@pytest.mark.parametrize("chosen", ["", "a/b", "../x", "-rf", "a b", "x" * 101, "a?b"])
def test_an_id_that_is_no_file_name_is_refused(chosen: str) -> None:
    with pytest.raises(SpecError, match="--id"):
        base_id("digits", "w", chosen=chosen)


def test_metadata_name_the_corpus_without_its_credentials() -> None:
    sources = ["https://me:planted-password@host:81/rows.csv?X-Amz-Signature=planted-signature", "s3://bucket/rows"]
    told = metadata(SPEC | {"corpus": {"source": sources}}, "code", "who", job="run", owner="ada")
    assert told["raydelt.corpus"] == "https://host:81/rows.csv, s3://bucket/rows"
    assert told["raydelt.owner"] == "ada"
    assert all(isinstance(value, str) and "planted" not in value for value in told.values())


def test_an_address_is_shown_without_user_and_query() -> None:
    assert shown("http://me:pw@head:8265/?token=x") == "http://head:8265/"
    assert shown("s3://AKIA:pw/pw@bucket/x") == "s3://bucket/x"
    assert shown("head:6379") == "head:6379"
