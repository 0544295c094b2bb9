"""Parse, run, and turn whatever happens into an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from gankernels.backends import cpu, default_device, device, why_not
from gankernels.cli.errors import DONE, FAILURE, WRONG_USE, WrongUse, describe, sigterm_raises

__all__ = ["main", "parser"]

COMMANDS = ("info", "recipes", "simulate", "train", "generate", "validate")

EPILOG = """\
the whole way, with no data at hand:
  gankernels train quickstart                       simulates, trains, generates, validates; prints where the report is

the same in pieces:
  gankernels simulate showers.h5 --events 10000     electron showers in a 25x25x25 calorimeter
  gankernels train 3dgan --data showers.h5          a run directory with checkpoints and a report
  gankernels generate runs/00000-3dgan --out g.h5   new showers from the best checkpoint
  gankernels validate g.h5 --reference showers.h5   report.html: how good they are

exit codes:
  0 done   1 failed   2 wrong use   75 stopped by a signal after saving; --resume latest goes on

environment:
  GANKERNELS_NUM_THREADS   threads of the kernels (results do not depend on it)
  GANKERNELS_ISA           scalar, avx2, avx512 or amx instead of the best one present
  GANKERNELS_CUDA_BACKEND  compiled or numba for --device cuda instead of the first that can run
"""


DESCRIPTION = """\
Train generative adversarial networks on calorimeter showers, generate showers, measure how good they are.
`gankernels COMMAND --help` explains each command."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of repeating the usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG_USE)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = Parser(
        prog="gankernels",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in COMMANDS:
        importlib.import_module(f"gankernels.cli.{name}").add(commands)
    return top


def _device(arguments: argparse.Namespace) -> str:
    """The device of a command: networks and their tensors are made there."""
    chosen: str | None = getattr(arguments, "device", None)
    if chosen is not None and (reason := why_not(chosen)) is not None:
        raise WrongUse(f"--device {chosen} cannot be used: {reason}")
    return chosen or default_device()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code (0 done, 1 failed, 2 wrong use, 75 stopped and saved)."""
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.version:
        import gankernels

        print(f"gankernels {gankernels.__version__}")
        return DONE
    if arguments.command is None:
        top.print_help()
        return DONE
    try:
        if cpu.problem is not None and arguments.command != "info":
            raise WrongUse(cpu.problem)
        if getattr(arguments, "threads", None) is not None:
            import gankernels

            gankernels.set_num_threads(arguments.threads)
        with sigterm_raises(), device(_device(arguments)):
            code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output went away. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except (Exception, KeyboardInterrupt) as error:
        if arguments.debug:
            raise
        text, code = describe(f"gankernels {arguments.command}", error)
        print(text, file=sys.stderr)
        return code
