"""`python -m tests.bench [NAME …]`: run the benchmarks (all by default), each printing its table."""

from __future__ import annotations

import importlib
import sys

BENCHES = (
    "label_noise",
    "quickstart",
    "gradients",
    "pipeline",
    "lm_gradients",
    "lqs",
    "lm_quality",
    "rank",
    "ordered",
    "orders",
    "active",
    "lossval",
    "valuation",
    "planning",
    "object_store",
    "tune",
    "plan_proof",
    "estimate",
    "scorers",
    "ask",
    "chaos",
    "rescore",
    "soak",
    "report",
    "defaults",
)


def main(names: list[str]) -> None:
    for name in names or BENCHES:
        if name not in BENCHES:
            raise SystemExit(f"no benchmark {name!r}: there are {', '.join(BENCHES)}")
        print(f"== {name}", flush=True)
        importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
