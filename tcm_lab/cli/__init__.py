"""The command line: one app of nested commands, each of which loads its packages when it runs."""

from tcm_lab.cli.app import main

__all__ = ["main"]
