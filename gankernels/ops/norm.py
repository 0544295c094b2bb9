"""Batch, layer and instance normalisation: one kernel over x(N, C, L) that normalises each channel c over (N, L).

Activation and dropout behind it are part of its passes over memory (`Epilogue`): forward two, one for the moments and
one that writes, backward two, one for the sums and one that writes. The output is all that is kept for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from gankernels.autograd import Tensor, fused
from gankernels.backends import backend_of
from gankernels.dtypes import computed
from gankernels.geometry import is_int
from gankernels.ops.common import cast, channel_vectors, check_float, empty_like, empty_vector
from gankernels.ops.epilogue import NO_DRAW, PLAIN, Epilogue, redrawn, unfused
from gankernels.ops.pointwise import rsqrt, square
from gankernels.ops.reduce import mean

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm"]


def _moments(x: Any) -> tuple[Any, Any]:
    statistics = empty_vector(x, x.shape[1]), empty_vector(x, x.shape[1])
    backend_of(x).channel_moments(x, *statistics)
    return statistics


def _kernel(
    x: Any,
    weight: Any,
    bias: Any,
    eps: float,
    statistics: list[Any] | None = None,
    after: Epilogue = PLAIN,
    drawn: tuple[int, int] = NO_DRAW,
) -> Any:
    """`statistics` receives mean and biased variance, or holds them; `after` draws from the counters `drawn`."""
    mean_, variance = statistics or _moments(x)
    if statistics is not None:
        statistics[:] = mean_, variance
    backend = backend_of(x)
    rstd, scale, shift = empty_like(mean_), empty_like(mean_), empty_like(mean_)
    backend.unary("affine", variance, rstd, 1.0, eps)
    backend.unary("rsqrt", rstd, rstd)
    backend.binary("multiply", rstd, weight, scale)
    backend.binary("multiply", mean_, scale, shift)
    backend.binary("subtract", bias, shift, shift)
    y, _ = _affine_kernel(x, scale, shift, after, drawn)
    return y, (mean_, rstd, y)


def _backward(
    ct: Any, arrays: Any, saved: Any, want: Any, eps: float, _: Any = None, after: Epilogue = PLAIN, drawn: Any = None
) -> Any:
    x, weight, _ = arrays
    mean_, rstd, y = saved
    gradients = empty_like(x), empty_like(weight), empty_like(weight)
    backend = backend_of(x)
    if after == PLAIN:
        backend.batch_norm_backward(x, ct, mean_, rstd, weight, *gradients)
    else:
        backend.norm_epilogue_backward(x, y, ct, mean_, rstd, weight, *gradients, after.slope, after.p)
    return gradients


def _unfused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    _: Any = None,
    after: Epilogue = PLAIN,
    drawn: tuple[int, int] = NO_DRAW,
) -> Tensor:
    column, wide_x = (1, x.shape[1], 1), cast(x, computed(x.dtype))
    centred = wide_x - mean(wide_x, (0, 2), True)
    rstd = rsqrt(mean(square(centred), (0, 2), True) + eps)
    y = centred * (rstd * weight.reshape(column)) + bias.reshape(column)
    return redrawn(cast(y, x.dtype), after, drawn)


_normalize = fused("normalize", _kernel, _unfused, _backward)


def _affine_kernel(x: Any, scale: Any, shift: Any, after: Epilogue = PLAIN, drawn: tuple[int, int] = NO_DRAW) -> Any:
    y = empty_like(x)
    backend = backend_of(x)
    if after == PLAIN:
        backend.channel_affine(x, scale, shift, y)
    else:
        backend.norm_epilogue(backend.contiguous(x), scale, shift, y, after.slope, after.p, *drawn)
    return y, None


def _affine_unfused(
    x: Tensor, scale: Tensor, shift: Tensor, after: Epilogue = PLAIN, drawn: tuple[int, int] = NO_DRAW
) -> Tensor:
    column = (1, x.shape[1], 1)
    y = cast(x, computed(x.dtype)) * scale.reshape(column) + shift.reshape(column)
    return redrawn(cast(y, x.dtype), after, drawn)


_affine = fused("channel_affine", _affine_kernel, _affine_unfused)


def _constant(x: Tensor, count: int, value: float) -> Tensor:
    return Tensor(backend_of(x.data).full((count,), value, computed(x.dtype)))


def _as_channels(op: str, x: Tensor, channels: int, **vectors: Tensor | None) -> Tensor:
    for name, v in vectors.items():
        if v is not None and v.shape != (channels,):
            raise ValueError(f"{op}: {name} has shape {v.shape}, expected ({channels},)")
    return x.reshape(x.shape[0], channels, prod(x.shape[2:]))


def _update(running: Tensor | None, value: Any, momentum: float, factor: float = 1.0) -> None:
    """running += momentum*(factor*value - running)"""
    if running is not None:
        backend = backend_of(running.data)
        value = value if value.dtype == running.dtype else backend.cast(value, running.dtype)
        if factor != 1.0:
            scaled = empty_like(value)
            backend.unary("affine", value, scaled, factor, 0.0)
            value = scaled
        backend.lerp(running.data, value, momentum)
        running.version += 1


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    after: Epilogue | None = None,
    moments: list[Any] | None = None,
) -> Tensor:
    """Normalise every channel of x (N, C, *) over the batch and the positions, as torch.nn.functional.batch_norm.

    Parameters
    ----------
    running_mean, running_var : Tensor (C,), optional
        Updated in place when training: running += momentum*(new - running), the variance unbiased. Used, unchanged,
        when not training.
    weight, bias : Tensor (C,), optional
    momentum : float
        Weight of the new statistics (PyTorch's meaning: Keras's momentum is 1 minus this).
    after : Epilogue, optional
        Activation and dropout of the result, in the same pass.
    moments : list, optional
        The mean and the biased variance (C,) of x, arrays; they are computed if it is empty. Used when training.

    Raises
    ------
    ValueError
        If training with a single value per channel, or if statistics are missing when not training.
    """
    check_float("batch_norm", x=x)
    known_mean, known_var, weight, bias = channel_vectors(
        "batch_norm", "x", x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    if x.ndim < 2:
        raise ValueError(f"batch_norm: expected (N, C, *), got shape {x.shape}")
    C = x.shape[1]
    x3 = _as_channels("batch_norm", x, C, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    weight = _constant(x, C, 1) if weight is None else weight
    bias = _constant(x, C, 0) if bias is None else bias
    count = x.shape[0] * x3.shape[2]
    if after is not None and not count:
        plain = batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return unfused(plain, after)
    after = PLAIN if after is None else after
    if training:
        if count == 1:
            raise ValueError(f"batch_norm: training needs more than one value per channel, got shape {x.shape}")
        if count == 0:
            return x3.reshape(x.shape)
        statistics = [] if moments is None else moments
        y = _normalize(x3, weight, bias, params=(float(eps), statistics, after, after.draw(x.data.size)))
        _update(running_mean, statistics[0], momentum)
        _update(running_var, statistics[1], momentum, count / (count - 1))
        return y.reshape(x.shape)
    if known_mean is None or known_var is None:
        raise ValueError("batch_norm: running_mean and running_var are needed when training is False")
    scale = rsqrt(known_var + eps) * weight
    shift = bias - known_mean * scale
    return _affine(x3, scale, shift, params=(after, after.draw(x.data.size))).reshape(x.shape)


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise x over its last axes `normalized_shape`; weight and bias of that shape."""
    check_float("layer_norm", x=x)
    weight, bias = channel_vectors("layer_norm", "x", x, weight=weight, bias=bias)
    shape = (int(normalized_shape),) if is_int(normalized_shape) else tuple(normalized_shape)  # type: ignore[arg-type]
    if not shape or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"layer_norm: normalized_shape {shape} is not the end of x's shape {x.shape}")
    for name, v in (("weight", weight), ("bias", bias)):
        if v is not None and v.shape != shape:
            raise ValueError(f"layer_norm: {name} has shape {v.shape}, expected {shape}")
    rows = prod(x.shape[: x.ndim - len(shape)])
    y = _plain(cast(x, computed(x.dtype)).reshape(1, rows, prod(shape)), eps).reshape(x.shape)
    y = y if weight is None else y * weight
    return cast(y if bias is None else y + bias, x.dtype)


