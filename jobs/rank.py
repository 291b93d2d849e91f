"""The flow up to the ranking as a Ray job: `ray job submit --working-dir . -- python jobs/rank.py SPEC [-o a.b=c]`."""

import sys

from raydelt.cli import main

sys.argv.insert(1, "rank")
main()
