"""Configurations are nested dataclasses: their fields are the keys of a TOML file and of `--set a.b=value`.

Whatever is read is converted to the field's type or refused with the key's full name; an unknown key is an error with
the closest match. Ranges are checked by each dataclass itself, in `__post_init__`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import math
import os
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from gankernels._extras import require

__all__ = ["ConfigError", "Row", "closest", "configure", "explain", "option", "to_dict", "to_toml"]

T = TypeVar("T")

_MAX_FILE_BYTES = 1_000_000
_UNIONS = (Union, types.UnionType)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, what came and what was expected."""


@dataclass(frozen=True)
class Row:
    """One key of a configuration, for a table of help."""

    key: str
    default: Any
    type: str
    help: str


def option(default: Any, help: str) -> Any:
    """A dataclass field with a default and a line of help; mutable defaults are copied for each instance."""
    if dataclasses.is_dataclass(default) or isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.deepcopy(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def closest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """A hint for an unknown name: the closest known one, with what stands before it, and all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {prefix + near[0]!r}? " if near else ""
    return f"{hint}known are: {', '.join(sorted(known))}"


def configure(default: T, path: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()) -> T:
    """A configuration like `default`, changed by a TOML file and then by `key=value` strings.

    Parameters
    ----------
    default : dataclass instance
        Its values stand where nothing else is said.
    path : path, optional
        TOML file of at most 1 MB; tables are nested dataclasses.
    overrides : sequence of str
        "section.key=value", the value in TOML's notation; bare words are strings, "none" is None.

    Returns
    -------
    The same dataclass.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown, or a value has the wrong type or range.

    Examples
    --------
    >>> from gankernels.gan.losses import LossConfig
    >>> configure(LossConfig(), overrides=["discriminator=hinge", "generator=hinge"]).generator
    'hinge'
    """
    changes: dict[str, Any] = {} if path is None else _read(Path(path))
    result = _changed(default, changes, "", str(path))
    merged: dict[str, Any] = {}
    for text in overrides:
        _put(merged, *_parse_override(text))
    return _changed(result, merged, "", "--set")


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dicts of a configuration, for JSON."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def to_toml(config: Any) -> str:
    """The configuration as a TOML file that `configure` reads back to an equal one."""
    lines: list[str] = []
    _emit(to_dict(config), "", lines)
    return "\n".join(lines).strip() + "\n"


def explain(config: Any) -> list[Row]:
    """Every key with its default, type and help, from a dataclass or an instance with a recipe's own defaults."""
    instance = config() if isinstance(config, type) else config
    return _rows(instance, "")


# ---- reading -------------------------------------------------------------------------------------------------------
def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    return require("tomli", extra="calo", purpose="reading TOML files")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_FILE_BYTES} bytes, that is no configuration")
    try:
        return dict(_toml().loads(raw.decode("utf-8")))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{path}: values are nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {text!r}: expected key=value, as in train.batch=32")
    raw = raw.strip()
    try:
        parsed = _toml().loads(f"value = {raw}")
    except RecursionError:
        raise ConfigError(f"--set {key}: the value is nested too deeply") from None
    except ValueError:
        return parts, raw
    return parts, parsed["value"] if set(parsed) == {"value"} else raw


def _put(tree: dict[str, Any], parts: list[str], value: Any) -> None:
    for i, part in enumerate(parts[:-1]):
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set: {'.'.join(parts[: i + 1])} is given both as a value and as a section")
    tree[parts[-1]] = value


# ---- conversion ----------------------------------------------------------------------------------------------------
def _changed(config: T, changes: Mapping[str, Any], prefix: str, source: str) -> T:
    """The dataclass with some fields replaced; `prefix` is the section's name with a dot."""
    if not changes:
        return config
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"configure: expected a dataclass instance, got {config!r}")
    hints = get_type_hints(type(config))
    known = [f.name for f in dataclasses.fields(config) if f.init]
    values = {}
    for name, value in changes.items():
        if name not in known:
            inside = [row.key for row in _rows(config, prefix) if row.key.endswith(f".{name}")]
            hint = f"did you mean {inside[0]!r}?" if inside else closest(name, known, prefix)
            raise ConfigError(f"{source}: unknown key {prefix + name!r}; {hint}")
        current, key = getattr(config, name), prefix + name
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {key} is a section, got {value!r}")
            values[name] = _changed(current, value, key + ".", source)
        else:
            converted = _convert(hints[name], value, key, source)
            # An equal number stays as it is written: 24 does not become 24.0.
            values[name] = current if isinstance(converted, float) and converted == current else converted
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        where = f" (section {prefix[:-1]})" if prefix else ""
        raise ConfigError(f"{source}{where}: {error}") from None


def _convert(hint: Any, value: Any, key: str, source: str) -> Any:
    """The value as the annotated type, or an error; numbers are never cut and strings never guessed."""
    origin, args = get_origin(hint), get_args(hint)

    def wrong(expected: str) -> ConfigError:
        return ConfigError(f"{source}: {key} must be {expected}, got {value!r}")

    if hint is Any:
        return value
    if origin in _UNIONS:
        if value in (None, "none") and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        for kind in kinds[:-1]:
            try:
                return _convert(kind, value, key, source)
            except ConfigError:
                continue
        return _convert(kinds[-1], value, key, source)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):
            raise ConfigError(f"{source}: {key} cannot be {value!r}; {closest(str(value), [str(a) for a in args])}")
        return value
    if origin in (tuple, list):
        return _convert_sequence(origin, args, value, key, source)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong("a table")
        return {name: _convert(args[1], item, f"{key}.{name}", source) for name, item in value.items()}
    if hint is bool:
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
            raise wrong("a whole number")
        return int(value)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise wrong("a finite number")
        return float(value)
    if hint is str:
        if not isinstance(value, str):
            raise wrong("a string")
        if "\0" in value:
            raise wrong("a string without NUL")
        return value
    raise TypeError(f"configure: {key} has the type {hint!r}, which a configuration cannot hold")


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Any, key: str, source: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{source}: {key} must be a list, got {value!r}")
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        kinds = [args[0]] * len(value)
    else:
        kinds = list(args)
    if len(kinds) != len(value):
        raise ConfigError(f"{source}: {key} must have {len(kinds)} entries, got {list(value)!r}")
    return origin(
        _convert(kind, item, f"{key}[{i}]", source) for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


# ---- writing -------------------------------------------------------------------------------------------------------
def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    if value is None:
        return '"none"'  # TOML has no null
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _emit(tree: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    plain = {name: value for name, value in tree.items() if not isinstance(value, Mapping)}
    if prefix and plain:
        lines += ["", f"[{prefix}]"]
    lines += [f"{_key(name)} = {_literal(value)}" for name, value in plain.items()]
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _emit(value, f"{prefix}.{_key(name)}" if prefix else _key(name), lines)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _literal(name)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) in _UNIONS:
        return " | ".join("none" if a is type(None) else _type_name(a) for a in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _rows(config: Any, prefix: str) -> list[Row]:
    hints = get_type_hints(type(config))
    rows = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            rows += _rows(value, f"{prefix}{f.name}.")
        else:
            rows.append(Row(prefix + f.name, value, _type_name(hints[f.name]), f.metadata.get("help", "")))
    return rows
