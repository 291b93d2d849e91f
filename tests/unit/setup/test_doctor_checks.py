"""Doctor's checks fail where a run would, say what helps, end in time and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydelt.config import Cluster, RunConfig
from raydelt.setup import checkpoints, doctor, machine, ray_start, stores
from raydelt.setup.findings import Check, Finding, answered
from raydelt.specfile import validate
from tests import s3server
from tests.flow import spec, write_digits
from tests.language import tiny_lm, write_documents
from tests.s3server import BUCKET, SECRET, Server, using


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), rows=300)


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    with s3server.moto() as found:
        yield found


def named(findings: list[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def examined(config: RunConfig | None, **options: Any) -> list[Finding]:
    return doctor.examine(config, **options)[0]


def changed(config: RunConfig, **fields: Any) -> RunConfig:
    return validate(config.resolved() | fields)


def test_a_machine_and_a_spec_that_are_well_have_no_failure(digits: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    findings = examined(spec(digits, tmp_path / "deep" / "out"), with_ray=False)
    assert [finding for finding in findings if finding.state == "fail"] == []
    assert named(findings, "source").found.startswith("1 file, 300 rows")
    assert named(findings, "classes").state == "ok"
    assert named(findings, "output").state == "ok"
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_spec_the_machine_is_checked() -> None:
    names = {finding.check for finding in examined(None, with_ray=False)}
    assert {"python", "libraries", "cores", "memory", "shared memory", "disk of Ray", "open files", "gpus"} <= names


def test_an_output_that_cannot_be_written_fails(digits: Path, tmp_path: Path) -> None:
    [finding] = stores.output(spec(digits, "/sys/raydelt-doctor"))
    assert finding.state == "fail"
    assert "/sys/raydelt-doctor" in finding.found
    (tmp_path / "file").write_text("in the way")
    assert stores.output(spec(digits, tmp_path / "file" / "x"))[0].state == "fail"


def test_an_output_that_is_not_ours_fails_and_is_left_as_it_is(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    findings = examined(spec(digits, tmp_path / "thesis"), with_ray=False)
    assert named(findings, "output").state == "fail"
    assert "holds no raydelt run" in named(findings, "output").found
    assert os.listdir(tmp_path / "thesis") == ["thesis.tex"]


def test_an_output_in_a_store_is_tried_and_left_empty(digits: Path, moto: Server) -> None:
    with using(moto):
        config = spec(digits, f"s3://{BUCKET}/out")
        findings = examined(config, with_ray=False)
        assert named(findings, "output").found.endswith("put, get, conditional put, delete")
        assert named(findings, "clock").state == "ok"
        assert stores.Store(f"s3://{BUCKET}/out").names() == []
        assert SECRET not in json.dumps([vars(finding) for finding in findings])
        assert named(findings, "credentials").found.startswith("S3's, from env")


def test_a_bucket_that_is_missing_fails_with_its_name(digits: Path, moto: Server) -> None:
    with using(moto):
        findings = examined(spec(digits, "s3://no-such-bucket/out"), with_ray=False)
        assert named(findings, "output").state == "fail"
        assert "bucket does not exist" in f"{named(findings, 'output').found} {named(findings, 'output').cure}"
        missing = examined(spec("s3://no-such-bucket/in", "runs/none"), with_ray=False)
        assert named(missing, "source").state == "fail"


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, digits: Path, moto: Server) -> None:
    with using(moto):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        [finding] = stores.credentials([f"s3://{BUCKET}/out"])
    assert finding.state == "fail"
    assert "AWS_PROFILE" in finding.cure


def test_a_store_that_never_answers_costs_its_deadline_alone(digits: Path, tmp_path: Path) -> None:
    with _silent() as port, using(Server(f"http://127.0.0.1:{port}")):
        began = time.monotonic()
        findings = examined(spec(f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"), with_ray=False, seconds=4.0)
        assert time.monotonic() - began < 60
    assert named(findings, "output").state == "fail"
    assert "no answer within 4 s" in named(findings, "source").found
    assert "AWS_ENDPOINT_URL" in named(findings, "source").cure
    assert named(findings, "cores").state != "fail"


@contextlib.contextmanager
def _silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield int(listener.getsockname()[1])
        for connection in held:
            connection.close()


def test_more_gpus_than_there_are_fail(digits: Path, tmp_path: Path) -> None:
    config = spec(digits, tmp_path / "out", cluster={"actors": {"min": 2, "num_gpus": 400}})
    finding = machine.gpus(config)
    assert finding.state == "fail"
    assert "800" in finding.found
    elsewhere = changed(config, cluster={"address": "ray://head:10001", "actors": {"min": 2, "num_gpus": 400}})
    assert machine.gpus(elsewhere).state != "fail"


def test_a_model_folder_is_looked_into(tmp_path: Path) -> None:
    source, model = write_documents(tmp_path / "d.jsonl", ["a b c d", "e f g h"]), Path(tiny_lm(tmp_path / "lm"))

    def finding(path: Path) -> Finding:
        raw = {
            "name": "lm",
            "corpus": {"source": source, "text_column": "text"},
            "model": {"kind": "causal_lm", "path": str(path)},
            "score": [{"kind": "lm_loss"}],
            "rank": {"method": "score", "combine": {"weights": {"loss": 1.0}, "gate": None}},
            "output": str(tmp_path / "out"),
        }
        [found] = checkpoints.models(validate(raw))
        return found

    assert finding(model).state == "ok"
    assert "is no folder" in finding(tmp_path / "absent").found
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:100])
    assert "cannot be opened" in finding(model).found
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    assert "safetensors" in finding(model).cure
    (model / "model.safetensors").write_bytes(weights)
    (model / "tokenizer.json").unlink()
    assert finding(model).state == "fail"


def test_sources_that_a_run_would_refuse_fail(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("x,label\n" + "1.5,a\n" * 40)
    one = validate(
        {"name": "n", "corpus": {"source": str(path), "label_column": "label"}, "output": str(tmp_path / "o")}
    )
    assert named(stores.sources(one), "classes").state == "fail"
    path.write_text("x,label\n" + "1.5,a\n2.5,b\n" * 20 + "oops,a\n" * 10)
    assert "not a number" in named(stores.sources(one), "source").found
    path.write_text("x,label\n" + "".join(f"{i}.5,{'rare' if i == 7 else 'usual'}\n" for i in range(200)))
    assert named(stores.sources(one), "classes").state == "warn"
    gone = named(examined(spec(tmp_path / "d.csw", tmp_path / "o"), with_ray=False), "source")
    assert "did you mean" in f"{gone.found} {gone.cure}"


def test_a_spec_whose_sections_do_not_go_together_fails(digits: Path, tmp_path: Path) -> None:
    config = spec(digits, tmp_path / "out", rank={"method": "score"})
    finding = named(examined(config, with_ray=False), "spec")
    assert (finding.state, "model.checkpoint" in finding.cure) == ("fail", True)


def test_places_that_need_no_credentials_have_no_findings_of_them(tmp_path: Path) -> None:
    config = validate({"name": "n", "corpus": {"source": "builtin://iris"}, "output": str(tmp_path / "o")})
    assert [one for one in examined(config, with_ray=False) if one.check in ("credentials", "clock")] == []


def test_a_ray_that_is_not_there_or_too_slow_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nobody = ray_start.ray(Cluster(address=f"127.0.0.1:{port}"), None)
    assert (nobody.state, "cannot be reached" in nobody.found) == ("fail", True)
    slow = ray_start.ray(Cluster(), None, seconds=0.3)
    assert (slow.state, slow.found) == ("fail", "no Ray within 0.3 s")
    assert list(tmp_path.iterdir()) == []


def test_proxies_that_stand_before_ray_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert machine.proxies().state == "warn"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert machine.proxies().state == "ok"


def test_more_rows_than_memory_holds_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": f"a few words and {i}", "label": i % 2}) + "\n" for i in range(40)))
    raw = {"name": "n", "corpus": {"source": str(path), "text_column": "text", "label_column": "label"}}
    raw |= {"output": str(tmp_path / "o")}
    assert named(stores.sources(validate(raw)), "memory needed").state == "ok"
    monkeypatch.setattr(machine, "free_memory", lambda: 1 << 20)
    short = named(stores.sources(validate(raw)), "memory needed")
    assert (short.state, "max_proxy_examples" in short.cure) == ("fail", True)


def test_a_check_that_breaks_or_hangs_does_not_take_the_others_with_it() -> None:
    held = threading.Event()

    def late() -> Finding:
        held.wait(30)
        return Finding("late", "ok", "")

    def broken() -> Finding:
        raise RuntimeError("odd")

    checks = [
        Check("late", late, 0.3, "wake it"),
        Check("broken", broken),
        Check("well", lambda: Finding("well", "ok", "")),
    ]
    found, is_late = answered(checks)
    assert is_late
    held.set()
    assert [(one.check, one.state) for one in found] == [("late", "fail"), ("broken", "fail"), ("well", "ok")]
    assert found[0].cure == "wake it"
    assert "odd" in found[1].found
