"""The names of the kernels, and the functions of a compiled module under these names: the same for every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gankernels.backends.opcodes import BINARY, COMPARE, UNARY

__all__ = ["EPILOGUES", "KERNELS", "compiled"]

#: The kernels of csrc/core/kernels.inc, in its order; every backend has a function of each name.
KERNELS = (
    "conv",
    "conv_transpose",
    "conv_weight",
    "upsample_conv",
    "upsample_conv_transpose",
    "upsample_conv_weight",
    "local_conv",
    "local_conv_transpose",
    "local_conv_weight",
    "im2col",
    "col2im",
    "matmul",
    "upsample_nearest",
    "sum_blocks",
    "max_window",
    "gather_window",
    "scatter_window",
    "average_window",
    "spread_window",
    "unary",
    "binary",
    "compare",
    "gate",
    "select",
    "copy",
    "fill",
    "cast",
    "sum",
    "softmax",
    "log_softmax",
    "channel_moments",
    "channel_affine",
    "batch_norm_backward",
    "gather_rows",
    "scatter_rows",
    "random_uniform",
    "random_normal",
    "dropout",
    "sgd_step",
    "adam_step",
    "rmsprop_step",
    "lerp",
)
#: The kernels of csrc/core/epilogues.inc: those of the same names with what follows them, which every backend has too.
EPILOGUES = (
    "conv_epilogue",
    "conv_transpose_epilogue",
    "upsample_conv_epilogue",
    "matmul_epilogue",
    "epilogue_backward",
    "norm_epilogue",
    "norm_epilogue_backward",
)

_BY_NAME = ("unary", "binary", "compare", "copy", "cast")  # which the functions of a backend call in their own way


def compiled(native: Any, fit: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """The kernels of a compiled module as functions of a backend, by name; None where the module (None) is not built.

    fit : callable
        fit(a, y) is a view of a in y's shape.
    """

    def unary(op: str, x: Any, y: Any, p: float = 0.0, q: float = 0.0) -> None:
        """y = op(x; p, q) for every element."""
        native.unary(UNARY[op], x, y, p, q)

    def binary(op: str, a: Any, b: Any, y: Any) -> None:
        """y = op(a, b) for every element; a and b are broadcast to y's shape."""
        native.binary(BINARY[op], fit(a, y), fit(b, y), y)

    def compare(op: str, a: Any, b: Any, y: Any) -> None:
        """y (bool) = op(a, b) for every element; a and b are broadcast to y's shape."""
        native.compare(COMPARE[op], fit(a, y), fit(b, y), y)

    def copy(x: Any, y: Any) -> None:
        """y = x for every element; x is broadcast to y's shape."""
        native.copy(fit(x, y), y)

    plain = [name for name in (*KERNELS, *EPILOGUES, "Memory", "Recording") if name not in _BY_NAME]
    return {
        **{name: getattr(native, name, None) for name in plain},
        "unary": unary,
        "binary": binary,
        "compare": compare,
        "copy": copy,
    }
