"""`gankernels simulate OUT`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gankernels.cli.errors import DONE, WrongUse, arguments_at_fault
from gankernels.cli.options import check_target, command, count, extents, number, seed, span

EXAMPLES = """\
  gankernels simulate showers.h5 --events 10000 --energy-gev 10:100 --grid 25,25,25 --seed 1
  gankernels simulate tilted.h5 --theta-deg 60:120        with the angle as a second condition
  gankernels simulate cyl.h5 --grid 45,16,9 --axes cylindrical --material lead-tungstate --spectrum log-uniform"""


def add(commands: Any) -> None:
    """Add the command."""
    added = command(
        commands,
        "simulate",
        run,
        "simulate electron showers into an HDF5 file",
        EXAMPLES,
    )
    added.add_argument("out", type=Path, metavar="OUT", help="file to be made, HDF5")
    added.add_argument("--events", type=count, default=10000, metavar="N", help="number of showers (10000)")
    added.add_argument(
        "--energy-gev", type=span, default=(10.0, 100.0), metavar="LOW:HIGH", help="incident energies, GeV (10:100)"
    )
    added.add_argument(
        "--spectrum", choices=("uniform", "log-uniform"), default="uniform", help="of the energies (uniform)"
    )
    added.add_argument(
        "--grid", type=extents, default=(25, 25, 25), metavar="A,B,C",
        help="cells along x,y,z, or z,alpha,r with --axes cylindrical (25,25,25)",
    )  # fmt: skip
    added.add_argument("--axes", choices=("cartesian", "cylindrical"), default="cartesian", help="(cartesian)")
    added.add_argument(
        "--theta-deg", type=span, metavar="LOW:HIGH", help="angle to the y axis in degrees; 90 is along z"
    )
    added.add_argument("--material", default="tungsten-silicon", help="tungsten-silicon (default) or lead-tungstate")
    added.add_argument("--cell-x0", type=number, metavar="X0", help="depth of a layer in radiation lengths")
    added.add_argument("--cell-rm", type=number, metavar="RM", help="width of a cell in Moliere radii")
    added.add_argument("--seed", type=seed, default=1, metavar="N", help="event i depends on seed and i alone (1)")
    added.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Simulate into a file."""
    from gankernels._extras import require
    from gankernels.calo import simulate_to_file

    out: Path = arguments.out
    check_target(out, arguments.overwrite)
    if not out.absolute().parent.is_dir():
        raise WrongUse(f"{out}: there is no folder {out.parent}")
    tqdm = require("tqdm", extra="calo", purpose="the progress bar")
    with tqdm.tqdm(total=arguments.events, unit="shower", disable=None) as bar, arguments_at_fault():
        simulate_to_file(
            out,
            arguments.events,
            arguments.energy_gev,
            arguments.grid,
            seed=arguments.seed,
            overwrite=arguments.overwrite,
            progress=lambda done, _: bar.update(done - bar.n),
            material=arguments.material,
            axes=arguments.axes,
            cell_x0=arguments.cell_x0,
            cell_rm=arguments.cell_rm,
            theta_deg=arguments.theta_deg,
            spectrum=arguments.spectrum,
        )
    low, high = arguments.energy_gev
    print(f"{out}: {arguments.events} showers of {low:g} to {high:g} GeV on {'x'.join(map(str, arguments.grid))} cells")
    return DONE
