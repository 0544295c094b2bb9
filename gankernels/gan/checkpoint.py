"""Checkpoints that are there whole or not at all: safetensors for arrays, JSON for the rest, no code in either.

A checkpoint is written to a temporary directory beside its place, every file is synced, COMPLETE.json with the SHA-256
of each file is written last, and only then is the directory renamed to `checkpoint-000123`. Whenever the process or
the machine dies, the previous checkpoint or the new one is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels._extras import require
from gankernels.autograd import Tensor
from gankernels.ops import from_array

__all__ = ["FORMAT", "Checkpoint", "CheckpointError", "best", "find", "load", "mark_best", "pack", "save", "unpack"]

FORMAT = 1
Arrays = dict[str, NDArray[Any]]

_NAME = re.compile(r"checkpoint-(\d{6,})(?:\.(\d+))?")
_FILE = re.compile(r"[a-z_]+\.(json|safetensors)")
_COMPLETE, _BEST = "COMPLETE.json", "best.json"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message says which file and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Parameters
    ----------
    path : Path
    step : int
    state : dict
        What JSON holds.
    arrays : dict of dict of array
        By group ("generator", "ema", ...) and name.
    """

    path: Path
    step: int
    state: dict[str, Any]
    arrays: dict[str, Arrays]


def _safetensors() -> Any:
    return require("safetensors.numpy", extra="calo", purpose="a checkpoint")


# ---- state with tensors inside <-> JSON and arrays -----------------------------------------------------------------
def _dense(array: Any) -> NDArray[Any]:
    """A row-major copy on the host of an array, or of a tensor wherever it is."""
    return np.array(array.detach().cpu().numpy() if isinstance(array, Tensor) else array, order="C")


