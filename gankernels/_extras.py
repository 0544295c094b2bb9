"""Optional parts: imported where they are used; a missing one is an error with the one command that fixes it."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["MissingExtra", "require"]


class MissingExtra(ImportError):
    """A feature needs a package that is not installed."""


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import `module`, or say which extra of gankernels brings it.

    Parameters
    ----------
    module : str
        Import name, for example "h5py".
    extra : str
        The extra of gankernels that installs it.
    purpose : str
        What it is needed for, as in "reading showers".

    Raises
    ------
    MissingExtra
        If the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtra(
            f"{purpose} needs {module.split('.')[0]}, which is not installed; run: pip install 'gankernels[{extra}]'"
        ) from None
