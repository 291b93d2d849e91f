"""Checks of the places of a spec: its sources, its output, the credentials for stores, and their clocks.

An output is tried by what a run does there: put, get, a conditional put, delete; folders that this made go again.
Credentials are told by where they come from, never by what they are.
"""

from __future__ import annotations

import contextlib
import os
import time
import urllib.request
import uuid
from collections import Counter
from email.utils import parsedate_to_datetime
from pathlib import Path

from raydelt import rundir, storage
from raydelt.config import RunConfig
from raydelt.corpus.canonical import probe
from raydelt.corpus.features import Layout
from raydelt.corpus.sources import SourceFile, find
from raydelt.report.wording import size
from raydelt.setup import machine
from raydelt.setup.findings import Finding, State
from raydelt.setup.look import Sample, converted, sampled
from raydelt.storage import Store, absolute, exclusive

SKEWED, REFUSED = 60.0, 900.0
UNBALANCED, FEW = 20.0, 10
RAY_BYTES = 3 << 29
HTTP_SECONDS = 10
S3 = ("s3", "s3a")


def sources(config: RunConfig) -> list[Finding]:
    """Whether files are there, their first rows can be read, and classes are what a run can use."""
    files = find(config.corpus)
    findings: list[Finding] = []
    for split in ("corpus", "validation", "test", "pool"):
        own = [file for file in files if file.split == split]
        kinds = {file.format for file in own}
        for kind in sorted(kinds):
            with sampled([file for file in own if file.format == kind], config.corpus) as sample:
                findings += _source(config, split, sample)
    return findings


def _source(config: RunConfig, split: str, sample: Sample) -> list[Finding]:
    name = "source" if split == "corpus" else f"{split} source"
    first: SourceFile = sample.files[0]
    if not sample.rows:
        reason = sample.bad[0].reason if sample.bad else "it holds no row"
        return [Finding(name, "fail", f"{first.path} cannot be read: {reason}", "mend the file or corpus.format")]
    layout = probe(sample.units, config.corpus)
    counts, reasons = converted(sample, config.corpus, layout)
    bad = sum(reasons.values())
    share = bad / max(1, bad + sum(counts.values()))
    count = "1 file" if len(sample.files) == 1 else f"{len(sample.files):,} files"
    about = f"{count}, {'' if sample.exact else 'about '}{sample.total:,} rows, {sample.rows:,} looked at"
    if share > config.corpus.error_budget:
        why = f"{about}; {share:.1%} of them cannot be used, for instance: {reasons.most_common(1)[0][0]}"
        return [Finding(name, "fail", why, "mend the rows, or raise corpus.error_budget above that share")]
    state: State = "warn" if bad else "ok"
    cure = f"they go to quarantine, for instance: {reasons.most_common(1)[0][0]}" if bad else ""
    found = [Finding(name, state, f"{about}{f', {share:.1%} of them bad' if bad else ''}", cure)]
    if split == "corpus":
        found += [_balance(counts, sample)] if config.corpus.labelled else []
        found += [_needed(config, layout, sample)] if config.model.kind != "causal_lm" else []
    return found


def _balance(counts: Counter[str], sample: Sample) -> Finding:
    """Whether classes are of sizes that a classifier can be trained and measured on."""
    if len(counts) < 2:
        shown = next(iter(counts), "none")
        state: State = "fail" if sample.whole else "warn"
        return Finding("classes", state, f"one class only: {shown}", "check corpus.label_column: training needs two")
    most, least = counts.most_common()[0], counts.most_common()[-1]
    scale = sample.total / max(1, sum(counts.values()))
    told = f"{len(counts)} classes, {most[0]} the largest ({most[1]}) and {least[0]} the smallest ({least[1]})"
    if least[1] * scale < FEW:
        cure = "a class of few rows is missing from some folds: join it to another, or leave it out"
        return Finding("classes", "warn", told, cure)
    if most[1] > UNBALANCED * least[1]:
        return Finding(
            "classes", "warn", told, "accuracy hides the small classes: select.quotas keeps a share of each"
        )
    return Finding("classes", "ok", told)


def _needed(config: RunConfig, layout: Layout, sample: Sample) -> Finding:
    """Free memory against what a run needs at least: the proxies' training set twice, and Ray with its workers."""
    rows = min(sample.total, config.corpus.limit or sample.total, config.rank.max_proxy_examples)
    needed, free = 2 * 4 * rows * layout.width + RAY_BYTES, machine.free_memory()
    found = f"the run needs about {size(needed)}, {size(free)} are free"
    if needed > free:
        cure = (
            "lower rank.max_proxy_examples or corpus.limit, or take a larger machine; `raydelt estimate` measures it"
        )
        return Finding("memory needed", "fail", found, cure)
    return Finding("memory needed", "ok", found)


