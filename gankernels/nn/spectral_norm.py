"""Spectral normalisation (Miyato et al., ICLR 2018): a layer's weight divided by its largest singular value.

The value is u^T W v with u and v from power iterations, kept as buffers under the names of torch.nn.utils.spectral_norm
(weight_orig, weight_u, weight_v) and constants for differentiation, so that the weight can be differentiated twice.
"""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar

from gankernels import ops
from gankernels.autograd import Tensor, no_grad
from gankernels.nn.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from gankernels.nn.functional import normalize
from gankernels.nn.linear import count
from gankernels.nn.module import Handle, Module
from gankernels.nn.parameter import Parameter
from gankernels.ops import update
from gankernels.ops.random import Generator, default_generator

__all__ = ["remove_spectral_norm", "spectral_norm"]

M = TypeVar("M", bound=Module)


class _SpectralNorm:
    """The hooks of one module: before forward the weight is computed, after it only its values are kept."""

    def __init__(self, name: str, n_power_iterations: int, eps: float, dim: int) -> None:
        self.name, self.n_power_iterations, self.eps, self.dim = name, n_power_iterations, eps, dim
        self.handles: list[Handle] = []

    def matrix(self, weight: Tensor) -> Tensor:
        """weight as (H, rest), H its axis `dim`."""
        if self.dim:
            weight = weight.permute(self.dim, *(i for i in range(weight.ndim) if i != self.dim))
        return weight.reshape(weight.shape[0], prod(weight.shape[1:]))

    def weight(self, module: Module, iterate: bool) -> Tensor:
        """The normalised weight; with iterate, after improving u and v in place."""
        original, u, v = (module.__dict__[f"{self.name}_{suffix}"] for suffix in ("orig", "u", "v"))
        matrix = self.matrix(original)
        with no_grad():
            fresh_u, fresh_v = u.clone(), v.clone()
            for _ in range(self.n_power_iterations if iterate else 0):
                fresh_v = normalize(ops.matmul(matrix.transpose(0, 1), fresh_u), dim=0, eps=self.eps)
                fresh_u = normalize(ops.matmul(matrix, fresh_v), dim=0, eps=self.eps)
            if iterate:
                update.copy_(u, fresh_u)
                update.copy_(v, fresh_v)
        sigma = ops.sum(fresh_u * ops.matmul(matrix, fresh_v))
        normalised: Tensor = original / sigma
        return normalised

    def before(self, module: Module, _: tuple[Any, ...]) -> None:
        module.__dict__[self.name] = self.weight(module, module.training)

    def after(self, module: Module, _: tuple[Any, ...], __: Any) -> None:
        module.__dict__[self.name] = module.__dict__[self.name].detach()


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    generator: Generator | None = None,
) -> M:
    """Divide a parameter of the module by its largest singular value from now on; returns the module.

    Parameters
    ----------
    module : Module
    name : str
        The parameter. It becomes `<name>_orig`, with the buffers `<name>_u` and `<name>_v`.
    n_power_iterations : int
        Per forward pass in training mode.
    eps : float
        Smallest norm divided by.
    dim : int, optional
        Axis of the outputs: 1 for transposed convolutions, else 0.
    generator : Generator, optional
        Stream of the initial u and v.

    Raises
    ------
    ValueError
        If the module has no such parameter, or it is normalised already.
    """
    count("spectral_norm", "n_power_iterations", n_power_iterations)
    if f"{name}_orig" in module._parameters:
        raise ValueError(f"spectral_norm: {name!r} of {type(module).__name__} is normalised already")
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"spectral_norm: {type(module).__name__} has no parameter {name!r}")
    if dim is None:
        dim = 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0
    norm = _SpectralNorm(name, n_power_iterations, eps, dim)
    stream = generator or default_generator()
    with no_grad():
        H, W = norm.matrix(weight).shape
        u = normalize(stream.normal((H,), weight.dtype, weight.device), dim=0, eps=eps)
        v = normalize(stream.normal((W,), weight.dtype, weight.device), dim=0, eps=eps)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    module.__dict__[name] = weight.detach()
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    norm.handles = [module.register_forward_pre_hook(norm.before), module.register_forward_hook(norm.after)]
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Make the normalised value a plain parameter again; returns the module."""
    for hook in list(module._before.values()):
        norm = getattr(hook, "__self__", None)
        if isinstance(norm, _SpectralNorm) and norm.name == name:
            with no_grad():
                value = norm.weight(module, False)
            for handle in norm.handles:
                handle.remove()
            for suffix in ("orig", "u", "v"):
                delattr(module, f"{name}_{suffix}")
            del module.__dict__[name]
            module.register_parameter(name, Parameter(value))
            return module
    raise ValueError(f"remove_spectral_norm: {name!r} of {type(module).__name__} is not normalised")
