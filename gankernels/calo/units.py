"""Energy units as text, so that no number enters the package without its unit."""

from __future__ import annotations

import math
import re

__all__ = ["energy_factor", "energy_unit_in_text"]

_IN_GEV = {"eV": 1e-9, "keV": 1e-6, "MeV": 1e-3, "GeV": 1.0, "TeV": 1e3}
_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"
_UNIT = re.compile(rf"\s*(?:({_NUMBER})\s*\*?\s*)?(eV|keV|MeV|GeV|TeV)(?:\s*/\s*({_NUMBER}))?\s*")


def energy_factor(unit: str) -> float:
    """GeV per stored number: 1e-3 for "MeV", 0.02 for "GeV/50" (a file that holds 50 times the energy in GeV).

    Parameters
    ----------
    unit : str
        eV, keV, MeV, GeV or TeV, optionally multiplied by a number in front or divided by one behind.

    Raises
    ------
    ValueError
        If the text is not such a unit.

    Examples
    --------
    >>> energy_factor("GeV/50")
    0.02
    """
    match = _UNIT.fullmatch(unit) if len(unit) <= 64 else None
    if match is None:
        raise ValueError(
            f"unit {unit[:64]!r} is not an energy unit: expected eV, keV, MeV, GeV, TeV or one like 'GeV/50'"
        )
    front, name, behind = match.groups()
    divisor = float(behind) if behind else 1.0
    factor = float(front) if front else 1.0
    if not (0.0 < divisor < math.inf and 0.0 < factor < math.inf):
        raise ValueError(f"unit {unit!r}: the number in an energy unit must be finite and above zero")
    return factor * _IN_GEV[name] / divisor


def energy_unit_in_text(text: str) -> str | None:
    """The one energy unit among the words of a remark such as "GeV, rad"; None if there is none or more than one."""
    found = {word for word in re.split(r"[\s,;]+", text) if _UNIT.fullmatch(word)}
    return found.pop() if len(found) == 1 else None
