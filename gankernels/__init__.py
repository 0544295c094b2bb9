"""gankernels: kernels and GAN training for fast calorimeter simulation.

`import gankernels as gk` needs NumPy only; it opens no GPU and starts no thread.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gankernels import nn, ops, optim
from gankernels._device import empty_cache, memory_stats, reset_peak_memory, set_memory_limit, synchronize
from gankernels._warmup import warmup
from gankernels.autograd import Tensor, autocast, enable_grad, grad, is_recording, no_grad
from gankernels.backends import DeviceError, device, set_default_device
from gankernels.backends import default_device as get_default_device
from gankernels.backends.cpu import num_threads, set_num_threads
from gankernels.nn.fusion import fusion, set_fusion
from gankernels.ops import (
    ConvPlan,
    Generator,
    Replay,
    abs,
    allclose,
    amax,
    amin,
    arange,
    cat,
    ceil,
    chunk,
    clamp,
    conv_algorithm,
    conv_plan,
    cos,
    exp,
    eye,
    flip,
    from_array,
    full,
    index_select,
    isfinite,
    isinf,
    isnan,
    linspace,
    log,
    log2,
    log10,
    log_softmax,
    manual_seed,
    masked_fill,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    norm,
    ones,
    ones_like,
    pad,
    prod,
    rand,
    randn,
    relu,
    repeat,
    set_conv_algorithm,
    sigmoid,
    sin,
    softmax,
    split,
    sqrt,
    stack,
    std,
    sum,
    tanh,
    tensor,
    tile,
    unbind,
    var,
    where,
    zeros,
    zeros_like,
)

__version__ = "0.1.0"

float32, float64, int64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
is_grad_enabled = is_recording

__all__ = [
    "ConvPlan",
    "DeviceError",
    "Generator",
    "Replay",
    "Tensor",
    "abs",
    "allclose",
    "amax",
    "amin",
    "arange",
    "autocast",
    "cat",
    "ceil",
    "chunk",
    "clamp",
    "conv_algorithm",
    "conv_plan",
    "cos",
    "device",
    "empty_cache",
    "enable_grad",
    "exp",
    "eye",
    "flip",
    "float32",
    "float64",
    "from_array",
    "full",
    "fusion",
    "get_default_device",
    "grad",
    "index_select",
    "int64",
    "is_grad_enabled",
    "is_recording",
    "isfinite",
    "isinf",
    "isnan",
    "linspace",
    "log",
    "log2",
    "log10",
    "log_softmax",
    "manual_seed",
    "masked_fill",
    "matmul",
    "max",
    "maximum",
    "mean",
    "memory_stats",
    "min",
    "minimum",
    "nn",
    "no_grad",
    "norm",
    "num_threads",
    "ones",
    "ones_like",
    "ops",
    "optim",
    "pad",
    "prod",
    "rand",
    "randn",
    "relu",
    "repeat",
    "reset_peak_memory",
    "set_conv_algorithm",
    "set_default_device",
    "set_fusion",
    "set_memory_limit",
    "set_num_threads",
    "sigmoid",
    "sin",
    "softmax",
    "split",
    "sqrt",
    "stack",
    "std",
    "sum",
    "synchronize",
    "tanh",
    "tensor",
    "tile",
    "unbind",
    "var",
    "warmup",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> Any:
    """The rooms that not every program needs, imported at their first use, and the dtype of another package."""
    if name in ("calo", "gan", "info", "interop", "testing"):
        return importlib.import_module(f"gankernels.{name}")
    if name == "bfloat16":
        return importlib.import_module("gankernels.dtypes").bfloat16()
    raise AttributeError(f"module 'gankernels' has no attribute {name!r}")
