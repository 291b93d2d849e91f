"""The report page."""

from __future__ import annotations

import html
import json
from typing import Any


def render(summary: dict[str, Any]) -> str:
    """One self-contained HTML page."""
    return f"<!doctype html><title>{html.escape(summary['name'])}</title><pre>{html.escape(json.dumps(summary, indent=2))}</pre>"
