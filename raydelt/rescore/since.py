"""From which time on files are looked at: `--since` of a rescore, and the files that need not be opened then.

    not opened = was read for the version before, is of the same size and mark, and was last changed before that time

Their examples come from that version; everything else is read: files that are new, of another size or mark, changed
since, or without a time of change. So the time only limits what is looked at; whether an example changed is always
decided by its content. Cost: the listing of the sources, which is made anyway.

Caution: the time of a file is the store's, so leave room for clocks that differ.
"""

from __future__ import annotations

import datetime
import logging
import re
from typing import Any

from raydelt.config import RunConfig
from raydelt.corpus.carried import cannot_carry
from raydelt.corpus.sources import find
from raydelt.errors import SpecError
from raydelt.storage import Manifest

log = logging.getLogger(__name__)
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def since(text: str, *, now: float) -> float:
    """The moment (seconds since 1970) that an ISO date or time, or a duration up to `now`, stands for.

    A time without a zone is UTC.

    Raises:
        SpecError: it is neither, or lies in the future.
    """
    found = DURATION.fullmatch(text.strip())
    try:
        if found:
            moment = now - float(found[1]) * SECONDS[found[2]]
        else:
            told = datetime.datetime.fromisoformat(text.strip())
            moment = (told if told.tzinfo else told.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise SpecError(
            f"--since {text!r} is no time: give an ISO date or time such as 2026-01-31 or 2026-01-31T06:00+01:00, or "
            "a duration such as 12h, 7d or 2w"
        ) from error
    if moment > now:
        raise SpecError(f"--since {text!r} lies in the future: give a time that is past, or a duration such as 7d")
    return moment


def unopened(config: RunConfig, before: dict[str, Any] | None, corpus: Manifest, moment: float) -> frozenset[str]:
    """The files whose examples can be taken from the version before; none where that could give another result.

    `before` is what that version was made of, `corpus` what it read.
    """
    told = _in_the_way(config, before)
    files = {f"{file.split}: {file.path}": file for file in find(config.corpus)}
    if len({file.path for file in files.values()}) < len(files):
        told = told or "a file stands in two splits"
    if told is None and before is not None:
        same = {name for name, file in files.items() if before["files"].get(name) == [file.size, file.mark]}
        old = {name for name in same if (at := files[name].modified) is not None and at < moment}
        told = cannot_carry(config.corpus, corpus, lost=bool(before["files"].keys() - old))
        if told is None:
            log.info("%-10s %d of %d files are older than --since and not opened", "since", len(old), len(files))
            return frozenset(files[name].path for name in old)
    log.info("%-10s every file is read: %s", "since", told)
    return frozenset()


def _in_the_way(config: RunConfig, before: dict[str, Any] | None) -> str | None:
    """Why files of the version before may not be what this spec would read of them."""
    if before is None:
        return "the version before does not say which files it was made of, the next one will"
    own = {name: config.resolved()[name] for name in ("corpus", "seed")}
    if any(before["spec"][name] != own[name] for name in own):
        return "the spec's corpus changed"
    return None
