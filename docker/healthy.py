"""Exit code 0 where the Ray node of this container is well, or none was started; 1 where it is not.

A container that only runs a command, without Ray, has nothing to ask. Costs one request to the node's agent, which
answers without a token.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 8
PORT = os.environ.get("RAY_AGENT_PORT", "52365")
SESSION = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest")


def main() -> int:
    """Ask the agent, and tell what it says."""
    if not SESSION.exists():
        print("no Ray node here")
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/healthz", timeout=SECONDS) as answer:
            print(answer.read().decode(errors="replace"))
    except (OSError, urllib.error.URLError) as error:
        print(f"the Ray node's agent says: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
