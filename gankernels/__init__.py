"""gankernels: kernels and GAN training for fast calorimeter simulation.

`import gankernels as gk` needs NumPy only; it opens no GPU and starts no thread.
"""

from __future__ import annotations

import importlib
from typing import Any

from gankernels import nn, ops, optim
from gankernels.autograd import Tensor, grad, is_recording, no_grad
from gankernels.backends import DeviceError
from gankernels.backends.cpu import num_threads, set_num_threads
from gankernels.nn.fusion import fusion, set_fusion
from gankernels.ops import (
    Generator,
    abs,
    amax,
    amin,
    cat,
    clamp,
    conv_algorithm,
    cos,
    exp,
    from_array,
    full,
    index_select,
    log,
    manual_seed,
    matmul,
    maximum,
    mean,
    minimum,
    ones,
    ones_like,
    rand,
    randn,
    set_conv_algorithm,
    sigmoid,
    sin,
    softmax,
    sqrt,
    stack,
    sum,
    tanh,
    tensor,
    where,
    zeros,
    zeros_like,
)

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "Generator",
    "Tensor",
    "abs",
    "amax",
    "amin",
    "cat",
    "clamp",
    "conv_algorithm",
    "cos",
    "exp",
    "from_array",
    "full",
    "fusion",
    "grad",
    "index_select",
    "is_recording",
    "log",
    "manual_seed",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "nn",
    "no_grad",
    "num_threads",
    "ones",
    "ones_like",
    "ops",
    "optim",
    "rand",
    "randn",
    "set_conv_algorithm",
    "set_fusion",
    "set_num_threads",
    "sigmoid",
    "sin",
    "softmax",
    "sqrt",
    "stack",
    "sum",
    "tanh",
    "tensor",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> Any:
    """The rooms that not every program needs, imported at their first use."""
    if name in ("calo", "gan", "info", "interop", "testing"):
        return importlib.import_module(f"gankernels.{name}")
    raise AttributeError(f"module 'gankernels' has no attribute {name!r}")
