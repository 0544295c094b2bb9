"""Sequential, ModuleList and ModuleDict."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from gankernels.nn.fusion import run_together
from gankernels.nn.module import Module

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Numbered(Module):
    """Sub-modules in order, found by position."""

    def _keys(self) -> list[str]:
        return list(self._modules)

    def _key(self, i: int) -> str:
        keys = self._keys()
        if not -len(keys) <= i < len(keys):
            raise IndexError(f"{type(self).__name__}: index {i} is out of range for {len(keys)} modules")
        return keys[i]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __setitem__(self, i: int, module: Module) -> None:
        self.add_module(self._key(i), module)

    def __delitem__(self, i: int) -> None:
        delattr(self, self._key(i))
        kept = list(self._modules.items())
        if all(name.isdigit() for name, _ in kept):
            for name, _ in kept:
                delattr(self, name)
            for k, (_, module) in enumerate(kept):
                self.add_module(str(k), module)

    def append(self, module: Module) -> Any:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add several modules at the end; returns self."""
        for module in modules:
            self.append(module)
        return self


class Sequential(_Numbered):
    """Modules applied one after the other.

    An Upsample directly before a Conv of stride and dilation 1 runs with it as one operation (`ops.upsample_conv`)
    where that is faster: the large image is never made. A LeakyReLU or ReLU and a Dropout behind a Linear, Conv or
    ConvTranspose run in the pass that adds the bias, behind a BatchNorm in the pass that scales and shifts. Values and
    gradients are the same up to rounding. Modules with forward hooks always run by themselves;
    `gankernels.set_fusion(False)` makes all of them do so.

    Parameters
    ----------
    *modules : Module, or one OrderedDict of name to Module

    Examples
    --------
    >>> import gankernels as gk
    >>> net = gk.nn.Sequential(gk.nn.Linear(2, 8), gk.nn.ReLU(), gk.nn.Linear(8, 1))
    >>> net(gk.zeros(5, 2)).shape
    (5, 1)
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        named = len(modules) == 1 and isinstance(modules[0], Mapping)
        for name, module in modules[0].items() if named else ((str(i), m) for i, m in enumerate(modules)):
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        modules = list(self._modules.values())
        at = 0
        while at < len(modules):
            together = run_together(modules, at, input)
            if together is None:
                input, at = modules[at](input), at + 1
            else:
                input, at = together
        return input

    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return Sequential({k: self._modules[k] for k in self._keys()[i]})
        return self._modules[self._key(i)]


class ModuleList(_Numbered):
    """A list whose modules are registered."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return ModuleList(list(self)[i])
        return self._modules[self._key(i)]


class ModuleDict(Module):
    """A dictionary whose modules are registered."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Module]:
        """The modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Module]:
        """(name, module) pairs."""
        return self._modules.items()

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add or replace modules."""
        for name, module in modules.items():
            self.add_module(name, module)
