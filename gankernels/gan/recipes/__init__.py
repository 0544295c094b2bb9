"""The systems that can be trained by name, one file each."""

from __future__ import annotations

import importlib

from gankernels.gan.config import closest
from gankernels.gan.recipes.base import Recipe, Request, Session

__all__ = ["Recipe", "Request", "Session", "get", "names"]

_MODULES = {
    "quickstart": "quickstart",
    "3dgan": "threedgan",
    "3dgan-angle": "threedgan_angle",
    "toy-gaussian": "toy_gaussian",
}


def names() -> list[str]:
    """Every recipe."""
    return list(_MODULES)


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises
    ------
    ValueError
        If there is none; the message has the closest name.
    """
    if name not in _MODULES:
        raise ValueError(f"there is no recipe {name!r}; {closest(name, names())}")
    recipe: Recipe = importlib.import_module(f"gankernels.gan.recipes.{_MODULES[name]}").recipe
    return recipe
