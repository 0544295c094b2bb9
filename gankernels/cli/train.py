"""`gankernels train RECIPE`."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankernels._atomic import write_text
from gankernels.cli.errors import DONE, WrongUse, arguments_at_fault
from gankernels.cli.options import command, count, number, seed
from gankernels.cli.runs import Run, create, latest, open_run, write_json
from gankernels.cli.validate import print_table

if TYPE_CHECKING:
    from gankernels.gan.recipes import Recipe, Request, Session
    from gankernels.gan.trainer import Outcome, Trainer

EXAMPLES = """\
  gankernels train quickstart                               simulates its own showers
  gankernels train quickstart --minutes 2 --seed 7
  gankernels train 3dgan --data mc-1.h5 mc-2.h5 --epochs 20
  gankernels train 3dgan --data mc.h5 --config run.toml --set train.batch=32
  gankernels train 3dgan --data mc.h5 --dry-run             checks everything, shows sizes, writes nothing
  gankernels train 3dgan --resume latest                    goes on bit for bit where the latest 3dgan run stopped

settings: `gankernels recipes RECIPE` lists all of them; --config is read first, then --set, then the shortcuts.
Ctrl-C or SIGTERM finishes the step, saves a checkpoint and ends with exit code 75."""

# option -> key of the configuration, factor
SHORTCUTS = {
    "epochs": ("train.epochs", 1),
    "max_steps": ("train.max_steps", 1),
    "minutes": ("train.max_seconds", 60),
    "batch": ("train.batch", 1),
    "seed": ("train.seed", 1),
}


def add(commands: Any) -> None:
    """Add the command."""
    added = command(
        commands, "train", run, "train a recipe, generate showers and write a report", EXAMPLES, device=True
    )
    added.add_argument("recipe", metavar="RECIPE", help="see `gankernels recipes`")
    data = added.add_argument_group("data")
    data.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help="files of Monte Carlo showers")
    data.add_argument("--unit", help="unit of the cells where a file does not say: GeV, MeV or GeV/50")
    data.add_argument("--binning", type=Path, metavar="XML", help="binning of CaloChallenge files")
    settings = added.add_argument_group("settings")
    settings.add_argument("--config", type=Path, metavar="TOML", help="file of settings")
    settings.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one; repeatable")
    settings.add_argument("--epochs", type=number, metavar="N", help="stop after N passes over the data")
    settings.add_argument("--max-steps", type=count, metavar="N", help="stop after N steps")
    settings.add_argument("--minutes", type=number, metavar="M", help="stop after M minutes if not done before")
    settings.add_argument("--batch", type=count, metavar="N", help="events in a batch")
    settings.add_argument("--seed", type=seed, metavar="N", help="of everything random")
    place = added.add_argument_group("the run")
    place.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run directories go (runs)")
    place.add_argument("--run-dir", type=Path, metavar="DIR", help="this directory instead of a numbered one")
    place.add_argument(
        "--resume", metavar="latest|PATH", help="go on with a run: latest, its directory or a checkpoint"
    )
    place.add_argument("--dry-run", action="store_true", help="check everything, show sizes, write nothing")
    place.add_argument("--no-report", action="store_true", help="stop after training: no showers, no report")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, train, generate, validate."""
    from gankernels.cli.plan import summary
    from gankernels.gan import recipes

    with arguments_at_fault():
        recipe = recipes.get(arguments.recipe)
    if arguments.resume is not None:
        return _resume(recipe, arguments)
    request = _request(recipe, arguments)
    if arguments.dry_run:
        return _dry_run(recipe, request)
    directory = _new_directory(arguments)
    print(f"run directory: {directory}", flush=True)
    try:
        session, request = _open(recipe, request, directory)
        _write_down(recipe, request, session, directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)  # nothing has been trained yet
        raise
    with closing(session):
        print(summary(session), flush=True)
        return _train(request, session, directory, None, arguments)


# ---- before the first allocation -----------------------------------------------------------------------------------
def _request(recipe: Recipe, arguments: argparse.Namespace, saved: Run | None = None) -> Request:
    """The resolved request, for a new run or for one to go on with."""
    from gankernels.gan.config import configure
    from gankernels.gan.recipes import Request

    files = arguments.data or (saved.files if saved else [])
    for path in (*files, *([arguments.binning] if arguments.binning else [])):
        if not path.is_file():
            raise WrongUse(f"{path}: there is no such file")
    changes = list(arguments.set)
    for option, (key, factor) in SHORTCUTS.items():
        value = getattr(arguments, option)
        if value is not None:
            changes.append(f"{key}={value * factor}")
    with arguments_at_fault():
        start = configure(recipe.config, saved.config_file) if saved else recipe.config
        config = configure(start, arguments.config, changes)
    unit = arguments.unit or (saved.unit if saved else None)
    binning = arguments.binning or (Path(saved.binning) if saved and saved.binning else None)
    return Request(
        config,
        tuple(p.absolute() for p in files),
        unit,
        binning and binning.absolute(),
        report=not arguments.no_report,
    )


def _open(recipe: Recipe, request: Request, directory: Path | None) -> tuple[Session, Request]:
    from dataclasses import replace

    request = replace(request, directory=directory)
    with arguments_at_fault():
        return recipe.open(request), request