def _plain(x3: Tensor, eps: float) -> Tensor:
    """Each channel of x(1, C, L) normalised over L."""
    if prod(x3.shape) == 0:
        return x3
    return _normalize(x3, _constant(x3, x3.shape[1], 1), _constant(x3, x3.shape[1], 0), params=(float(eps),))


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalise every channel of every image of x (N, C, *) over its positions; weight and bias (C,)."""
    return group_norm(x, x.shape[1] if x.ndim > 1 else 1, weight, bias, eps)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise every group of channels of every image of x (N, C, *); weight and bias (C,)."""
    check_float("group_norm", x=x)
    weight, bias = channel_vectors("group_norm", "x", x, weight=weight, bias=bias)
    if x.ndim < 2 or not is_int(num_groups) or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"group_norm: num_groups={num_groups} must divide the channels of x (N, C, *), shape {x.shape}"
        )
    C = x.shape[1]
    _as_channels("group_norm", x, C, weight=weight, bias=bias)
    each = prod(x.shape[1:]) // num_groups
    y = _plain(cast(x, computed(x.dtype)).reshape(1, x.shape[0] * num_groups, each), eps).reshape(x.shape)
    column = (1, C) + (1,) * (x.ndim - 2)
    y = y if weight is None else y * weight.reshape(column)
    return cast(y if bias is None else y + bias.reshape(column), x.dtype)
