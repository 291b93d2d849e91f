"""The command line: every command is a few lines that call the package. Heavy imports happen inside the commands.

A module a group of commands; importing it registers them, in the order in which help lists them.
"""

# isort: off
from raydelt.cli import setup, flow, plan, estimate, tune, value, label, ask, jobs, rescore, monitor  # noqa: F401

# isort: on
from raydelt.cli.main import main

__all__ = ["main"]
