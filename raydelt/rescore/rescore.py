"""Scoring a run again: the next version, of which only missing and stale cells are computed.

    corpus now        every source is read and its examples are identified by their content, so files may come, go,
                      change or be touched
    cells             what an example of the same content had from the same scorer, settings and models stays
    the rest          is scored; then all are ranked and selected, and the version is published by one put

One job at a time holds the lease of the run; a job that was killed goes on where it was. Every version's scores are
appended to the run's history. Cost: a pass over the sources, the model work of what is new, and one ranking.

Caution: with `fitted: keep` new examples are scored by models that never saw their like; `refit` when they drift.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from raydelt import pipeline, rundir
from raydelt.config import RunConfig
from raydelt.errors import InputError, SpecError
from raydelt.examples import EXAMPLE_ID, LABEL, TIME
from raydelt.monitor import history, ledger, retirement, sources
from raydelt.monitor.triggers import Scope
from raydelt.monitor.watch import watch
from raydelt.rescore import begun, versions
from raydelt.rescore.schedule import Clock, Cron, serve
from raydelt.rescore.since import unopened
from raydelt.scorers.cells import Earlier
from raydelt.select import resting
from raydelt.storage import Manifest, Store, absolute, guarded, read_manifest
from raydelt.storage.lease import held

log = logging.getLogger(__name__)
LEASE = "rescore"
UNTIL = ("ranking", "selection", "ordered", "model", "report")
# What of an earlier version is read again.
STAGES = ("corpus", "scores", "proxies")


@dataclass(frozen=True)
class Rescored:
    """What came of it: the version now current, its examples, and how many rows each scorer was asked for.

    `published` is false where nothing had changed, and the version that was current still is.
    """

    version: int
    place: str
    published: bool
    examples: int
    before: int
    computed: dict[str, int]
    seconds: float
    unopened: int = 0


def rescore(
    config: RunConfig,
    *,
    until: str = "selection",
    refit: bool | None = None,
    restart: bool = False,
    since: float | None = None,
    first: bool = False,
) -> Rescored:
    """Score the run of a spec again, up to a stage; nothing is published where nothing changed.

    Files that look the same and were last changed before `since` (seconds since 1970) are not opened. A run that was
    never scored is scored for the `first` time where that is said, and refused where it is not.

    Raises:
        InputError: the run has no scores yet, somebody else scores it, or what an unfinished version was begun with
            has changed.
    """
    run, started = Store(absolute(config.output)), time.perf_counter()
    if until not in UNTIL:
        raise SpecError(f"--until {until!r} is no stage to go to: give one of {', '.join(UNTIL)}")
    fitted = config.rescore.fitted if refit is None else ("refit" if refit else "keep")
    owner = f"process {os.getpid()} on {platform.node()}"
    if first:
        rundir.claim(run, config)
    with held(run, LEASE, owner=owner, seconds=config.rescore.lease_seconds) as fence, guarded(fence.check):
        now = versions.current(run)
        if first and read_manifest(now.store, "scores") is None:
            return _first(config, until, started)
        earlier = replace(_earlier(run, now.store, keep=fitted == "keep"), states=_states(run, config, now.number))
        rests = None if earlier.states is None else resting.identity(earlier.states, config.monitor.retire)
        wanted = begun.made_of(config, fitted=fitted, resting=rests)
        made_of = now.store.read_json(begun.FILE) if now.store.exists(begun.FILE) else None
        if made_of == wanted and read_manifest(now.store, until) is not None:
            return _outcome(now, earlier, earlier.scores, {}, started, published=False)
        if since is not None:
            earlier = replace(earlier, unopened=unopened(config, made_of, earlier.corpus, since))
        number = now.number + 1
        place = versions.begin(run, number)
        own = config.model_copy(update={"output": place.root})
        begun.begin(place, own, wanted, restart=restart)
        done = pipeline.execute(own, until=until, earlier=earlier)
        scores = done.manifests["scores"]
        if begun.same_but_files(now.store, wanted) and _as_before(now.store, earlier, done.manifests, until):
            # Files were touched; next time that shows without reading them.
            now.store.write_json(begun.FILE, wanted)
            run.delete(versions.place(number))
            return _outcome(now, earlier, earlier.scores, {}, started, published=False)
        _remember(run, now.number, now.published or time.time(), earlier)
        version = versions.publish(run, number, fence)
        # A version that was published and not remembered is remembered when the next one is made.
        _remember(run, number, version.published, Earlier(place, done.manifests))
        versions.prune(run, keep=config.rescore.versions)
        _forget(run, config)
        return _outcome(version, earlier, scores, scores.facts["computed"], started, published=True)


def keep_scored(
    config: RunConfig, cron: Cron, *, until: str = "selection", clock: Clock | None = None, times: int | None = None
) -> None:
    """Score the run of a spec whenever it is due, for the first time where it never was; for ever, or so many times.

    What is new is scored each time. Everything is, with what is fitted fitted anew, when the monitor asks for that.
    """
    run = Store(absolute(config.output))
    rundir.claim(run, config)

    def work() -> None:
        # Nobody is there to decide what becomes of a version whose files have changed since it was begun.
        done = rescore(config, until=until, restart=True, first=True)
        log.info("version %d: %d examples, computed %s", done.version, done.examples, done.computed)
        if done.published and done.version and _everything(run, config):
            rescore(config, until=until, refit=True, restart=True)

    serve(run, cron, work, clock=clock, times=times)


def _first(config: RunConfig, until: str, started: float) -> Rescored:
    """Score a run that never was; the caller holds the lease."""
    scores = pipeline.execute(config, until=until).manifests["scores"]
    counts = dict.fromkeys(scores.facts["columns"], scores.rows)
    place, seconds = absolute(config.output), time.perf_counter() - started
    return Rescored(0, place, True, scores.rows, 0, counts, seconds)


def _everything(run: Store, config: RunConfig) -> bool:
    """Whether the monitor, which remembers that it looked, asks for everything to be scored."""
    watched = watch(run, config, now=time.time())
    watched.keep()
    log.info("score again: %s (%s)", watched.decision.scope.value, watched.decision.reason)
    return watched.decision.scope is Scope.EVERYTHING


def _as_before(now: Store, earlier: Earlier, made: Mapping[str, Manifest], until: str) -> bool:
    """Whether what was read is the corpus of the version that stands, of which nothing had to be computed again.

    Compared is the corpus and not what follows from it: a stage such as the model publishes no rows to compare.
    """
    corpus, then = made["corpus"], earlier.corpus
    same = [part.digest for part in corpus.files] == [part.digest for part in then.files]
    computed = made["scores"].facts["computed"]
    return same and corpus.facts == then.facts and not any(computed.values()) and read_manifest(now, until) is not None


def _states(run: Store, config: RunConfig, version: int) -> pa.Table | None:
    """Where every example stood after a version that ever moved; None where the selection does not ask."""
    if config.monitor.retire.action == "advise":
        return None
    return retirement.states_of(ledger.events(run), before=version + 1)


def _earlier(run: Store, place: Store, *, keep: bool) -> Earlier:
    found = {name: manifest for name in STAGES if (manifest := read_manifest(place, name)) is not None}
    for name in ("corpus", "scores"):
        if name not in found:
            raise InputError(f"{run.root!r} has no scores to start from: run `raydelt score SPEC` first")
    return Earlier(place, found, keep=keep)


def _outcome(
    version: versions.Version,
    earlier: Earlier,
    scores: Manifest,
    computed: dict[str, int],
    started: float,
    *,
    published: bool,
) -> Rescored:
    names = scores.facts["columns"]
    counts = {name: computed.get(name, 0) for name in names}
    seconds = time.perf_counter() - started
    rows, unopened = earlier.scores.rows, len(earlier.unopened)
    return Rescored(version.number, version.store.root, published, scores.rows, rows, counts, seconds, unopened)


def _remember(run: Store, number: int, when: float, version: Earlier) -> None:
    """Append a version's scores to the history of the run; one that stands there stays as it is."""
    if number not in {entry.number for entry in history.versions(run)}:
        history.append(run, number, when, _said(version))


def _forget(run: Store, config: RunConfig) -> None:
    """Drop what is older than the history is to be."""
    keep = config.monitor.history.keep
    if keep is None:
        return
    gone = history.prune(run, keep=max(keep, config.monitor.versions))
    if gone:
        ledger.fold(run, gone[-1])


def _said(version: Earlier) -> Iterator[pa.Table]:
    """What every example was given, part by part, with the name of its class and its time."""
    names = [name for columns in version.scores.facts["columns"].values() for name in columns]
    classes = version.corpus.facts["classes"]
    for part, own in zip(version.corpus.parts, version.scores.parts, strict=True):
        scores = version.run.read_table(own.file, [EXAMPLE_ID, *names])
        corpus = version.run.read_table(part.file)
        places = pc.index_in(scores[EXAMPLE_ID], value_set=corpus[EXAMPLE_ID].combine_chunks())
        if classes:
            scores = scores.append_column(LABEL, sources.named(corpus[LABEL], classes).take(places))
        if TIME in corpus.column_names:
            scores = scores.append_column(TIME, corpus[TIME].take(places))
        yield scores
