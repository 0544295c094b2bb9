"""Module: a tree of parameters, buffers and sub-modules with a forward function, as torch.nn.Module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from gankernels.autograd import Tensor
from gankernels.dtypes import is_bfloat16, is_float, named
from gankernels.nn.parameter import Parameter
from gankernels.ops import update
from gankernels.ops.common import DEVICES
from gankernels.ops.creation import from_array, tensor

__all__ = ["Handle", "IncompatibleKeys", "Module"]


class IncompatibleKeys(NamedTuple):
    """What load_state_dict could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Handle:
    """Removes the hook that it was returned for."""

    def __init__(self, hooks: dict[int, Any]) -> None:
        self._hooks = hooks
        self.id = max(hooks, default=-1) + 1

    def remove(self) -> None:
        """Take the hook off; harmless the second time."""
        self._hooks.pop(self.id, None)


class Module:
    """Base class of layers and networks.

    Assigning a Parameter or a Module to an attribute registers it; tensors that are state but not trained are given to
    `register_buffer`. Subclasses define `forward` and call `super().__init__()` first.

    Examples
    --------
    >>> import gankernels as gk
    >>> class Scale(gk.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = gk.nn.Parameter(gk.ones(1))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> list(Scale().state_dict())
    ['factor']
    """

    training: bool
    forward: Callable[..., Any]
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module]
    _transient: set[str]  # names of buffers that are not in the state_dict
    _changes: int  # attributes but for `training` assigned and deleted so far
    _before: dict[int, Callable[..., Any]]
    _after: dict[int, Callable[..., Any]]

    def __init__(self) -> None:
        own = self.__dict__
        own["training"] = True
        own["_parameters"] = {}
        own["_buffers"] = {}
        own["_modules"] = {}
        own["_transient"] = set()
        own["_changes"] = 0
        own["_before"] = {}
        own["_after"] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """forward(...), with the hooks around it if there are any."""
        for before in list(self._before.values()) if self._before else ():
            changed = before(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for after in list(self._after.values()) if self._after else ():
            changed = after(self, args, result)
            result = result if changed is None else changed
        return result

    # ---- registration: the three tables hold names, the instance dictionary gives fast access ----------------------
    def _tables(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        try:
            own = self.__dict__
            return own["_parameters"], own["_buffers"], own["_modules"]
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__}: call super().__init__() before assigning attributes"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._register(0, name, value)
        elif isinstance(value, Module):
            self._register(2, name, value)
        else:
            for kind, table in enumerate(self._tables()):
                if name in table:
                    expected = ("Parameter", "Tensor", "Module")[kind]
                    if value is not None and not (kind == 1 and isinstance(value, Tensor)):
                        raise TypeError(
                            f"{type(self).__name__}: {name!r} holds a {expected}; "
                            f"cannot assign a {type(value).__name__} (None or a {expected})"
                        )
                    if kind == 2:
                        del table[name]
                    else:
                        table[name] = value
            self.__dict__[name] = value
            self.__dict__["_changes"] += name != "training"

    def __delattr__(self, name: str) -> None:
        for table in self._tables():
            table.pop(name, None)
        self._transient.discard(name)
        self.__dict__["_changes"] += 1
        object.__delattr__(self, name)

    def _register(self, kind: int, name: str, value: Any) -> None:
        tables = self._tables()
        if not isinstance(name, str) or not name or "." in name:
            what = ("register_parameter", "register_buffer", "add_module")[kind]
            raise KeyError(f"{what}: the name must be a non-empty string without a dot, got {name!r}")
        if hasattr(type(self), name):
            raise KeyError(f"{type(self).__name__}: the name {name!r} is taken by the class")
        for i, table in enumerate(tables):
            if i != kind:
                table.pop(name, None)
        tables[kind][name] = value
        self.__dict__[name] = value
        self.__dict__["_changes"] += 1

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or a name for one that is absent (None)."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: {name!r} must be a Parameter or None, got {type(param).__name__}")
        self._register(0, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that belongs to the state but is not trained; kept out of state_dict if not persistent."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name!r} must be a Tensor or None, got {type(tensor).__name__}")
        self._register(1, name, tensor)
        (self._transient.discard if persistent else self._transient.add)(name)

    def register_module(self, name: str, module: Module) -> None:
        """Add a sub-module."""
        self.add_module(name, module)

    def add_module(self, name: str, module: Module) -> None:
        """Add a sub-module."""
        if not isinstance(module, Module):
            raise TypeError(f"add_module: {name!r} must be a Module, got {type(module).__name__}")
        self._register(2, name, module)

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple[Any, ...]], Any]) -> Handle:
        """Call hook(module, args) before forward; what it returns, if not None, replaces args."""
        handle = Handle(self._before)
        self._before[handle.id] = hook
        return handle

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Handle:
        """Call hook(module, args, result) after forward; what it returns, if not None, replaces the result."""
        handle = Handle(self._after)
        self._after[handle.id] = hook
        return handle

    # ---- walking the tree ------------------------------------------------------------------------------------------
    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and everything below it; shared modules once."""
        seen: set[int] = set()

        def walk(module: Module, path: str) -> Iterator[tuple[str, Module]]:
            if id(module) in seen:
                return
            seen.add(id(module))
            yield path, module
            for name, child in module._modules.items():
                yield from walk(child, f"{path}.{name}" if path else name)

        return walk(self, prefix)

    def modules(self) -> Iterator[Module]:
        """This module and everything below it."""
        seen: set[int] = set()
        waiting: list[Module] = [self]
        while waiting:
            module = waiting.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield module
                waiting += reversed(module._modules.values())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct sub-modules."""
        return iter(self._modules.items())

    def children(self) -> Iterator[Module]:
        """The direct sub-modules."""
        return (m for _, m in self.named_children())

    def _named(self, table: str, prefix: str, recurse: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name, value in getattr(module, table).items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def _each(self, table: str, recurse: bool) -> Iterator[Any]:
        seen: set[int] = set()
        for module in self.modules() if recurse else [self]:
            for value in getattr(module, table).values():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield value

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) pairs; shared parameters once."""
        return self._named("_parameters", prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, shared ones once."""
        return self._each("_parameters", recurse)

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(path, buffer) pairs."""
        return self._named("_buffers", prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers."""
        return self._each("_buffers", recurse)

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; "" is this one."""
        module = self
        for name in target.split(".") if target else ():
            found = module._modules.get(name)
            if found is None:
                raise AttributeError(f"get_submodule: {type(module).__name__} has no sub-module {name!r} ({target!r})")
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path."""
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._parameters.get(name)
        if found is None:
            raise AttributeError(f"get_parameter: there is no parameter {target!r}")
        return found

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Number of elements of all parameters."""
        return sum(int(p.data.size) for p in self.parameters() if p.requires_grad or not trainable_only)

    # ---- switching -------------------------------------------------------------------------------------------------
    def apply(self, fn: Callable[[Module], Any]) -> Any:
        """Call fn on every module, sub-modules first; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Any:
        """Training mode (dropout, batch statistics) for this module and all below; returns self."""
        for module in self.modules():
            module.__dict__["training"] = mode
        return self

    def eval(self) -> Any:
        """Evaluation mode; returns self."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside the block; afterwards every module is in the mode that it was in."""
        training = [m.__dict__ for m in self.modules() if m.training]
        for attributes in training:
            attributes["training"] = False
        try:
            yield
        finally:
            for attributes in training:
                attributes["training"] = True

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Switch recording for every parameter; returns self."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        update.zero_gradients(self.parameters(), set_to_none)

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Any:
        """Move parameters and buffers to a device ("cpu", "cuda"), convert floating-point ones to a dtype, or both.

        In place: the tensors stay the same objects, so an optimizer keeps them. Its state does not move with them:
        make the optimizer after moving, or load its state_dict again.
        """
        for target in (*targets, device, dtype):
            if target is None:
                continue
            if isinstance(target, str) and target in DEVICES:
                self._convert(target, all_dtypes=True)
                continue
            wanted = named(target)
            if not is_float(wanted):
                raise TypeError(
                    f"Module.to: expected float32, float64 or (on a GPU) bfloat16, or a device, got {wanted}"
                )
            self._convert(wanted, all_dtypes=False)
        return self

    def _convert(self, target: Any, all_dtypes: bool) -> None:
        for t in [*self.parameters(), *self.buffers()]:
            data = t.detach().to(target).data if all_dtypes or is_float(t.dtype) else t.data
            if data is not t.data:
                t.data = data
                t.version += 1
                t.grad = None if t.grad is None else t.grad.detach().to(target)

    def cpu(self) -> Any:
        """Everything on the host; returns self."""
        return self.to("cpu")

    def cuda(self) -> Any:
        """Everything on the GPU; returns self."""
        return self.to("cuda")

    def float(self) -> Any:
        """Everything in float32; returns self."""
        return self.to(np.float32)

    def bfloat16(self) -> Any:
        """Everything in bfloat16, on a GPU; returns self."""
        return self.to("bfloat16")

    def double(self) -> Any:
        """Everything in float64; returns self."""
        return self.to(np.float64)

    # ---- state -----------------------------------------------------------------------------------------------------
    def _state(self, prefix: str, into: dict[str, Tensor]) -> None:
        for name, p in self._parameters.items():
            if p is not None:
                into[prefix + name] = p
        for name, b in self._buffers.items():
            if b is not None and name not in self._transient:
                into[prefix + name] = b
        for name, child in self._modules.items():
            child._state(f"{prefix}{name}.", into)

    def state_dict(self, prefix: str = "") -> OrderedDict[str, Tensor]:
        """Parameters and persistent buffers by dotted path, detached, sharing memory; keys and order as PyTorch's."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        self._state(prefix, found)
        for name, t in found.items():
            found[name] = Tensor(t.data)
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the parameters and buffers of the same names.

        Parameters
        ----------
        state_dict : mapping of str to Tensor, NumPy array, or anything with `__dlpack__` (a torch.Tensor)
            Shapes and dtypes must be those of this module; values are copied to the device of each parameter.
        strict : bool
            Raise if a name is missing or unexpected.

        Raises
        ------
        KeyError
            If strict and the names differ.
        ValueError, TypeError
            If a shape or a dtype differs. Nothing has been changed then.
        """
        own: dict[str, Tensor] = {}
        self._state("", own)
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        if strict and (missing or unexpected):
            parts = [f"{what}: {', '.join(map(repr, names))}"
                     for what, names in (("missing", missing), ("unexpected", unexpected)) if names]  # fmt: skip
            raise KeyError(f"load_state_dict: {type(self).__name__} does not match; {'; '.join(parts)}")
        pairs = [(own[k], _source(k, v, own[k])) for k, v in state_dict.items() if k in own]
        for target, source in pairs:
            update.copy_(target, source)
        return IncompatibleKeys(missing, unexpected)

    # ---- text ------------------------------------------------------------------------------------------------------
    def extra_repr(self) -> str:
        """Arguments to print between the parentheses."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._modules.items()]
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n  ".join(([extra] if extra else []) + lines)
        return f"{type(self).__name__}(\n  {body}\n)"


def _source(key: str, value: Any, target: Tensor) -> Tensor:
    """A value of a state_dict as a Tensor that fits the target."""
    value = value.detach() if hasattr(value, "detach") else value
    try:
        source = value if isinstance(value, Tensor) else from_array(value)
    except TypeError:
        try:
            source = tensor(value, device=target.device)
        except (TypeError, ValueError) as error:
            raise TypeError(f"load_state_dict: {key!r} cannot be read: {error}") from None
        dtype = getattr(value, "dtype", None)
        if dtype is not None and not (is_bfloat16(target.dtype) and dtype == target.dtype):
            raise TypeError(f"load_state_dict: {key!r} has dtype {value.dtype}, expected {target.dtype}") from None
    if source.shape != target.shape:
        raise ValueError(f"load_state_dict: {key!r} has shape {source.shape}, expected {target.shape}")
    if is_bfloat16(target.dtype) and source.dtype == np.float32:  # what it is on the host
        return source.to(target.device).to(target.dtype)
    if source.dtype != target.dtype:
        raise TypeError(
            f"load_state_dict: {key!r} has dtype {source.dtype}, expected {target.dtype}; convert one first"
        )
    return source.to(target.device)