def pack(tree: Any, prefix: str, arrays: Arrays) -> Any:
    """The tree as JSON can hold it; its tensors go to `arrays` under names that begin with prefix."""
    if isinstance(tree, (Tensor, np.ndarray)):
        arrays[prefix] = _dense(tree)
        return {"__array__": prefix}
    if isinstance(tree, Mapping):
        ints = bool(tree) and all(isinstance(key, int) for key in tree)
        packed = {str(key): pack(value, f"{prefix}.{key}", arrays) for key, value in tree.items()}
        return {"__int_keys__": packed} if ints else packed
    if isinstance(tree, (list, tuple)):
        return [pack(value, f"{prefix}.{i}", arrays) for i, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def unpack(tree: Any, arrays: Arrays) -> Any:
    """What was packed; arrays come back as tensors, tuples as lists."""
    if isinstance(tree, list):
        return [unpack(value, arrays) for value in tree]
    if isinstance(tree, dict):
        if tree.keys() == {"__array__"}:
            if tree["__array__"] not in arrays:
                raise CheckpointError(f"checkpoint: tensor {tree['__array__']!r} is missing")
            return from_array(arrays[tree["__array__"]])
        if tree.keys() == {"__int_keys__"}:
            return {int(key): unpack(value, arrays) for key, value in tree["__int_keys__"].items()}
        return {key: unpack(value, arrays) for key, value in tree.items()}
    return tree


# ---- writing -------------------------------------------------------------------------------------------------------
def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _seal(step: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "step": step,
        "files": {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()},
    }


def _digest(seal: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(seal, sort_keys=True).encode()).hexdigest()


def save(
    directory: str | os.PathLike[str],
    step: int,
    state: Mapping[str, Any],
    arrays: Mapping[str, Mapping[str, Any]],
    keep_last: int = 3,
) -> Path:
    """Write a checkpoint and remove the older ones beyond `keep_last`, except the best.

    Parameters
    ----------
    directory : path
        Where the checkpoints of a run are; made if missing.
    step : int
        Its number; a checkpoint of the same number is kept until the new one is in place.
    state : mapping
        For JSON.
    arrays : mapping of mapping of array or Tensor
        One safetensors file for each group, a lower-case name.
    keep_last : int
        At least 1.

    Returns
    -------
    Path
        Of the checkpoint.

    Raises
    ------
    CheckpointError
        If it cannot be written (disk full, no permission); earlier checkpoints are untouched then.
    """
    root = Path(directory)
    if keep_last < 1 or step < 0:
        raise ValueError(f"checkpoint: expected keep_last >= 1 and step >= 0, got {keep_last} and {step}")
    tensors = _safetensors()
    files = {"state.json": json.dumps(state).encode()}
    for group, entries in arrays.items():
        dense = {n: _dense(t) for n, t in entries.items()}
        files[f"{group}.safetensors"] = tensors.save(dense)
    temporary = root / f".tmp-{step:06d}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _discard(root)
        temporary.mkdir()
        for name, content in files.items():
            _write(temporary / name, content)
        seal = _seal(step, files)
        _write(temporary / _COMPLETE, json.dumps({**seal, "digest": _digest(seal)}).encode())
        _sync(temporary)
        target = _free_name(root, step)
        os.rename(temporary, target)
        _sync(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {root}: {error.strerror or error}; earlier checkpoints "
            "are untouched"
        ) from None
    _prune(root, keep_last)
    return target


def _free_name(root: Path, step: int) -> Path:
    target, again = root / f"checkpoint-{step:06d}", 0
    while target.exists():
        again += 1
        target = root / f"checkpoint-{step:06d}.{again}"
    return target


def _discard(root: Path) -> None:
    """Remove what an earlier process left half done."""
    for path in [*root.glob(".tmp-*"), *root.glob(".old-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _prune(root: Path, keep_last: int) -> None:
    kept = set(_complete(root)[-keep_last:])
    pointed = best(root)
    for path in _complete(root):
        if path not in kept and path != pointed:
            doomed = root / f".old-{path.name}"
            try:
                os.rename(path, doomed)  # a half-removed checkpoint must not carry the name of one
            except OSError:
                continue
            shutil.rmtree(doomed, ignore_errors=True)


def mark_best(directory: str | os.PathLike[str], checkpoint: Path, score: float) -> None:
    """Point best.json at a checkpoint, atomically."""
    root = Path(directory)
    temporary = root / f".{_BEST}-{os.getpid()}"
    try:
        _write(temporary, json.dumps({"checkpoint": checkpoint.name, "score": score}).encode())
        os.replace(temporary, root / _BEST)
        _sync(root)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{root / _BEST} could not be written: {error.strerror or error}") from None


# ---- reading -------------------------------------------------------------------------------------------------------
def _complete(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not root.is_dir():
        return []
    found = [(p, _NAME.fullmatch(p.name)) for p in root.iterdir()]
    numbered = [(int(m[1]), int(m[2] or 0), p) for p, m in found if m and (p / _COMPLETE).is_file()]
    return [p for _, _, p in sorted(numbered)]


def best(directory: str | os.PathLike[str]) -> Path | None:
    """The checkpoint with the best validation score, or None."""
    root = Path(directory)
    try:
        name = json.loads((root / _BEST).read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    return root / name if (root / name / _COMPLETE).is_file() else None


def find(place: str | os.PathLike[str], which: str = "latest") -> Path:
    """The path of a checkpoint.

    Parameters
    ----------
    place : path
        A checkpoint, or a directory of checkpoints.
    which : "latest" or "best"
        In a directory; without a best one, the latest.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    path = Path(place)
    if which not in ("latest", "best"):
        raise ValueError(f"checkpoint: which must be 'latest' or 'best', got {which!r}")
    if _NAME.fullmatch(path.name):
        return path
    chosen = best(path) if which == "best" else None
    complete = _complete(path)
    if chosen is None and not complete:
        raise CheckpointError(f"{path}: there is no complete checkpoint")
    return chosen or complete[-1]


def load(place: str | os.PathLike[str], which: str = "latest") -> Checkpoint:
    """Read a checkpoint after comparing every file with its checksum.

    Raises
    ------
    CheckpointError
        If there is none, it is incomplete, damaged or of another format; the message names the file.
    """
    path = find(place, which)
    seal = _read_seal(path)
    contents = {name: _read_checked(path / name, entry) for name, entry in seal["files"].items()}
    try:
        state = json.loads(contents.pop("state.json"))
        arrays = {name.removesuffix(".safetensors"): _safetensors().load(raw) for name, raw in contents.items()}
    except KeyError:
        raise CheckpointError(f"{path}: state.json is missing") from None
    except Exception as error:
        if isinstance(error, ImportError):
            raise
        raise CheckpointError(f"{path}: cannot be decoded: {error}") from None
    return Checkpoint(path, seal["step"], state, arrays)


def _read_seal(path: Path) -> dict[str, Any]:
    marker = path / _COMPLETE
    try:
        seal = json.loads(marker.read_bytes())
        digest = seal.pop("digest")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is not a complete checkpoint ({_COMPLETE} is missing)") from None
    except OSError as error:
        raise CheckpointError(f"{marker}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{marker}: is damaged") from None
    if digest != _digest(seal):
        raise CheckpointError(f"{marker}: is damaged (its own checksum differs)")
    if seal.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has checkpoint format {seal.get('format')!r}, this version of gankernels reads format {FORMAT}"
        )
    files = seal.get("files")
    if not isinstance(seal.get("step"), int) or not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise CheckpointError(f"{marker}: is damaged")
    if not all(_FILE.fullmatch(name) for name in files):
        raise CheckpointError(f"{marker}: names files that no checkpoint has")
    return dict(seal)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def _read_checked(path: Path, entry: Mapping[str, Any]) -> bytes:
    if not path.is_file() or path.is_symlink():
        raise CheckpointError(f"{path}: is missing")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise CheckpointError(
            f"{path}: has {size} bytes, {entry['bytes']} were written; the file is truncated or changed"
        )
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path}: is damaged (the checksum differs from the one in {_COMPLETE})")
    return raw
