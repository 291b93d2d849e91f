"""`python -m raydelt`."""

from raydelt.cli import main

main()