def output(config: RunConfig) -> list[Finding]:
    """Whether the run may write its directory, and whether the place is its own."""
    store = Store(absolute(config.output))
    made = _missing_folders(store)
    try:
        storage.places.refuse_output(config.output)
        # A place of another run or of something else is refused here as a run would refuse it.
        rundir.refuse_others(store, config)
        return _tried(store)
    except OSError as error:
        text = error.strerror or str(error)
        return [Finding("output", "fail", f"{config.output!r} cannot be written ({text})", "choose another `output`")]
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _missing_folders(store: Store) -> list[Path]:
    """The folders that a write would make, innermost first."""
    if not store.is_local:
        return []
    path = Path(store.path())
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _tried(store: Store) -> list[Finding]:
    """Put, get, conditional put and delete of an object of our own."""
    name, twice = f".probe-{uuid.uuid4().hex}", f".probe-{uuid.uuid4().hex}"
    data = uuid.uuid4().hex.encode()
    try:
        store.write_bytes(name, data)
        if store.read_bytes(name) != data:
            return [Finding("output", "fail", f"{store.root} gives back other bytes than were put", "check the store")]
        conditional = store.is_local or exclusive.honours_conditions(store.root)
        only = store.create_only(twice, data) and not store.create_only(twice, b"another")
    finally:
        with contextlib.suppress(Exception):
            store.remove([name, twice])
    if store.exists(name) or store.exists(twice):
        return [Finding("output", "fail", f"{store.root} does not delete what was put", "ask for the right to delete")]
    if not only:
        found = f"{store.root} let two writers create one file"
        return [
            Finding(
                "output", "fail", found, "choose another `output`: two runs could not keep out of each other's way"
            )
        ]
    if not conditional:
        cure = "runs do without, and wait about 3 s for each file that only one may create"
        return [Finding("output", "warn", f"{store.root}: put, get, delete; no conditional put", cure)]
    return [Finding("output", "ok", f"{store.root}: put, get, conditional put, delete")]


def credentials(places: list[str]) -> list[Finding]:
    """Where the credentials for the stores of these places come from."""
    kinds = {storage.scheme(place) for place in places}
    found = [_of_s3()] if kinds & set(S3) else []
    if kinds & {"gs", "gcs"}:
        file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        usual = Path("~/.config/gcloud/application_default_credentials.json").expanduser().exists()
        if file and not Path(file).exists():
            found.append(Finding("credentials", "fail", "GOOGLE_APPLICATION_CREDENTIALS names no file", "correct it"))
        elif file or usual:
            found.append(Finding("credentials", "ok", "Google's, from a file"))
        else:
            cure = "gcloud auth application-default login, unless the machine has a service account"
            found.append(Finding("credentials", "warn", "no file of Google's", cure))
    return found


def _of_s3() -> Finding:
    import botocore.session  # type: ignore[import-untyped]

    keys = botocore.session.Session(profile=os.environ.get("AWS_PROFILE")).get_credentials()
    if keys is None:
        cure = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, unless the bucket is public"
        return Finding("credentials", "fail", "none for S3", cure)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return Finding("credentials", "ok", f"S3's, from {keys.method}{f'; endpoint {endpoint}' if endpoint else ''}")


def clocks(places: list[str]) -> list[Finding]:
    """How far this machine's clock is from those of the stores that tell theirs."""
    found: list[Finding] = []
    for place in places:
        now = _clock_of(place)
        if now is None:
            continue
        skew = abs(time.time() - now)
        about = f"{skew:.0f} s from that of {storage.scheme(place)}"
        cure = "set the clock, for instance by NTP: stores refuse requests from 15 minutes on"
        state: State = "fail" if skew > REFUSED else "warn" if skew > SKEWED else "ok"
        found.append(Finding("clock", state, about, "" if state == "ok" else cure))
    return found[:1] if all(one.state == "ok" for one in found) else [one for one in found if one.state != "ok"]


def _clock_of(place: str) -> float | None:
    """The time by the store's own clock, also from an answer that refuses; None where it does not tell."""
    kind = storage.scheme(place)
    if kind in S3:
        store = Store(place)
        bucket, _, _ = store.fs.split_path(store.path())
        try:
            return exclusive.date_of(store.fs.call_s3("head_bucket", Bucket=bucket))
        except Exception as error:
            answer = getattr(error.__cause__ or error, "response", None)
            headers = (answer or {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
            return parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else None
    if kind in ("http", "https"):
        request = urllib.request.Request(place, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answered:
                told = answered.headers.get("Date")
        except OSError:
            return None
        return parsedate_to_datetime(told).timestamp() if told else None
    return None
