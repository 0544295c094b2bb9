"""The update rules with PyTorch's names, defaults and formulas; each step is one fused kernel.

SGD with (Nesterov) momentum (Sutskever et al. 2013), Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019),
RMSprop (Tieleman and Hinton 2012).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gankernels.autograd import Tensor
from gankernels.ops import update
from gankernels.ops.creation import zeros_like
from gankernels.optim.optimizer import Optimizer

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


def _at_least_zero(op: str, **values: float) -> None:
    for name, value in values.items():
        if not value >= 0.0:
            raise ValueError(f"{op}: {name} must not be negative, got {value}")


def _below_one(op: str, **values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{op}: {name} must be at least 0 and below 1, got {value}")


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
            buffer = state["momentum_buffer"] = zeros_like(p)
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
            state.update(step=0, exp_avg=zeros_like(p), exp_avg_sq=zeros_like(p))
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
            state.update(step=0, square_avg=zeros_like(p))
            if group["momentum"]:
                state["momentum_buffer"] = zeros_like(p)
            if group["centered"]:
                state["grad_avg"] = zeros_like(p)
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
