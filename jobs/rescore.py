"""Scoring a run again as a Ray job: `ray job submit --working-dir . -- python jobs/rescore.py RUN [--first]`."""

import sys

from raydelt.cli import main

sys.argv.insert(1, "rescore")
main()
