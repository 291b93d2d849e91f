"""What a path that does not exist was probably meant to be."""

from __future__ import annotations

import difflib
import os


def near(path: str, *, otherwise: str = "check the path") -> str:
    """The cure for a local path that is not there: the nearest name in its folder, or in the first that exists."""
    given = os.path.normpath(os.path.expanduser(path))
    if "://" in path or os.path.exists(given):
        return otherwise
    folder, name = os.path.split(given)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return otherwise
    found = difflib.get_close_matches(name, names, 1, 0.7)
    return f"did you mean {os.path.join(folder, found[0])!r}?" if found else otherwise
