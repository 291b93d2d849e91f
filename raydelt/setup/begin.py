"""`raydelt init`: look at a source, choose, and write a spec that runs as it is.

The chosen fields are tried on the sample by the flow's own conversion of rows, so the share of bad rows that is told
is the one that a run would find there.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raydelt import storage
from raydelt.config import Corpus, RunConfig
from raydelt.corpus.canonical import probe
from raydelt.corpus.sources import COMPRESSED
from raydelt.errors import InputError
from raydelt.setup.columns import describe
from raydelt.setup.content import Content, content_of
from raydelt.setup.look import Sample, converted, sampled
from raydelt.setup.offers import Task
from raydelt.setup.places import Places, arranged
from raydelt.setup.reading import how_to_read, kind_of_model
from raydelt.setup.sizes import LARGE, sizes
from raydelt.setup.write import HELD_OUT, Draft, text_of
from raydelt.specfile import validate

BUDGET, MOST_BAD = 0.05, 0.5
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Wish:
    """What the user asked for on the command line."""

    source: str
    label: str | None = None
    test: str | None = None
    name: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Begun:
    """The text of the spec, what it was written from, and what the user should know."""

    text: str
    config: RunConfig
    draft: Draft
    found: dict[str, Any]


def begin(wish: Wish, *, file: str) -> Begun:
    """Look at the source and write the text of a spec.

    Raises:
        InputError: it cannot work, told in one sentence with what was found and what helps.
    """
    storage.refuse_credentials(wish.source, "SOURCE")
    language, encoder, context = kind_of_model(wish.model)
    wish = replace(wish, source=wish.source.removeprefix("file://"))
    places = arranged(wish.source)
    if wish.test is not None:
        places = replace(places, test=wish.test)
    base, extra = how_to_read(places, wish.source)
    with sampled(places.files, base) as sample:
        _check_rows(sample, places, wish.source)
        content = content_of(sample, source=wish.source, label=wish.label)
        content.fields = extra | content.fields
        task = _task(content, wish, language=language, encoder=encoder)
        places = _usable_splits(places, content, base, named=wish.test)
        draft = _draft(wish, places, content, task, sample, encoder, context)
        return _tried(draft, sample, file)


def write(text: str, file: str, *, force: bool) -> None:
    """Put the spec where there is none, or with `force` in any case.

    Raises:
        InputError: the file stands, or cannot be written.
    """
    try:
        with open(file, "w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise _there(file) from error
    except OSError as error:
        raise InputError(f"{file!r} cannot be written ({error}): give another place by --to") from error


def _check_rows(sample: Sample, places: Places, source: str) -> None:
    if sample.rows:
        return
    reason = sample.bad[0].reason if sample.bad else "no row"
    path = places.files[0].path
    if sample.format == "jsonl" and _starts_with(path, b"["):
        raise InputError(
            f"{source} is one JSON array, and raydelt reads one object a line: jq -c '.[]' {path} > rows.jsonl"
        )
    raise InputError(f"{source} holds no readable row ({reason}): check the path, or mend the file")


def _starts_with(path: str, mark: bytes) -> bool:
    with storage.opened(path) as file:
        return bytes(file.read(64)).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(mark)


def _task(content: Content, wish: Wish, *, language: str | None, encoder: str | None) -> Task:
    """What kind of run it is.

    Raises:
        InputError: there is neither a label nor, for text, a model; or a model for what is no text.
    """
    if wish.model and content.made != "text":
        raise InputError(f"--model {wish.model!r} is for texts, and {wish.source} holds {content.made}: leave it out")
    if language is not None:
        if content.label:
            content.notes.append(f"a language model scores texts without labels: {content.label!r} is not used")
            for name in ("label_column", "label_from_folder"):
                content.fields.pop(name, None)
        return "language"
    if content.label is not None:
        if content.classes < 2 and wish.label is None:
            raise InputError(
                f"{wish.source}: the label {content.label!r} has one class in the rows that were looked at, and a "
                "classifier needs two: give --label COLUMN, which is then taken as it is"
            )
        return content.made
    if encoder is not None:
        return "vectors"
    seen = ", ".join(f"{c.name} ({c.kind}, {c.distinct} values)" for c in content.columns[:12])
    if content.made == "text":
        raise InputError(
            f"{wish.source} holds texts without labels ({seen}): name the column of classes by --label, or give the "
            "folder of a language model or of a sentence encoder by --model, since scores need one of them"
        )
    folders = ": put the files into one folder for each class" if not content.columns[1:] else " by --label COLUMN"
    raise InputError(f"{wish.source}: no label found ({seen}); name the column of classes{folders}")


def _usable_splits(places: Places, content: Content, base: Corpus, *, named: str | None) -> Places:
    """The splits whose files have what an example is made of; one that the user named must."""
    held: dict[str, Any] = {"test": places.test, "validation": places.validation}
    if named is not None:
        arranged(named)
    wanted = [content.fields[name][0] for name in ("label_column", "text_column") if name in content.fields]
    for role, source in held.items():
        if source is None or not wanted:
            continue
        own = arranged(source) if isinstance(source, str) else None
        if own is None:
            continue
        with sampled(own.files, base) as sample:
            missing = [name for name in wanted if name not in sample.columns]
        if missing and source == named:
            raise InputError(f"--test {source!r} has no column {missing[0]!r}: a test split needs the labels too")
        if missing:
            content.notes.append(f"{source} is not used as {role} split: it has no column {missing[0]!r}")
            held[role] = None
    return replace(places, test=held["test"], validation=held["validation"])


def _draft(
    wish: Wish,
    places: Places,
    content: Content,
    task: Task,
    sample: Sample,
    encoder: str | None,
    context: int,
) -> Draft:
    held_out = HELD_OUT if places.test is None else 0.0
    notes = [*places.notes, *content.notes]
    if sample.total > LARGE:
        notes.append(
            f"about {sample.total:,} rows are all read: `raydelt estimate` says what that takes, and "
            "`-o corpus.limit=50000` tries a part"
        )
    return Draft(
        name=wish.name or _name(wish.source),
        places=places,
        content=content,
        task=task,
        rows=sample.total,
        exact=sample.exact,
        sizes=sizes(sample.total, held_out=held_out),
        model=wish.model if task == "language" else None,
        encoder=encoder,
        context=context,
        notes=notes,
    )


def _name(source: str) -> str:
    """A name for the run: that of the source, without what names may not hold."""
    base = posixpath.basename(source.rstrip("/")) or "run"
    for suffix in COMPRESSED:
        base = base.removesuffix(suffix)
    if "://" not in source and not os.path.isdir(source):
        base = posixpath.splitext(base)[0]
    cleaned = UNSAFE.sub("-", base).strip("-._")
    return cleaned if cleaned[:1].isalnum() else "run"


def _tried(draft: Draft, sample: Sample, file: str) -> Begun:
    """The spec, with the share of bad rows as its own fields give it on the sample."""
    config = validate(yaml.safe_load(text_of(draft, file=file)), origin="the spec that init wrote")
    layout = probe(sample.units, config.corpus)
    counts, reasons = converted(sample, config.corpus, layout)
    failed = sum(reasons.values())
    share = failed / max(1, sum(counts.values()) + failed)
    budget = None
    if share > BUDGET / 2:
        commonest = reasons.most_common(1)[0][0]
        if share > MOST_BAD:
            raise InputError(
                f"{share:.0%} of the rows of {draft.places.files[0].path} cannot be used ({commonest}): mend it"
            )
        budget = round(min(0.95, 1.5 * share + 0.02), 2)
        draft.notes.append(f"{share:.1%} of the rows looked at cannot be used, for instance: {commonest}")
    final = replace(draft, bad=share, budget=budget)
    text = text_of(final, file=file)
    config = validate(yaml.safe_load(text), origin="the spec that init wrote")
    return Begun(text, config, final, _facts(final, sample, len(counts.keys() - {""})))


def _facts(draft: Draft, sample: Sample, classes: int) -> dict[str, Any]:
    content = draft.content
    return {
        "format": sample.format,
        "files": len(draft.places.files),
        "rows": draft.rows,
        "rows_exact": draft.exact,
        "looked_at": sample.rows,
        "bad": round(draft.bad, 4),
        "example": content.made,
        "label": content.label,
        "classes": max(classes, content.classes),
        "task": draft.task,
        "columns": [asdict(column) for column in content.columns or describe(sample.columns)],
        "test": draft.places.test,
        "validation": draft.places.validation,
        "notes": list(draft.notes),
    }


def refuse_existing(file: str) -> None:
    """Refuse before anything is read to write over a spec."""
    if Path(file).exists():
        raise _there(file)


def _there(file: str) -> InputError:
    return InputError(f"{file!r} is there already: give another place by --to, or --force to replace it")
