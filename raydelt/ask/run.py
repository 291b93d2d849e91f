"""A run as an object: which version is asked, its spec and manifests, and its tables as Arrow, pandas, polars or Ray.

    run = Run.open("runs/digits")          the current version        Run.open("runs/digits@3")       version 3
    run.scores(["difficulty"], as_="pandas")                          run.why("3fa1…")

Cost: opening reads two small files; a table is read whole, file by file. Memory: the columns that are asked for.

Caution: a version that is pruned while it is read loses its files, and the sentence names the one that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from raydelt.ask import files
from raydelt.errors import InputError
from raydelt.rescore import versions
from raydelt.storage import Manifest, Store, absolute, read_manifest
from raydelt.storage.near import near

if TYPE_CHECKING:
    from raydelt.ask.dataset import OrderedDataset
    from raydelt.config import RunConfig

SPEC, RECORD = "spec.json", "run.json"
NUMBERED = re.compile(r"(.+)@(\d+)")
BELOW = re.compile(rf"(.+)/{versions.FOLDER}/v(\d{{6}})/?")
# The command that makes what a stage publishes.
COMMANDS = {"corpus": "score", "scores": "score", "ranking": "rank", "selection": "select", "ordered": "order"}
COMMANDS |= {"model": "train", "refined": "rank"}
# Stages of a version that scoring again goes to only where it is told so.
LATER = ("selection", "ordered", "model", "report")
# What is read of each stage whatever is asked, and a run of another version may lack.
FACTS = {
    "scores": ("columns",),
    "refined": ("columns",),
    "ranking": ("weights",),
    "selection": ("kept", "of"),
    "ordered": ("orders",),
    "model": ("results", "steps"),
}
As = Literal["arrow", "pandas", "polars", "ray"]


@dataclass(frozen=True)
class Run:
    """One version of a run; `root` is the directory of all its versions, `store` that of this one."""

    root: Store
    store: Store
    version: int
    _manifests: dict[str, Manifest | None] = field(default_factory=dict, repr=False, compare=False)
    _json: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def open(place: str) -> Run:
        """The current version of a run, the one that `RUN@3` names, or that of a directory `RUN/versions/v000003`.

        Raises:
            InputError: there is no such run or version.
        """
        store = Store(absolute(place))
        below, numbered = BELOW.fullmatch(store.root), NUMBERED.fullmatch(store.root)
        if store.exists(SPEC):
            if below is not None:
                return Run(Store(below[1]), store, int(below[2]))
            now = versions.current(store)
            if not now.store.exists(SPEC):
                raise InputError(f"{store.url(versions.CURRENT)} names {now.store.root!r}, which is missing")
            return Run(store, now.store, now.number)
        if numbered is None:
            cure = near(store.root, otherwise="give the `output` of a spec")
            raise InputError(f"{place!r} holds no raydelt run (no {SPEC}): {cure}")
        return _numbered(Store(numbered[1]), int(numbered[2]))

    @property
    def raw(self) -> dict[str, Any]:
        """The resolved spec as plain data, as it was written."""
        if SPEC not in self._json:
            found = self.store.read_json(SPEC)
            if not isinstance(found, dict) or not {"corpus", "rank", "select", "order", "train"} <= found.keys():
                raise self._foreign(SPEC)
            self._json[SPEC] = found
        raw: dict[str, Any] = self._json[SPEC]
        return raw

    @property
    def spec(self) -> RunConfig:
        """The spec.

        Raises:
            InputError: this version of raydelt does not understand it.
        """
        from raydelt.rundir import config_of

        return config_of(self.store)

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`: versions, fingerprints and seconds of the stages; empty before the first stage."""
        if RECORD not in self._json:
            self._json[RECORD] = self.store.read_json(RECORD) if self.store.exists(RECORD) else {}
        record: dict[str, Any] = self._json[RECORD]
        return record

    def found(self, stage: str) -> Manifest | None:
        """What a stage says of itself; None where it was never published."""
        if stage not in self._manifests:
            try:
                found = read_manifest(self.store, stage)
                _ = [found.facts[name] for name in FACTS.get(stage, ())] if found is not None else []
            except (KeyError, TypeError) as error:
                detail = f" (no {error.args[0]})" if isinstance(error, KeyError) else ""
                raise self._foreign(f"{stage}/manifest.json", detail) from error
            self._manifests[stage] = found
        return self._manifests[stage]

    def manifest(self, stage: str) -> Manifest:
        """What a stage says of itself.

        Raises:
            InputError: the run is not that far.
        """
        found = self.found(stage)
        if found is not None:
            return found
        if self.version == 0:
            command = COMMANDS.get(stage, "run")
            raise InputError(f"{self.store.root!r} has no {stage} yet: `raydelt {command} SPEC` makes it")
        until = stage if stage in LATER else "ranking"
        raise InputError(
            f"version {self.version} of {self.root.root!r} has no {stage} yet: `raydelt rescore RUN --until {until}` "
            "makes it, and RUN@0 is the run as it was first scored"
        )

    @property
    def scored(self) -> Manifest:
        """The scores that the ranking is of: refined ones where the spec refines."""
        refined = self.found("refined") if self.raw["rank"].get("refine") else None
        return refined or self.manifest("scores")

    @property
    def components(self) -> list[str]:
        """Names of the stored components, in the order of the spec."""
        return [name for names in self.scored.facts["columns"].values() for name in names]

    @property
    def classes(self) -> list[str]:
        """Names of the classes by index; empty without labels."""
        return list(self.manifest("corpus").facts.get("classes", []))

    def scores(self, columns: Sequence[str] | None = None, *, as_: As = "arrow") -> Any:
        """The components [n] of every scored example, `example_id` first, as a table of the kind that `as_` names.

        Raises:
            InputError: there are no scores, or no such column.
        """
        return self._table(self.scored, columns, as_)

    def ranking(self, columns: Sequence[str] | None = None, *, as_: As = "arrow") -> Any:
        """The ranking [n], lowest first."""
        return self._table(self.manifest("ranking"), columns, as_)

    def selection(self, columns: Sequence[str] | None = None, *, as_: As = "arrow") -> Any:
        """What is kept [k], in the order of the ranking, with `position` in the training order."""
        return self._table(self.manifest("selection"), columns, as_)

    def examples(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The examples with these ids: label, source, text or features, and components.

        Raises:
            InputError: an id is unknown.
        """
        from raydelt.ask.examples import by_id

        return by_id(self, ids)

    def why(self, example: str) -> dict[str, Any]:
        """Everything the run knows of one example, by its id or a prefix of it.

        Raises:
            InputError: the id is unknown, or the prefix fits several.
        """
        from raydelt.ask.why import why

        return why(self, example)

    def ordered(self) -> OrderedDataset:
        """The selection in training order as a torch `IterableDataset`, without duplicates over ranks and workers."""
        from raydelt.ask.dataset import OrderedDataset

        return OrderedDataset(self)

    def _table(self, manifest: Manifest, columns: Sequence[str] | None, as_: As) -> Any:
        if as_ not in ("arrow", "pandas", "polars", "ray"):
            raise InputError(f"as_ {as_!r} is no kind of table: give arrow, pandas, polars or ray")
        wanted = None if columns is None else list(dict.fromkeys(["example_id", *columns]))
        if as_ == "ray":
            return _ray(self.store, manifest, wanted)
        table = pa.concat_tables([files.read(self.store, part, wanted) for part in manifest.parts])
        if as_ == "pandas":
            return table.to_pandas()
        if as_ == "polars":
            return _polars(table)
        return table

    def _foreign(self, name: str, detail: str = "") -> InputError:
        from raydelt.rundir import foreign

        return foreign(self.store, name, detail)


def _numbered(root: Store, number: int) -> Run:
    if not root.exists(SPEC):
        raise InputError(f"{root.root!r} holds no raydelt run (no {SPEC}): give the `output` of a spec")
    store = root if number == 0 else root.at(versions.place(number))
    if not store.exists(SPEC):
        there = ", ".join(str(known) for known in [0, *versions.known(root)])
        raise InputError(f"{root.root!r} has no version {number}: there are {there}")
    return Run(root, store, number)


def _ray(store: Store, manifest: Manifest, columns: Sequence[str] | None) -> Any:
    import ray.data

    paths = [store.path(part.file) for part in manifest.parts]
    fs = None if store.is_local else store.fs
    found = ray.data.read_parquet(paths, filesystem=fs)
    return found if columns is None else found.select_columns(list(columns))


def _polars(table: pa.Table) -> Any:
    try:
        import polars
    except ImportError as error:
        raise InputError("as_='polars' needs the package polars: pip install polars") from error
    return polars.from_arrow(table)
