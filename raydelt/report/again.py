"""The report of a run that is finished, written again: with what was monitored, planned and rescored since.

    raydelt report RUN

No other stage is run: what stands is read, and checked before anything is written. The report keeps the fingerprint
that the flow would give it, so a later `raydelt run` finds it up to date. Cost: that of the report stage, and Ray's
start.

Caution: seconds and peaks of memory are those of the run's record, which a re-rendering does not change.
"""

from __future__ import annotations

import posixpath

from raydelt import __version__, cluster
from raydelt.ask import files
from raydelt.ask.run import Run
from raydelt.errors import InputError
from raydelt.examples import RANKING_SCHEMA, SELECTION_SCHEMA
from raydelt.report.stage import COUNTS, write_report
from raydelt.storage import Manifest, Stage, fingerprint

NEEDED = ("corpus", "scores", "ranking", "selection", "ordered", "model")
NAME = "report"
# What the report reads of each stage, which a run of another version may lack.
FACTS = {
    "corpus": (*COUNTS, "flipped", "classes"),
    "scores": ("scored", "quarantined", "columns", "concentration"),
    "ranking": ("weights", "rows", "gated_out"),
    "selection": ("kept", "of", "cut_score", "noise", "below_gate"),
    "model": ("steps", "results", "metric", "values", "differences"),
}
COLUMNS = {"ranking": RANKING_SCHEMA.names, "selection": SELECTION_SCHEMA.names}


def write_again(place: str) -> Run:
    """Write the report of the run in a place, `RUN` or `RUN@3`; the run.

    Raises:
        InputError: there is no run, it is not finished, a file is missing, or another version of raydelt wrote it.
    """
    run = Run.open(place)
    manifests = standing(run)
    config = run.spec.model_copy(update={"output": run.store.root})
    own = [manifests["model"].fingerprint, manifests["corpus"].fingerprint, config.report.model_dump(mode="json")]
    stage = Stage(run.store, NAME, fingerprint([__version__, config.seed, *own]))
    seconds = {name: entry.get("seconds") for name, entry in run.record["stages"].items()}
    run.store.check_writable()
    with cluster.connected(config.cluster):
        write_report(config, manifests, seconds, stage)
    return run


def standing(run: Run) -> dict[str, Manifest]:
    """What the stages of a finished run published, in the order of the run's record, every file of it there.

    Raises:
        InputError: a stage is missing, or a file of it.
    """
    recorded = [name for name in run.record.get("stages", {}) if name != NAME]
    for name in NEEDED:
        if name not in recorded or run.found(name) is None:
            raise InputError(f"{_called(run)} is not finished (it has no {name}): {_cure(run)}")
    manifests = {name: manifest for name in recorded if (manifest := run.found(name)) is not None}
    for name, manifest in manifests.items():
        if manifest.fingerprint != run.record["stages"][name]["fingerprint"]:
            raise InputError(f"{_called(run)} is between two specs ({name} is not that of run.json): {_cure(run)}")
        _check_files(run, name, manifest)
        _check_facts(run, name, manifest)
    return manifests


def _called(run: Run) -> str:
    return repr(run.store.root) if run.version == 0 else f"version {run.version} of {run.root.root!r}"


def _cure(run: Run) -> str:
    """What goes on with a run; a version is not of a spec that `raydelt run` could be given."""
    if run.version == 0:
        return "go on with `raydelt run SPEC`, then ask for its report"
    return "go on with `raydelt rescore RUN --until report`, or ask for the report of RUN@0"


def _check_files(run: Run, stage: str, manifest: Manifest) -> None:
    """Refuse a stage of which a file is missing or cut; one listing for each folder."""
    folders = sorted({posixpath.dirname(part.file) for part in manifest.files})
    sizes = {f"{folder}/{name}": size for folder in folders for name, size in run.store.at(folder).sizes().items()}
    for part in manifest.files:
        if sizes.get(part.file) != part.bytes:
            wrong = "is missing" if part.file not in sizes else f"has {sizes[part.file]} bytes of {part.bytes}"
            raise InputError(
                f"{run.store.url(part.file)} {wrong}: delete the folder {stage!r} of the run and run again"
            )


def _check_facts(run: Run, stage: str, manifest: Manifest) -> None:
    """Refuse a stage that does not say, or whose first file does not hold, what the report reads of it."""
    lacking = [f"{stage}: {name}" for name in FACTS.get(stage, ()) if name not in manifest.facts]
    for part in manifest.parts[:1]:
        there = set(files.present(run.store, part, COLUMNS.get(stage, ())))
        lacking += [f"{stage}: column {name}" for name in COLUMNS.get(stage, ()) if name not in there]
    if lacking:
        wrote = run.record.get("versions", {}).get("raydelt", "another version")
        raise InputError(
            f"{run.store.root!r} was written by raydelt {wrote} and lacks what the report of raydelt {__version__} "
            f"reads ({lacking[0]}): run the spec again"
        )
