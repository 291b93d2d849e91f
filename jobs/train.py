"""The flow up to the model as a Ray job: `ray job submit --working-dir . -- python jobs/train.py SPEC [-o a.b=c]`."""

import sys

from raydelt.cli import main

sys.argv.insert(1, "train")
main()
