"""s3fs, made to give up on a server that says nothing.

A put asks the server to say `100 Continue` before its body is sent, and the client waits for that without any limit;
so the question is left out, and a put costs one trip less. Source: botocore's `add_expect_header`, aiohttp's
`ClientRequest.write_bytes`. Importing this imports botocore, about .3 s.
"""

from __future__ import annotations

from typing import Any

from botocore.handlers import add_expect_header  # type: ignore[import-untyped]
from s3fs import S3FileSystem


class PatientS3(S3FileSystem):  # type: ignore[misc]
    """An S3FileSystem whose puts wait for nothing before they send."""

    # A body that breaks off is read again so often; requests are repeated below this, in botocore.
    retries = 5

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] | None = None) -> Any:
        client = await super().set_session(refresh, kwargs or {})
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client