def _dry_run(recipe: Recipe, request: Request) -> int:
    from gankernels.cli.plan import plan

    session, _ = _open(recipe, request, None)
    with closing(session):
        print(plan(recipe, request, session))
    return DONE


# ---- the run directory ---------------------------------------------------------------------------------------------
def _new_directory(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.run_dir
    if path is None:
        return create(arguments.runs, arguments.recipe)
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise WrongUse(
            f"{path} exists and run directories are never overwritten; to go on with it: --resume {path}"
        ) from None
    return path


def _write_down(recipe: Recipe, request: Request, session: Session, directory: Path) -> None:
    """What is needed to repeat the run, to go on with it, and to generate from it."""
    from gankernels import info
    from gankernels.gan.config import to_toml

    (directory / "config.toml").write_text(to_toml(request.config), encoding="utf-8")
    write_json(directory / "versions.json", info.collect())
    write_json(directory / "data.json", session.describe())
    write_json(
        directory / "run.json",
        {
            "recipe": recipe.name,
            "files": [str(f) for f in request.files],
            "unit": request.unit,
            "binning": str(request.binning) if request.binning else None,
            "device": session.gan.device,
            "command": ["gankernels", *sys.argv[1:]],
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def _resume(recipe: Recipe, arguments: argparse.Namespace) -> int:
    """Go on with a run from its latest checkpoint, or from the one that is named."""
    directory, point = _place(arguments)
    saved = open_run(directory)
    if saved.recipe != recipe.name:
        raise WrongUse(f"{directory} is a run of {saved.recipe}, not of {recipe.name}")
    request = _request(recipe, arguments, saved)
    session, request = _open(recipe, request, directory)
    with closing(session):
        _check_same_data(saved, session)
        if session.gan.device != saved.device:
            print(
                f"on {session.gan.device} from here, begun on {saved.device}: weights, optimizers and random streams "
                "go on where they were; sums are rounded in another order, so that losses part in their last digits"
            )
        if arguments.dry_run:
            from gankernels.cli.plan import plan
            from gankernels.gan.trainer import Trainer

            Trainer(session.gan, session.batches, request.config.train).resume(point or saved.checkpoints)
            print(plan(recipe, request, session))
            return DONE
        return _train(request, session, directory, point or saved.checkpoints, arguments)


def _place(arguments: argparse.Namespace) -> tuple[Path, Path | None]:
    """The run directory, and the checkpoint if one is named."""
    if arguments.resume == "latest":
        return arguments.run_dir or latest(arguments.runs, arguments.recipe), None
    path = Path(arguments.resume)
    if path.parent.name == "checkpoints":
        return path.absolute().parent.parent, path
    return path, None


def _check_same_data(saved: Run, session: Session) -> None:
    before, now = (
        [(f.get("sha256"), f.get("events")) for f in described.get("files", [])]
        for described in (saved.described(), session.describe())
    )
    if before != now:
        raise WrongUse(
            f"{saved.path}: the data have changed since the run began (data.json has their checksums); a run can only "
            "go on with the same files in the same order"
        )


# ---- training ------------------------------------------------------------------------------------------------------
def _train(
    request: Request, session: Session, directory: Path, resume: Path | None, arguments: argparse.Namespace
) -> int:
    from gankernels.gan.config import to_toml
    from gankernels.gan.signals import EXIT_CODE
    from gankernels.gan.trainer import Trainer, load_generator

    def evaluate(trainer: Trainer) -> dict[str, float]:
        with trainer.ema.applied(session.gan.generator):
            metrics = session.evaluate(session.gan)
        best = ", the best so far" if metrics["score"] < trainer.best.get("score", math.inf) else ""
        trainer.say(f"step {trainer.step} ({trainer.seconds:.0f} s): score {metrics['score']:.4f}{best}")
        return metrics

    def picture(trainer: Trainer) -> None:
        (directory / "samples").mkdir(exist_ok=True)
        with trainer.ema.applied(session.gan.generator):
            session.picture(session.gan, directory / "samples" / f"step-{trainer.step:06d}.png")

    trainer = Trainer(
        session.gan, session.batches, request.config.train, directory, on_validate=evaluate, on_samples=picture
    )
    if resume is not None:
        print(f"going on from {trainer.resume(resume)}")
        write_text(directory / "config.toml", to_toml(request.config))  # only now: a refused run stays as it was
    outcome = trainer.run()
    _tell(outcome, trainer)
    if outcome.status == "signal":
        print(f"go on with: gankernels train {arguments.recipe} --resume {directory}", file=sys.stderr)
        return EXIT_CODE
    if arguments.no_report:
        return DONE
    load_generator(session.gan, outcome.best or directory / "checkpoints")
    found = session.finish(session.gan, directory)
    print_table(found["table"])
    for what, path in found["files"].items():
        print(f"{what}: {path}")
    return DONE


def _tell(outcome: Outcome, trainer: Trainer) -> None:
    ended = {"finished": "done", "time": "out of time", "signal": f"stopped by {outcome.signal}"}[outcome.status]
    best = f"; best score {trainer.best['score']:.4g} at step {trainer.best['step']}" if trainer.best else ""
    print(f"{ended} after {outcome.step} steps and {trainer.seconds:.0f} s of training{best}")
