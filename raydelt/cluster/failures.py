"""Errors that are meant for the user, on their way out of Ray's wrappings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.exceptions import RayTaskError

from raydelt.errors import RaydeltError


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Let an error that is meant for the user out of a task's or an actor's wrapping."""
    try:
        yield
    except Exception as error:
        told = _user_error(error)
        if told is None or told is error:
            raise
        raise told from None


def _user_error(error: BaseException | None) -> RaydeltError | None:
    """The RaydeltError that an exception wraps, at any depth; Ray's own wrappers of it do not count as it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RaydeltError) and not isinstance(error, RayTaskError):
            return error
        # The errors of a worker group lie beside it, one for each worker that failed.
        failures = getattr(error, "worker_failures", {}).values()
        told = next(filter(None, map(_user_error, failures)), None)
        if told is not None:
            return told
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None
