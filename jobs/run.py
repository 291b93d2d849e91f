"""The whole flow as a Ray job: `ray job submit --working-dir . -- python jobs/run.py SPEC [-o a.b=c]`."""

import sys

from raydelt.cli import main

sys.argv.insert(1, "run")
main()
