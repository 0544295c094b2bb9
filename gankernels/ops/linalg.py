"""Matrix products: a form of three slots like convolution."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gankernels.autograd import Form, Tensor, compute_dtype
from gankernels.backends.opcodes import MATMUL_PRECISIONS
from gankernels.ops.common import as_tensor, empty_like, product_operands
from gankernels.ops.epilogue import Epilogue, Finish, call, opened
from gankernels.ops.shape import broadcast_to

__all__ = ["linear", "matmul"]


def _product(a: Any, b: Any, _: Any = None, finish: Finish | None = None) -> Any:
    """(B, M, K) by (B, K, N), any strides."""
    precision = MATMUL_PRECISIONS["bf16" if compute_dtype() == "bfloat16" else "full"]
    c = empty_like(a, (a.shape[0], a.shape[1], b.shape[2]))
    call("matmul", a, b, c, precision, finish=finish)
    return c


_matmul = Form(
    "matmul",
    a=lambda b, c, _: _product(c, b.swapaxes(1, 2)),
    b=lambda a, c, _: _product(a.swapaxes(1, 2), c),
    c=_product,
)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product with PyTorch's rules: vectors, matrices, and batches of matrices that broadcast.

    Parameters
    ----------
    a : Tensor (K,) or (*batch, M, K)
    b : Tensor (K,) or (*batch, K, N)
    """
    a, b = as_tensor("matmul", "a", a), as_tensor("matmul", "b", b)
    a, b, _ = product_operands("matmul", a=a, b=b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: expected at least one axis on both sides, got shapes {a.shape} and {b.shape}")
    left = a.reshape(1, *a.shape) if a.ndim == 1 else a
    right = b.reshape(*b.shape, 1) if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape} do not fit: {left.shape[-1]} columns "
            f"against {right.shape[-2]} rows"
        )
    M, N = left.shape[-2], right.shape[-1]
    if right.ndim == 2:  # one matrix for the whole batch: a single product of tall rows
        out = _matmul.open(
            "c", a=left.reshape(1, prod(left.shape[:-1]), left.shape[-1]), b=right.reshape(1, *right.shape)
        ).reshape(*left.shape[:-1], N)
    else:
        try:
            batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        except ValueError:
            raise ValueError(
                f"matmul: the batch axes of {a.shape} and {b.shape} cannot be broadcast together"
            ) from None
        stacked = [broadcast_to(t, (*batch, *t.shape[-2:])).reshape(prod(batch), *t.shape[-2:]) for t in (left, right)]
        out = _matmul.open("c", a=stacked[0], b=stacked[1]).reshape(*batch, M, N)
    if a.ndim == 1:
        out = out.reshape(*out.shape[:-2], N)
    return out.reshape(out.shape[:-1]) if b.ndim == 1 else out


def _product2(a: Any, b: Any, finish: Finish | None = None) -> Any:
    return _product(a[None], b[None], finish=finish)[0]


# y (M, O) = x (M, I) w (O, I)^T: every gradient comes out row-major, as the optimizers want it
_linear = Form(
    "linear",
    x=lambda w, y, _: _product2(y, w),
    w=lambda x, y, _: _product2(y.T, x),
    y=lambda x, w, _, finish=None: _product2(x, w.T, finish),
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, after: Epilogue | None = None) -> Tensor:
    """x weight^T + bias: x (*, I), weight (O, I), bias (O,); `after` is applied to it."""
    x, weight, bias = product_operands("linear", bias, x=x, weight=weight)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: x of shape {x.shape} does not fit weight of shape {weight.shape} (O, I)")
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(f"linear: bias has shape {bias.shape}, expected ({weight.shape[0]},)")
    rows = x if x.ndim == 2 else x.reshape(prod(x.shape[:-1]), x.shape[-1])
    y = opened(_linear, "y", None, bias, after, x=rows, w=weight)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[0])
