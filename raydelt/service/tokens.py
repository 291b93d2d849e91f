"""What a cluster has against a token, in one sentence; Ray tells it to whoever submits and to whoever joins."""

from __future__ import annotations

import os

from ray.exceptions import AuthenticationError

CURE = "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


def told(place: str, error: AuthenticationError) -> str:
    """Why the cluster at a place lets nobody in, and the cure; nothing of the token itself."""
    cluster = f"the cluster at {place!r}"
    if "nvalid" in str(error) and os.environ.get("RAY_AUTH_MODE") == "token":
        return f"{cluster} refuses this token: check RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names"
    return f"{cluster} wants a token: set {CURE}"
