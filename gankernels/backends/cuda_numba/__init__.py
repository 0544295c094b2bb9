"""The Numba backend for CUDA: the kernels of csrc/core/kernels.inc compiled just in time, where there is a driver but
no compiled module (no nvcc, or a GPU that the compiled module does not cover).

What a step of training costs in launches, counted at the sizes of the recipes (the batch hardly matters), when it runs
in Python and when it is replayed (gankernels.ops.Replay, as the trainer does for the recipes): toy-gaussian 147 and 89,
quickstart 655 and 254; in every fourth step, with its gradient penalty, 171 and 111, 733 and 342. Replayed, elementwise
kernels and short sums on small arrays are joined into chains (chain.py): of toy-gaussian's 89, products are 33, of
quickstart's 254, convolutions, products and sums over images 100. A launch from Python costs 30 us of processor time, a
replayed one 1 to 2 us. On top comes what Numba itself needs for a launch.

Importing this package imports nothing else: a family of kernels is loaded when its first name is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gankernels.backends.cuda_numba.available import why_not

__all__ = ["FAMILIES", "name", "why_not"]

name = "cuda"

#: Module of this package -> the backend functions that it holds.
FAMILIES = {
    "convolution": "conv conv_transpose conv_weight",
    "upsample": "upsample_conv upsample_conv_transpose upsample_conv_weight upsample_nearest sum_blocks",
    "unshared": "local_conv local_conv_transpose local_conv_weight",
    "columns": "im2col col2im",
    "product": "matmul",
    "window": "max_window average_window spread_window gather_window scatter_window",
    "pointwise": "unary binary compare gate select copy copy_parts fill",
    "fused": "conv_epilogue conv_transpose_epilogue upsample_conv_epilogue matmul_epilogue epilogue_backward "
    "norm_epilogue norm_epilogue_backward",
    "reduce": "sum softmax log_softmax",
    "norm": "channel_moments channel_affine batch_norm_backward",
    "rows": "gather_rows scatter_rows",
    "random": "random_uniform random_normal dropout",
    "optim": "sgd_step adam_step rmsprop_step lerp",
    "arrays": "empty full cast contiguous from_host to_host synchronize memory_stats empty_cache",
    "recorded": "Recording Memory",
}
_HOME = {function: family for family, functions in FAMILIES.items() for function in functions.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
