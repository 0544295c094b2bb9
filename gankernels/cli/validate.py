"""`gankernels validate GENERATED --reference FILE`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gankernels.cli.errors import DONE, WrongUse, arguments_at_fault
from gankernels.cli.options import check_target, command, count, seed

__all__ = ["add", "print_table", "run"]

EXAMPLES = """\
  gankernels validate generated.h5 --reference mc.h5                  report.html beside generated.h5
  gankernels validate generated.h5 --reference mc.h5 --out report/ --no-classifier"""


def add(commands: Any) -> None:
    """Add the command."""
    added = command(
        commands,
        "validate",
        run,
        "compare generated showers with Monte Carlo ones and write a report",
        EXAMPLES,
        device=True,
    )
    added.add_argument("generated", type=Path, metavar="GENERATED", help="file of generated showers")
    added.add_argument("--reference", type=Path, required=True, metavar="FILE", help="file of Monte Carlo showers")
    added.add_argument("--out", type=Path, metavar="DIR", help="folder for report.html and report.json")
    added.add_argument("--overwrite", action="store_true", help="replace a report that exists")
    added.add_argument("--title", default="Generated showers against Monte Carlo", help="heading of the report")
    added.add_argument("--no-classifier", action="store_true", help="leave out the two-sample classifier (faster)")
    added.add_argument("--max-events", type=count, metavar="N", help="use at most N showers of each file")
    added.add_argument("--unit", help="unit of the cells where a file does not say: GeV, MeV or GeV/50")
    added.add_argument("--binning", type=Path, metavar="XML", help="binning of CaloChallenge files")
    added.add_argument("--seed", type=seed, default=0, metavar="N", help="of splits, resamplings and classifier (0)")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print its table."""
    from gankernels.calo import open_showers
    from gankernels.calo.held_out import read_held_out
    from gankernels.calo.validate import validate

    for path in (arguments.generated, arguments.reference):
        if not path.is_file():
            raise WrongUse(f"{path}: there is no such file")
    out: Path = arguments.out or arguments.generated.absolute().parent
    _check_out(out, arguments)
    how = {"unit": arguments.unit, "binning": arguments.binning}
    with open_showers(arguments.generated, **how) as file:
        generated = file.read(0, min(file.n_events, arguments.max_events or file.n_events))
    with open_showers(arguments.reference, **how) as file:
        reference, trained = read_held_out(file, arguments.generated, arguments.max_events)
    if trained:
        name = arguments.reference.name
        print(f"{name} took part in the training: only {len(reference)} of its held-out events are compared")
    with arguments_at_fault():
        result = validate(
            generated,
            reference,
            out_dir=out,
            title=arguments.title,
            seed=arguments.seed,
            classifier=not arguments.no_classifier,
            provenance={"generated": arguments.generated.name, "reference": arguments.reference.name},
        )
    print_table(result.table())
    for warning in result.warnings:
        print(f"note: {warning}")
    print(f"report: {result.html_path}")
    return DONE


def _check_out(out: Path, arguments: argparse.Namespace) -> None:
    """Refuse a folder whose report would be lost."""
    reports = [out / "report.html", out / "report.json"]
    if arguments.out is None and (out / "run.json").is_file() and any(path.exists() for path in reports):
        raise WrongUse(f"{out}: has the report of its training, which stays; say with --out where this one goes")
    for path in reports:
        check_target(path, arguments.overwrite, "choose another folder with --out")


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Two columns."""
    wide = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"  {name:<{wide}}  {value}")
