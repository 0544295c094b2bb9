"""Which Monte Carlo events a generator has not seen: a generated file says what its generator was trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from gankernels.calo.files import ShowerFile
from gankernels.calo.guard import ShowerFileError, attribute_text, open_hdf5
from gankernels.calo.showers import Showers
from gankernels.calo.stream import validation_mask

__all__ = ["read_held_out", "training_attribute"]

_ATTRIBUTE = "gankernels_training"


def training_attribute(
    files: Sequence[dict[str, Any]], validation_fraction: float, max_events: int | None = None
) -> dict[str, str]:
    """The file attribute for generated showers.

    Parameters
    ----------
    files : sequence of dict
        "sha256" and "events" of each training file, in their order.
    validation_fraction, max_events
        As given to `ShowerStream`.
    """
    kept = [{"sha256": f["sha256"], "events": f["events"]} for f in files]
    record = {"files": kept, "validation_fraction": validation_fraction, "max_events": max_events}
    return {_ATTRIBUTE: json.dumps(record)}


def read_held_out(
    reference: ShowerFile, generated: str | os.PathLike[str], max_events: int | None = None
) -> tuple[Showers, bool]:
    """The first `max_events` showers of `reference` that the generator of the file `generated` was not trained on.

    Returns
    -------
    showers : Showers
    trained : bool
        Whether the reference took part in the training, so that events were left out.

    Raises
    ------
    ShowerFileError
        If the generator was trained on every event, or the attribute of `generated` is damaged.
    """
    n = reference.n_events
    training = _training(generated)
    place = None if training is None else _place(training, reference.checksum())
    if training is None or place is None:
        return reference.read(0, n if max_events is None else min(n, max_events)), False
    numbers = np.arange(place, place + n)
    unseen = validation_mask(numbers, float(training["validation_fraction"]))
    if training["max_events"] is not None:
        unseen |= numbers >= int(training["max_events"])
    rows = np.flatnonzero(unseen)[:max_events]
    if len(rows) == 0:
        raise ShowerFileError(f"{reference.path}: the generator of {generated} was trained on every event of it")
    return reference.read_rows(rows), True


def _training(generated: str | os.PathLike[str]) -> dict[str, Any] | None:
    with open_hdf5(generated) as file:
        text = attribute_text(file, _ATTRIBUTE, str(generated))
    if text is None:
        return None
    try:
        record = json.loads(text)
        _place(record, "")
        if 0 <= float(record["validation_fraction"]) < 1 and int(record["max_events"] or 1) >= 1:
            return dict(record)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ShowerFileError(f"{generated}: its attribute {_ATTRIBUTE!r} is damaged")


def _place(training: dict[str, Any], checksum: str) -> int | None:
    """Number of the first event of the file with this checksum among all training events."""
    first = 0
    for file in training["files"]:
        if file["sha256"] == checksum:
            return first
        first += int(file["events"])
    return None
