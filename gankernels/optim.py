"""Optimizers with PyTorch's names, defaults and formulas, and learning-rate schedules; each step is one fused kernel.

SGD with (Nesterov) momentum (Sutskever et al. 2013), Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019),
RMSprop (Tieleman and Hinton 2012).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gankernels.autograd import Tensor
from gankernels.ops import update
from gankernels.ops.creation import tensor

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "Optimizer",
    "RMSprop",
    "StepLR",
]


def _at_least_zero(op: str, **values: float) -> None:
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"{op}: {name} must not be negative, got {value}")


def _below_one(op: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{op}: {name} must be at least 0 and below 1, got {value}")


def _like(p: Tensor) -> Tensor:
    return Tensor(np.zeros_like(p.data))


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
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = None if set_to_none else _like(p)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient; returns closure() if one is given, which is called first."""
        result = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.get(p)
                    if state is None:
                        state = self.state[p] = {}
                    self._update(p, p.grad, state, group)
        return result

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
    t = tensor(value.detach() if hasattr(value, "detach") else value)
    if t.shape != p.shape or t.dtype != p.dtype:
        raise ValueError(
            f"{name}.load_state_dict: {key!r} has shape {t.shape} and dtype {t.dtype}, "
            f"the parameter {p.shape} and {p.dtype}"
        )
    return t


class SGD(Optimizer):
    """Gradient descent with optional momentum, as torch.optim.SGD."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        _at_least_zero("SGD", lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"])
        if group["nesterov"] and (not group["momentum"] or group["dampening"]):
            raise ValueError("SGD: nesterov needs a momentum above 0 and dampening 0")

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        buffer = state.get("momentum_buffer") if group["momentum"] else None
        first = buffer is None
        if first and group["momentum"]:
            buffer = state["momentum_buffer"] = _like(p)
        update.sgd_step(
            p,
            g,
            buffer,
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            1 if first else 2,  # the first step starts the buffer with the gradient itself
        )


class Adam(Optimizer):
    """Adam with bias correction, as torch.optim.Adam (weight_decay is added to the gradient).

    Parameters
    ----------
    lr : float
    betas : (float, float)
    eps : float
        1e-8 as PyTorch; Keras's default is 1e-7.
    weight_decay : float
    amsgrad : bool
        Only False.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        if amsgrad:
            raise ValueError(f"{type(self).__name__}: amsgrad=True is not supported")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _check(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        _at_least_zero(name, lr=group["lr"], eps=group["eps"], weight_decay=group["weight_decay"])
        _below_one(name, beta1=group["betas"][0], beta2=group["betas"][1])

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, exp_avg=_like(p), exp_avg_sq=_like(p))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        update.adam_step(
            p,
            g,
            state["exp_avg"],
            state["exp_avg_sq"],
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            self.decoupled,
            state["step"],
        )


class AdamW(Adam):
    """Adam with weight decay applied to the weights themselves, as torch.optim.AdamW."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class RMSprop(Optimizer):
    """Gradient divided by its running root mean square, as torch.optim.RMSprop.

    Parameters
    ----------
    lr : float
        1e-2 as PyTorch; Keras's default is 1e-3.
    alpha : float
        Weight of the old mean square, Keras's rho: 0.99 as PyTorch, 0.9 in Keras.
    eps : float
        1e-8 as PyTorch, 1e-7 in Keras.
    weight_decay, momentum : float
    centered : bool
        Divide by the running standard deviation instead.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        _at_least_zero("RMSprop", **{k: group[k] for k in ("lr", "eps", "weight_decay", "momentum", "alpha")})

    def _update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(step=0, square_avg=_like(p))
            if group["momentum"]:
                state["momentum_buffer"] = _like(p)
            if group["centered"]:
                state["grad_avg"] = _like(p)
        state["step"] += 1
        update.rmsprop_step(
            p,
            g,
            state["square_avg"],
            state.get("momentum_buffer"),
            state.get("grad_avg"),
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
        )


class LRScheduler:
    """Base class: sets every group's "lr" from its initial value and the number of `step()` calls so far.

    Parameters
    ----------
    optimizer : Optimizer
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._set()

    def lr(self, base: float, epoch: int) -> float:
        """The learning rate after `epoch` steps."""
        raise NotImplementedError(f"{type(self).__name__} does not define lr")

    def _set(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.lr(base, self.last_epoch)

    def step(self) -> None:
        """Count one epoch and set the learning rates."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The groups' learning rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to continue; the schedule's own settings are given again at construction."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state_dict."""
        self.last_epoch, self.base_lrs = int(state_dict["last_epoch"]), list(state_dict["base_lrs"])
        self._set()


class StepLR(LRScheduler):
    """The rate times gamma after every step_size epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def lr(self, base: float, epoch: int) -> float:
        return base * self.gamma ** (epoch // self.step_size)


class ExponentialLR(LRScheduler):
    """The rate times gamma after every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def lr(self, base: float, epoch: int) -> float:
        return base * float(self.gamma**epoch)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate down to eta_min over T_max epochs (Loshchilov and Hutter 2017)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def lr(self, base: float, epoch: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class LambdaLR(LRScheduler):
    """The initial rate times lr_lambda(epoch)."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def lr(self, base: float, epoch: int) -> float:
        return base * self.lr_lambda(epoch)
