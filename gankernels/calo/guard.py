"""HDF5 files from strangers: everything that a header can claim is checked before one number is read.

Accepted are plain numeric datasets behind hard links, stored in the file itself with HDF5's own filters. Links to other
places, external storage, virtual datasets and headers that claim far more than the file holds are refused by name.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels._extras import require

__all__ = [
    "ShowerFileError",
    "attribute_numbers",
    "attribute_text",
    "check_regular_file",
    "checked_dataset",
    "damage_reported",
    "link_exists",
    "open_hdf5",
    "top_level_names",
]

MAX_EVENTS = 2**31
MAX_CELLS = 2**24
MAX_CHUNK_BYTES = 2**30
BOMB_BYTES = 2**32
BOMB_RATIO = 2000
MAX_ATTRIBUTE_BYTES = 2**16
CHUNK_CACHE_BYTES = 2**26

# Filters that come with HDF5 and h5py. Any other would make HDF5 load a shared library named by the file.
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scale-offset", 32000: "lzf"}
_KNOWN_STARTS = {
    b"root": "a ROOT file",
    b"PK\x03\x04": "a zip or npz archive",
    b"\x93NUM": "a numpy .npy file",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"CDF": "a netCDF-3 file",
}


class ShowerFileError(ValueError):
    """A shower file that cannot be used; the message names file, dataset, what came and what was expected."""


def check_regular_file(path: str | os.PathLike[str]) -> Path:
    """The path of an existing, readable, regular file.

    Raises
    ------
    ShowerFileError
        If it does not exist, is a directory, a pipe or a device, or may not be read.
    """
    name = Path(path)
    try:
        mode = name.stat().st_mode
    except FileNotFoundError:
        raise ShowerFileError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise ShowerFileError(f"{str(name)!r}: cannot be looked at: {error}") from None
    if stat.S_ISDIR(mode):
        raise ShowerFileError(f"{name}: is a directory, expected a file")
    if not stat.S_ISREG(mode):
        raise ShowerFileError(f"{name}: is a pipe or a device, expected a regular file")
    if not os.access(name, os.R_OK):
        raise ShowerFileError(f"{name}: no permission to read it")
    return name


def open_hdf5(path: str | os.PathLike[str]) -> Any:
    """Open an HDF5 file read only and without locks; returns an h5py.File.

    Raises
    ------
    ShowerFileError
        If the path is no regular file, or the file is empty, truncated or not HDF5.
    MissingExtra
        If h5py is not installed.
    """
    h5py = require("h5py", extra="calo", purpose="reading showers")
    name = check_regular_file(path)
    size = name.stat().st_size
    if size == 0:
        raise ShowerFileError(f"{name}: is empty (0 bytes), expected an HDF5 file")
    if not h5py.is_hdf5(os.fspath(name)):
        with name.open("rb") as raw:
            start = raw.read(4)
        found = next((what for magic, what in _KNOWN_STARTS.items() if start.startswith(magic)), f"starting {start!r}")
        raise ShowerFileError(f"{name}: is not an HDF5 file but {found}")
    with damage_reported(f"{name}: HDF5 cannot open it"):
        return h5py.File(name, "r", locking=False, rdcc_nbytes=CHUNK_CACHE_BYTES)


@contextmanager
def damage_reported(what: str) -> Iterator[None]:
    """Turn whatever h5py raises on damaged bytes (nearly any type, found by flipping them) into one ShowerFileError."""
    try:
        yield
    except ShowerFileError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ShowerFileError(f"{what}; truncated or damaged? ({line})") from error


def link_exists(file: Any, name: str) -> bool:
    """Whether the root group has a link of that name, whatever it leads to; no link is followed."""
    return bool(file.id.links.exists(name.encode()))


def top_level_names(file: Any, at_most: int = 12) -> list[str]:
    """The first few names in the root group, for messages."""
    names: list[str] = []
    for name in file:
        if len(names) == at_most:
            return [*names, "..."]
        names.append(name)
    return names


def checked_dataset(file: Any, name: str, ranks: tuple[int, ...], layout: str) -> Any:
    """The dataset `name` of the root group, after every check that its header allows; nothing of it is read.

    Parameters
    ----------
    file : h5py.File
    name : str
    ranks : tuple of int
        Numbers of dimensions that are accepted.
    layout : str
        How the expected shape is written in a message: "(events, x, y, z)".

    Returns
    -------
    h5py.Dataset of integers or floating point numbers of at most 8 bytes, any byte order.

    Raises
    ------
    ShowerFileError
        If it is missing, is behind a soft or external link, is a group, is virtual or stored in another file, needs a
        plugin, has another type, rank or size than the schema allows, or claims far more than the file holds.
    """
    h5py = require("h5py", extra="calo", purpose="reading showers")
    where = f"{file.filename}: dataset {name!r}"
    if not link_exists(file, name):
        raise ShowerFileError(f"{where} is missing; the file has {top_level_names(file)}")
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise ShowerFileError(f"{where} is a soft or external link, expected the data itself (a hard link)")
    with damage_reported(f"{where} cannot be opened"):
        found = h5py.h5o.open(file.id, name.encode())
        if not isinstance(found, h5py.h5d.DatasetID):
            raise ShowerFileError(f"{where} is a group or a type, expected a dataset of shape {layout}")
        _check_storage(h5py, found, where)
        _check_type(h5py, found, where)
        dataset = h5py.Dataset(found)
        _check_size(dataset, where, ranks, layout, os.path.getsize(file.filename))
    return dataset


def _check_storage(h5py: Any, found: Any, where: str) -> None:
    properties = found.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ShowerFileError(f"{where} is a virtual dataset (its data lie in other files), expected stored data")
    if properties.get_external_count() > 0:
        raise ShowerFileError(f"{where} keeps its data in an external file, expected them in this one")
    for i in range(properties.get_nfilters()):
        code = properties.get_filter(i)[0]
        if code not in _FILTERS:
            raise ShowerFileError(
                f"{where} is packed with HDF5 plugin filter {code}, expected one of {', '.join(_FILTERS.values())}; "
                "repack it where the plugin is installed: h5repack -f GZIP=4 IN OUT"
            )
        if not h5py.h5z.filter_avail(code):
            raise ShowerFileError(f"{where} is packed with {_FILTERS[code]}, which this HDF5 library was built without")


def _check_type(h5py: Any, found: Any, where: str) -> None:
    kind = found.get_type().get_class()
    if kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        names = {
            getattr(h5py.h5t, n): n.lower()
            for n in ("COMPOUND", "VLEN", "STRING", "ARRAY", "ENUM", "OPAQUE", "REFERENCE", "BITFIELD", "TIME")
            if hasattr(h5py.h5t, n)
        }
        raise ShowerFileError(f"{where} has type class {names.get(kind, kind)}, expected floats or integers")


def _check_size(dataset: Any, where: str, ranks: tuple[int, ...], layout: str, file_bytes: int) -> None:
    shape, dtype = dataset.shape, dataset.dtype
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise ShowerFileError(f"{where} has dtype {dtype}, expected floats or integers of at most 8 bytes")
    if shape is None or len(shape) not in ranks:
        raise ShowerFileError(f"{where} has shape {shape}, expected {layout}")
    if shape[0] > MAX_EVENTS or math.prod(shape[1:]) > MAX_CELLS:
        raise ShowerFileError(f"{where} has shape {shape}, expected at most 2^31 events of at most 2^24 numbers each")
    if 0 in shape[1:]:
        raise ShowerFileError(f"{where} has shape {shape}, expected at least one number for each event")
    declared, stored = math.prod(shape) * dtype.itemsize, dataset.id.get_storage_size()
    if dataset.chunks is not None and math.prod(dataset.chunks) * dtype.itemsize > MAX_CHUNK_BYTES:
        raise ShowerFileError(f"{where} has chunks of shape {dataset.chunks}, which are larger than 1 GiB each")
    if stored > file_bytes:
        raise ShowerFileError(f"{where} claims {stored} stored bytes in a file of {file_bytes}; truncated?")
    if declared > 0 and stored == 0:
        raise ShowerFileError(f"{where} declares shape {shape} but nothing of it is stored")
    if declared > BOMB_BYTES and declared > BOMB_RATIO * stored:
        raise ShowerFileError(f"{where} declares {declared} bytes (shape {shape}) but only {stored} are stored")


def attribute_text(owner: Any, name: str, where: str) -> str | None:
    """A text attribute of a file or dataset, None if it has none of that name.

    Raises
    ------
    ShowerFileError
        If it is longer than 64 KiB or no text.
    """
    value = _attribute(owner, name, where)
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise ShowerFileError(f"{where}: attribute {name!r} is {type(value).__name__}, expected text")
    return value


def attribute_numbers(owner: Any, name: str, where: str) -> NDArray[np.float64] | None:
    """A one-dimensional numeric attribute, None if there is none of that name.

    Raises
    ------
    ShowerFileError
        If it is longer than 64 KiB, not one-dimensional or not finite.
    """
    value = _attribute(owner, name, where)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu":
        raise ShowerFileError(f"{where}: attribute {name!r} is not a list of numbers")
    numbers = value.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ShowerFileError(f"{where}: attribute {name!r} holds NaN or infinity")
    return numbers


def _attribute(owner: Any, name: str, where: str) -> Any:
    h5py = require("h5py", extra="calo", purpose="reading showers")
    if not h5py.h5a.exists(owner.id, name.encode()):
        return None
    if h5py.h5a.open(owner.id, name.encode()).get_storage_size() > MAX_ATTRIBUTE_BYTES:
        raise ShowerFileError(f"{where}: attribute {name!r} is longer than 64 KiB")
    value = owner.attrs[name]
    if isinstance(value, str | bytes) and len(value) > MAX_ATTRIBUTE_BYTES:
        raise ShowerFileError(f"{where}: attribute {name!r} is longer than 64 KiB")
    return value
