"""`gankernels info`."""

from __future__ import annotations

import argparse
from typing import Any

from gankernels.cli.options import command

EXAMPLES = """\
  gankernels info             for a person
  gankernels info --json      for a program or a bug report"""


def add(commands: Any) -> None:
    """Add the command."""
    added = command(commands, "info", run, "what this copy of gankernels consists of and runs on", EXAMPLES)
    added.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the report of gankernels.info."""
    from gankernels import info

    return info.main(["--json"] if arguments.json else [])
