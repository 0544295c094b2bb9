"""Optimizer: groups of parameters with settings, and the state of each parameter; state_dicts as PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gankernels.autograd import Tensor
from gankernels.dtypes import computed
from gankernels.ops.creation import tensor
from gankernels.ops.replay import again
from gankernels.ops.update import zero_gradients
from gankernels.optim.flat import FlatGroup

__all__ = ["Optimizer"]


class Optimizer:
    """Base class: groups of parameters with their settings, and the state of each parameter.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        A dict is a group: {"params": [...], "lr": ...}; settings it leaves out come from `defaults`.
    defaults : dict
        Settings of groups that do not say otherwise.

    Attributes
    ----------
    param_groups : list of dict
        May be changed between steps ("lr").
    state : dict
        Parameter to its state; tensors of the parameter's shape, and "step".
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        name = type(self).__name__
        if isinstance(params, Tensor):
            raise TypeError(f"{name}: params must be an iterable of tensors or of dicts, got one Tensor")
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.param_groups: list[dict[str, Any]] = []
        self._flat: dict[int, FlatGroup] = {}
        given = list(params)
        if not given:
            raise ValueError(f"{name}: there are no parameters to optimize")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Optimize more parameters, with settings of their own."""
        name = type(self).__name__
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        known = {id(p) for p in self.parameters}
        for p in members:
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: parameters must be Tensors, got {type(p).__name__}")
            if p.node is not None:
                raise ValueError(f"{name}: a parameter of shape {p.shape} is the result of an operation, not a leaf")
            if id(p) in known:
                raise ValueError(f"{name}: a parameter of shape {p.shape} appears twice")
            known.add(id(p))
        unknown = sorted(set(group) - set(self.defaults) - {"params"})
        if unknown:
            raise ValueError(f"{name}: unknown setting {unknown[0]!r}; known are {', '.join(self.defaults)}")
        settings = {**self.defaults, **group, "params": members}
        self._check(settings)
        self.param_groups.append(settings)

    def _check(self, group: dict[str, Any]) -> None:
        """Raise if a setting of a group makes no sense."""

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        zero_gradients(self.parameters, set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; returns closure() if one is given, which is called first."""
        result = None if closure is None else closure()
        given = [(p, p.grad) for p in self.parameters if p.grad is not None]

        def descend() -> None:
            for p, g in given:
                p.grad = g
            for i in range(len(self.param_groups)):
                self._descend(i)

        again(descend, steady=True)
        return result

    def _descend(self, i: int) -> None:
        group = self.param_groups[i]
        flat = self.flat_group(i)
        if flat is not None and flat.step(self.state, lambda p, g, state: self._update(p, g, state, group)):
            return
        for p in group["params"]:
            if p.grad is not None:
                state = self.state.get(p)
                if state is None:
                    state = self.state[p] = {}
                self._update(p, p.grad, state, group)

    def flat_group(self, i: int = 0) -> FlatGroup | None:
        """The buffers of a group whose parameters were joined by `flatten`; None for others.

        Gradients that are put into its `gradients` need no copy in `step`.
        """
        members = self.param_groups[i]["params"]
        known = self._flat.get(i)
        if known is not None and known.fits(members):
            return known
        found = FlatGroup.of(members)
        if found is None:
            self._flat.pop(i, None)
        else:
            self._flat[i] = found
        return found

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define _update")

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: state}, "param_groups": [...]}, as PyTorch: parameters are numbered in order.

        Tensors share memory with the optimizer's.
        """
        number = {id(p): i for i, p in enumerate(self.parameters)}
        state = {number[id(p)]: dict(s) for p, s in self.state.items()}
        groups = [{**g, "params": [number[id(p)] for p in g["params"]]} for g in self.param_groups]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state_dict; tensors are copied. States of torch.optim's optimizers of the same name fit.

        Raises
        ------
        ValueError
            If the groups or the shapes do not fit; nothing has been changed then.
        """
        name = type(self).__name__
        groups = state_dict["param_groups"]
        sizes, expected = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != expected:
            raise ValueError(f"{name}.load_state_dict: groups of {sizes} parameters, expected {expected}")
        numbers = [i for g in groups for i in g["params"]]
        by_number = dict(zip(numbers, self.parameters, strict=True))
        loaded: dict[Tensor, dict[str, Any]] = {}
        for number, saved in state_dict["state"].items():
            if number not in by_number:
                raise ValueError(f"{name}.load_state_dict: there is no parameter number {number!r}")
            p = by_number[number]
            loaded[p] = {key: _restored(name, key, value, p) for key, value in saved.items()}
        for mine, saved_group in zip(self.param_groups, groups, strict=True):
            mine.update({k: v for k, v in saved_group.items() if k in self.defaults})
        self.state = loaded


def _restored(name: str, key: str, value: Any, p: Tensor) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if key == "step":
        return int(float(value))
    t = tensor(value.detach() if hasattr(value, "detach") else value, device=p.device)
    if t.dtype == computed(p.dtype):  # float32 is what bfloat16 is on the host
        t = t.to(p.dtype)
    if t.shape != p.shape or t.dtype != p.dtype:
        raise ValueError(
            f"{name}.load_state_dict: {key!r} has shape {t.shape} and dtype {t.dtype}, "
            f"the parameter {p.shape} and {p.dtype}"
        )
    return t
