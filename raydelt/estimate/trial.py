"""One trial: the command that would run the spec, on a smaller spec, in a process of its own, with a deadline.

A process of its own starts as cold as a run does, is measured like one, and can be ended; what its finished stages
took stands in its record all the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydelt.config import RunConfig
from raydelt.errors import ErrorBudgetExceeded, InputError, RaydeltError
from raydelt.rundir import RECORD
from raydelt.storage import Manifest, Store, read_manifest

COMMANDS = {
    "scores": "score",
    "ranking": "rank",
    "selection": "select",
    "ordered": "order",
    "model": "train",
    "report": "run",
}
END_SECONDS = 10.0


@dataclass(frozen=True)
class Trial:
    """What a trial of a spec on so many rows measured: its record and manifests, and the seconds of its process."""

    config: RunConfig
    rows: int
    seconds: float
    whole: bool
    record: dict[str, Any]
    manifests: dict[str, Manifest]
    row_bytes: float

    @property
    def stages(self) -> dict[str, Any]:
        """The record of every finished stage."""
        stages: dict[str, Any] = self.record["stages"]
        return stages


def run_trial(config: RunConfig, *, rows: int, until: str, seconds: float) -> Trial:
    """Run a trial to its end, or for so many seconds.

    Raises:
        RaydeltError: what the trial itself was refused for.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        spec, said = Path(folder) / "trial.json", Path(folder) / "said"
        spec.write_text(json.dumps(config.resolved()))
        command = [sys.executable, "-m", "raydelt", COMMANDS[until], str(spec), "--json"]
        with said.open("wb") as stderr:
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=os.environ | _quiet())
        whole = _ended(child, seconds)
        if whole and child.returncode != 0:
            raise _fault(child.returncode, said.read_text(errors="replace"), rows)
    store = Store(config.output)
    record = store.read_json(RECORD) if store.exists(RECORD) else {"stages": {}}
    manifests = {name: found for name in record["stages"] if (found := read_manifest(store, name)) is not None}
    row_bytes = _row_bytes(store, manifests)
    return Trial(config, rows, time.monotonic() - started, whole, record, manifests, row_bytes)


def _quiet() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUNBUFFERED": "1"}


def _ended(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process came to its own end in time; if not, it is ended, and with it the Ray that it started."""
    try:
        child.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _fault(code: int, said: str, rows: int) -> RaydeltError:
    """What a trial that failed says, as an error of ours."""
    lines = [line.removeprefix("raydelt: ") for line in said.splitlines() if line.startswith("raydelt: ")]
    told = lines[-1] if lines else (said.strip().splitlines() or [f"exit code {code}"])[-1]
    kinds: dict[int, type[RaydeltError]] = {2: InputError, 3: ErrorBudgetExceeded}
    return kinds.get(code, RaydeltError)(f"a trial on {rows} rows failed: {told}")


def _row_bytes(store: Store, manifests: dict[str, Manifest]) -> float:
    """Bytes in memory of an example of the corpus."""
    corpus = manifests.get("corpus")
    if corpus is None or not corpus.rows:
        return 0.0
    first = max(corpus.parts, key=lambda part: part.rows)
    table = store.read_table(first.file)
    return float(table.nbytes / max(1, table.num_rows))
