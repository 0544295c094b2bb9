"""`gankernels recipes [NAME]`."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from gankernels.cli.errors import DONE, arguments_at_fault
from gankernels.cli.options import command

EXAMPLES = """\
  gankernels recipes                  every system that can be trained by name
  gankernels recipes quickstart       its source and every setting, for --set and --config
  gankernels recipes 3dgan --toml > run.toml"""


def add(commands: Any) -> None:
    """Add the command."""
    added = command(commands, "recipes", run, "the systems that can be trained, and their settings", EXAMPLES, False)
    added.add_argument("name", nargs="?", help="show one recipe with all of its settings")
    added.add_argument("--toml", action="store_true", help="print the settings as a file for train --config")


def run(arguments: argparse.Namespace) -> int:
    """List the recipes, or explain one."""
    from gankernels.gan import config, recipes

    if arguments.name is None:
        for name in recipes.names():
            print(f"{name:<14} {recipes.get(name).summary}")
        print("\ngankernels recipes NAME shows the source and every setting of one.")
        return DONE
    with arguments_at_fault():
        recipe = recipes.get(arguments.name)
    if arguments.toml:
        print(config.to_toml(recipe.config), end="")
        return DONE
    print(f"{recipe.name}: {recipe.summary}\n")
    print(textwrap.fill(recipe.source, 100) + "\n")
    rows = [(row.key, f"{row.default}", row.help) for row in config.explain(recipe.config)]
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    for key, default, text in rows:
        print(f"  {key:<{wide[0]}}  {default:<{wide[1]}}  {text}".rstrip())
    print("\nChange any of them with --set KEY=VALUE or in a file given by --config.")
    return DONE
