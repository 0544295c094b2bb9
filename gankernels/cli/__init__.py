"""The command `gankernels`: one file for each of its commands, each with `add(commands)` and `run(arguments)`."""

from __future__ import annotations

from gankernels.cli.entry import main

__all__ = ["main"]
