"""The flow up to the scores as a Ray job: `ray job submit --working-dir . -- python jobs/score.py SPEC [-o a.b=c]`."""

import sys

from raydelt.cli import main

sys.argv.insert(1, "score")
main()
