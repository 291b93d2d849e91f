"""Files in a store say what they are, so a link to a page opens in a browser."""

from __future__ import annotations

from uuid import uuid4

import pytest

from raydelt.storage import Store
from raydelt.storage.store import PART_BYTES
from tests.s3server import BUCKET, Server, using


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report/index.html", "text/html"),
        ("report/summary.json", "application/json"),
        ("report/figures/curves.svg", "image/svg+xml"),
        ("report/figures/curves.png", "image/png"),
        ("scores/part-00000", "binary/octet-stream"),
        ("rows.json.gz", "binary/octet-stream"),
    ],
)
def test_a_put_tells_the_type_of_its_content(moto_server: Server, name: str, kind: str) -> None:
    with using(moto_server):
        store = Store(f"s3://{BUCKET}/{uuid4().hex}")
        store.put(name, b"1")
        assert head(store, name)["ContentType"] == kind


def test_so_does_a_put_in_parts(moto_server: Server) -> None:
    with using(moto_server):
        store = Store(f"s3://{BUCKET}/{uuid4().hex}")
        store.put("large.html", b" " * (2 * PART_BYTES + 1))
        assert head(store, "large.html")["ContentType"] == "text/html"


def head(store: Store, name: str) -> dict[str, str]:
    bucket, key, _ = store.fs.split_path(store.path(name))
    found: dict[str, str] = store.fs.call_s3("head_object", Bucket=bucket, Key=key)
    return found
