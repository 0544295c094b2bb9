"""`gankernels generate RUN --out FILE`."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankernels.cli.errors import DONE, WrongUse, arguments_at_fault
from gankernels.cli.options import check_target, command, count, seed, span

if TYPE_CHECKING:
    from gankernels.gan.showers import ShowerGAN

EXAMPLES = """\
  gankernels generate runs/00000-quickstart --out new.h5 --events 100000
  gankernels generate runs/00000-quickstart --out at50.h5 --energy-gev 50
  gankernels generate runs/00001-3dgan --out like.h5 --like mc.h5       the energies and angles of a file"""


def add(commands: Any) -> None:
    """Add the command."""
    added = command(commands, "generate", run, "generate showers with a trained generator", EXAMPLES, device=True)
    added.add_argument("run_dir", type=Path, metavar="RUN", help="run directory that `gankernels train` made")
    added.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to be made, HDF5")
    added.add_argument("--events", type=count, metavar="N", help="number of showers (10000, or those of --like)")
    what = added.add_mutually_exclusive_group()
    what.add_argument(
        "--energy-gev", type=span, metavar="LOW:HIGH", help="uniform incident energies, GeV (those of the training)"
    )
    what.add_argument("--like", type=Path, metavar="FILE", help="take energies and further conditions from this file")
    added.add_argument("--theta-deg", type=span, metavar="LOW:HIGH", help="angle, for a generator that is told it")
    added.add_argument("--unit", help="unit of the cells of --like where it does not say")
    added.add_argument("--binning", type=Path, metavar="XML", help="binning of a CaloChallenge file given by --like")
    added.add_argument(
        "--checkpoint", default="best", metavar="best|latest|N", help="which checkpoint; N is its step (best)"
    )
    added.add_argument("--batch", type=count, metavar="N", help="showers at a time (the recipe's own)")
    added.add_argument("--seed", type=seed, default=1, metavar="N", help="of noise and conditions (1)")
    added.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Generate in batches into a file."""
    from gankernels import Generator
    from gankernels._extras import require
    from gankernels.calo import ShowerWriter
    from gankernels.calo.held_out import training_attribute
    from gankernels.cli.revive import revive

    out: Path = arguments.out
    check_target(out, arguments.overwrite)
    if not out.absolute().parent.is_dir():
        raise WrongUse(f"{out}: there is no folder {out.parent}")
    gan, trained, config, step = revive(arguments.run_dir, arguments.checkpoint)
    gan.frozen = True
    described = trained.described()
    arguments.batch = arguments.batch or gan.chunk
    conditions = _conditions(arguments, gan, described)
    attributes: dict[str, str | int | float] = {
        "generator": "gankernels",
        "recipe": trained.recipe,
        "step": step,
        "seed": arguments.seed,
        **training_attribute(described["files"], config.data.validation_fraction, config.data.max_events),
    }
    rng = Generator(arguments.seed)
    kind = "calochallenge" if gan.grid.axes == ("z", "alpha", "r") else "3dgan-angle"
    tqdm = require("tqdm", extra="calo", purpose="the progress bar")
    events, seconds = 0, 0.0
    with (
        ShowerWriter(out, gan.grid, kind=kind, attributes=attributes, overwrite=arguments.overwrite) as file,
        tqdm.tqdm(total=_events(arguments), unit="shower", disable=None) as bar,
    ):
        for energy_gev, labels in conditions:
            began = time.perf_counter()
            file.append(gan.generate_showers(energy_gev, labels, rng, arguments.batch))
            seconds += time.perf_counter() - began
            events += len(energy_gev)
            bar.update(len(energy_gev))
    print(f"{out}: {events} showers from step {step} of {trained.path.name}, {events / seconds:.0f} showers/s")
    return DONE


def _events(arguments: argparse.Namespace) -> int:
    if arguments.events is not None or arguments.like is None:
        return arguments.events or 10000
    from gankernels.calo import open_showers

    with open_showers(arguments.like, unit=arguments.unit, binning=arguments.binning) as file:
        return file.n_events


def _conditions(
    arguments: argparse.Namespace, gan: ShowerGAN, described: dict[str, Any]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Energies (n,) in GeV and labels for piece after piece; everything is checked before the first."""
    # Whole pieces of 64 events, in which the noise is drawn: what event i gets does not depend on the batch.
    events, piece = _events(arguments), 64 * -(-arguments.batch // 4)
    needed = set(gan.condition_names)
    if arguments.like is not None:
        return _conditions_of_file(arguments, needed, events, piece)
    if arguments.theta_deg is None:
        missing = needed
    else:
        missing = needed - {"theta_rad"}
        if "theta_rad" not in needed:
            raise WrongUse("--theta-deg: this generator is not told the angle")
    if missing:
        more = "give --theta-deg LOW:HIGH, or" if missing == {"theta_rad"} else "give"
        raise WrongUse(f"this generator is told {', '.join(sorted(needed))} beside the energy; {more} --like FILE")
    trained_gev = described["energy_gev"]
    wanted_gev = tuple(arguments.energy_gev or trained_gev)
    if wanted_gev[0] < 0.99 * trained_gev[0] or wanted_gev[1] > 1.01 * trained_gev[1]:
        print(
            f"warning: {wanted_gev[0]:g} to {wanted_gev[1]:g} GeV reaches beyond the {trained_gev[0]:.3g} to "
            f"{trained_gev[1]:.3g} GeV of the training; nothing is known about showers outside",
            file=sys.stderr,
        )
    return _drawn(arguments, wanted_gev, events, piece)


def _drawn(
    arguments: argparse.Namespace, energy_gev: tuple[float, ...], events: int, piece: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    import numpy as np

    # One stream of random numbers for each condition: what event i gets does not depend on the pieces.
    energies, angles = (np.random.default_rng([arguments.seed, i]) for i in range(2))
    for first in range(0, events, piece):
        n = min(piece, events - first)
        labels = {}
        if arguments.theta_deg is not None:
            low, high = (math.radians(v) for v in arguments.theta_deg)
            labels["theta_rad"] = angles.uniform(low, high, n).astype(np.float32)
        yield energies.uniform(energy_gev[0], energy_gev[1], n).astype(np.float32), labels


def _conditions_of_file(
    arguments: argparse.Namespace, needed: set[str], events: int, piece: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    from gankernels.calo import open_showers

    with arguments_at_fault():
        opened = open_showers(arguments.like, unit=arguments.unit, binning=arguments.binning)
    if missing := needed - set(opened.condition_names):
        opened.close()
        raise WrongUse(f"{arguments.like}: has no {', '.join(sorted(missing))}, which this generator is told")

    def pieces() -> Iterator[tuple[Any, dict[str, Any]]]:
        done = 0
        with opened as file:
            while done < events:  # from the start again where more are asked for than the file has
                first = done % file.n_events
                showers = file.read(first, min(first + piece, file.n_events, first + events - done))
                yield showers.energy_gev, showers.conditions
                done += len(showers)

    return pieces()
