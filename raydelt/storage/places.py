"""From a path or URL to the file system that it lies on: local disks, s3://, gs://, hf:// and whatever fsspec knows.

The layer is fsspec's, with s3fs for S3. Measured against pyarrow's S3FileSystem (`python -m tests.bench object_store`;
rclone on loopback, two cores, where the client's own work is what counts), s3fs : pyarrow,

    68 MB of Parquet written   111 : 169 MB/s     200 objects of 4 kB put    500 : 712 objects/s
    68 MB of Parquet read      233 : 607 MB/s     200 objects of 4 kB read   679 : 1865 objects/s
                                                  200 ranges of 4 kB read    556 : 710 ranges/s

so pyarrow is mostly the faster, by up to 2.7 times (a second run: .7 to 1.8), and yet it is s3fs: pyarrow has no
conditional put, gives neither the code nor the date of an answer, writes directory markers (`PUT key/`) in the calls
that Ray Train's checkpoints need and that servers such as rclone refuse, and knows no hf://. One layer means one set
of settings, retries and errors; what it costs a whole run is the second table of the same benchmark.

Settings: connections that do not open in 5 s and sockets silent for 15 s are given up; a request is tried 5 times with
exponential back-off and jitter (botocore's standard mode: 5xx, throttling, timeouts, resets), a body that breaks off 5
times by s3fs. Credentials, region and endpoint come from the environment and profile that all of AWS's tools read.
Caution: nothing is kept of a listing, so every question about a place is a request.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

import fsspec

from raydelt.errors import InputError

CONNECT_SECONDS, SILENT_SECONDS = 5, 15
ATTEMPTS = 5
BLOCK_BYTES = 8 << 20
CONCURRENT = 8
S3 = ("s3", "s3a")
READ_ONLY = ("hf", "http", "https", "github")
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "abfs": "adlfs"}
# Secret keys hold slashes; a port before a path, or the name of an access point, is no key.
AUTHORITY = re.compile(
    r"(?P<scheme>[a-z0-9+.-]{1,30}://)(?:[^/\s]*|(?!arn:)[^/:@\s]+:(?!\d{1,5}(?:/|\s))[^@\s]*)@", re.IGNORECASE
)


def scheme(path: str) -> str:
    """The scheme of a URL, in small letters; "" for a local path."""
    name, separator, _ = path.partition("://")
    return name.lower() if separator else ""


def absolute(path: str) -> str:
    """A local path made absolute, since workers have working directories of their own; URLs as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path on it.

    Raises:
        InputError: the URL holds credentials, its scheme needs a package that is not installed, or the profile that
            the environment names does not exist.
    """
    refuse_credentials(path)
    return _filesystem(path, _endpoint() if scheme(path) in S3 else None)


def forget() -> None:
    """Drop what is known of places: the environment names others now."""
    _filesystem.cache_clear()
    _endpoint_of_profile.cache_clear()


def refuse_credentials(path: str, field: str = "the URL") -> None:
    """Refuse a URL that holds credentials: URLs are printed, and written into records."""
    if AUTHORITY.search(path):
        raise InputError(
            f"{field} {masked(path)!r} holds credentials: leave them out, and give them by AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def masked(path: str) -> str:
    """A text without the credentials that its URLs may hold."""
    return AUTHORITY.sub(r"\g<scheme>***@", path)


def refuse_output(path: str, field: str = "output") -> None:
    """Refuse a place that can only be read."""
    if scheme(path) in READ_ONLY:
        raise InputError(f"{field} {path!r} can only be read: give a local path, s3:// or gs://")


def opened(path: str) -> Any:
    """A file for reading by path or URL, a context manager; of a store's, ranges are read ahead by `BLOCK_BYTES`."""
    fs, name = filesystem(path)
    return fs.open(name, "rb")


@functools.lru_cache(maxsize=4096)
def _filesystem(path: str, endpoint: str | None) -> tuple[fsspec.AbstractFileSystem, str]:
    kind = scheme(path)
    try:
        if kind not in S3:
            found: tuple[Any, str] = fsspec.core.url_to_fs(path)
            return found
        from raydelt.storage.s3 import PatientS3

        return PatientS3(**_s3_options(endpoint)), PatientS3._strip_protocol(path)
    except ImportError as error:
        package = PACKAGES.get(kind)
        if package is None:
            raise
        raise InputError(f"{path!r} needs the package {package}: pip install {package}") from error


def _s3_options(endpoint: str | None) -> dict[str, Any]:
    """Arguments of s3fs, without any secret: they travel to workers and into records of Ray."""
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": SILENT_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        "max_pool_connections": 4 * CONCURRENT,
    }
    if endpoint:
        # Servers that are not AWS know nothing of the checksums that botocore adds of its own accord.
        for name in ("request_checksum_calculation", "response_checksum_validation"):
            if f"AWS_{name.upper()}" not in os.environ:
                config[name] = "when_required"
    return {
        "endpoint_url": endpoint,
        "config_kwargs": config,
        "max_concurrency": CONCURRENT,
        "default_block_size": BLOCK_BYTES,
        "use_listings_cache": False,
    }


def _endpoint() -> str | None:
    """The endpoint that the environment or the profile names; None for AWS itself."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or _endpoint_of_profile(os.environ.get("AWS_PROFILE"), os.environ.get("AWS_CONFIG_FILE"))


@functools.lru_cache(maxsize=8)
def _endpoint_of_profile(profile: str | None, _: str | None) -> str | None:
    import botocore.session  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        found: dict[str, Any] = botocore.session.Session(profile=profile).get_scoped_config()
    except BotoCoreError as error:
        raise InputError(f"AWS_PROFILE {profile!r} is no profile of this machine: correct it, or unset it") from error
    service = found.get("s3")
    own = service.get("endpoint_url") if isinstance(service, dict) else None
    return own or found.get("endpoint_url")
