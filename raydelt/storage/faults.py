"""What went wrong with a store, in one sentence, and what is worth another try.

Requests that fail are tried again below this module (see `places`). What is tried again here is what only we notice:
an object shorter than the store said, a multipart upload whose last answer was lost, two conditional puts at once.

    wait before try k = U(0, 1) min(CAP, BASE 2^k) seconds

Caution: the answer to a HEAD has no body, so its 403 does not say why; one small listing asks again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from raydelt.errors import InputError, RaydeltError
from raydelt.storage.places import masked

T = TypeVar("T")

TRIES, BASE_SECONDS, CAP_SECONDS = 5, 0.2, 5.0
CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
    "AuthorizationHeaderMalformed",
)
MISSING = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")
# Answers to a HEAD, which have no body.
SILENT = ("403", "Forbidden", "400", "Bad Request")
LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "urllib3", "s3fs", "gcsfs", "google", "huggingface_hub", "httpx")


class CutShort(Exception):
    """Fewer bytes came than the store said it holds."""


def patient(call: Callable[[], T]) -> T:
    """The result of a call that is tried again where an object came cut short or two writers met.

    Raises:
        CutShort: it was so every time.
    """
    for attempt in range(TRIES):
        try:
            return call()
        except (CutShort, pa.ArrowInvalid) as error:
            last: Exception = error
        except Exception as error:
            if code_of(error) not in ("NoSuchUpload", "ConditionalRequestConflict", "OperationAborted"):
                raise
            last = error
        if attempt + 1 < TRIES:
            # How long to wait is no result: any jitter will do.
            time.sleep(random.random() * min(CAP_SECONDS, BASE_SECONDS * 2**attempt))
    raise last


def of_store(error: BaseException) -> bool:
    """Whether an error comes from a store or the way to it rather than from what a file holds."""
    return any(
        isinstance(e, CutShort) or type(e).__module__.partition(".")[0] in LIBRARIES or _is_timeout(e)
        for e in _chain(error)
    )


def told(error: BaseException, place: str, doing: str, *, ask: Callable[[], Any] | None = None) -> RaydeltError:
    """The error as one sentence: where, what was tried, why not, and the cure; `ask` makes a store say why."""
    if isinstance(error, RaydeltError):
        return error
    code = code_of(error)
    if code in SILENT and ask is not None:
        try:
            ask()
        except Exception as answer:
            error, code = answer, code_of(answer) or code
    return InputError(f"{masked(place)} cannot be {doing}: {_reason(error, code)}")


def code_of(error: BaseException) -> str:
    """The code of S3's answer that an error stems from; "" where there is none."""
    for e in _chain(error):
        response = getattr(e, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
    return ""


def _reason(error: BaseException, code: str) -> str:
    kinds = {type(e).__name__ for e in _chain(error)}
    if code in CREDENTIALS:
        return f"the store refuses the credentials ({code}): check AWS_PROFILE or AWS_ACCESS_KEY_ID and its secret"
    if code == "RequestTimeTooSkewed":
        return "this machine's clock is not the store's (RequestTimeTooSkewed): set the clock, for instance by NTP"
    if code == "NoSuchBucket":
        return "its bucket does not exist (NoSuchBucket): create it, or correct the name"
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError"}:
        return "there are no credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if "ProfileNotFound" in kinds:
        return "AWS_PROFILE names no profile of this machine: correct it, or unset it"
    if code in MISSING or "FileNotFoundError" in kinds:
        return "it is not there, or no longer: if something deleted it, run again"
    if code == "AccessDenied" or code in SILENT or "PermissionError" in kinds:
        return f"the store denies it ({code or 'PermissionError'}): ask for that right, or choose another place"
    if kinds & {"EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "gaierror"}:
        return "the store cannot be reached: check AWS_ENDPOINT_URL and the network"
    if "CutShort" in kinds:
        return f"it came cut short {TRIES} times ({error}): check the network and the store"
    if "ArrowInvalid" in kinds:
        return f"it is damaged ({' '.join(str(error).split())[:120]}): delete it and run again"
    if kinds & {"FSTimeoutError", "ReadTimeoutError"}:
        return "the store does not answer: check AWS_ENDPOINT_URL and the network"
    if code or of_store(error):
        text = code or next(type(e).__name__ for e in _chain(error))
        return f"the store failed at every try ({text}): look after it, then run again"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _is_timeout(error: BaseException) -> bool:
    return type(error).__name__ == "FSTimeoutError"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
