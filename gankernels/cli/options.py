"""What the commands' arguments have in common: their types, and options that more than one command has."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from gankernels.backends import DEVICES
from gankernels.cli.errors import WrongUse

__all__ = ["check_target", "command", "count", "extents", "number", "seed", "span"]


def command(
    commands: Any, name: str, run: Any, summary: str, examples: str, threads: bool = True, device: bool = False
) -> Any:
    """Add a command with the options that all have; returns its parser."""
    added = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    added.set_defaults(run=run)
    added.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if threads:
        added.add_argument(
            "--threads", type=count, metavar="N", help="threads of the kernels; results do not depend on it"
        )
    if device:
        added.add_argument("--device", choices=DEVICES, help="where the networks run (cpu)")
    return added


def check_target(path: Path, overwrite: bool, instead: str = "choose another name") -> None:
    """Refuse to write a file where one is that may not be replaced, or something that is no file."""
    if path.exists() and not path.is_file():
        raise WrongUse(f"{path}: is no ordinary file and is never replaced; {instead}")
    if path.exists() and not overwrite:
        raise WrongUse(f"{path} exists; {instead} or add --overwrite")


def count(text: str) -> int:
    """An integer of at least 1."""
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def seed(text: str) -> int:
    """An integer of at least 0 that fits 63 bits."""
    value = _integer(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^63 - 1, got {text!r}")
    return value


def number(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def span(text: str) -> tuple[float, float]:
    """ "10:100" or one value: two finite numbers above 0, the first not above the second."""
    low, colon, high = text.partition(":")
    first, last = number(low), number(high if colon else low)
    if first > last:
        raise argparse.ArgumentTypeError(f"expected low:high with low <= high, got {text!r}")
    return first, last


def extents(text: str) -> tuple[int, int, int]:
    """ "25,25,25"."""
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"expected three numbers of cells as in 25,25,25, got {text!r}")
    a, b, c = (count(part) for part in parts)
    return a, b, c


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
