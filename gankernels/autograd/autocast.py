"""Products in bfloat16: a context that says so, noted by the tape for the gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from gankernels.autograd.tape import computing

__all__ = ["autocast"]

_DTYPES = ("bfloat16", "float32")
_Function = TypeVar("_Function", bound=Callable[..., Any])
_entered = threading.local()


class autocast:
    """Context manager and decorator: products of float32 tensors are computed in bfloat16.

    Inside it, in this thread, `conv`, `conv_transpose`, `conv_weight`, `upsample_conv`, `matmul` and `linear` (the
    layers that are made of them too) round their float32 operands to bfloat16 (8 bits, ties to even) and sum the
    products in float32. The gradients of what is recorded inside, of every order, are computed in the same way wherever
    they are pulled back; those of what is recorded outside are not.

    On the CPU everything else stays float32: normalisation, activations, biases, losses, reductions, locally connected
    convolution, and all tensors in memory. On device="cuda" the operands, the results and what is made of them are
    stored as bfloat16, half the memory and half the traffic: activations, normalisation, pooling and dropout read and
    write it and compute in float32; locally connected convolution takes part; sums, means, norms, softmax and losses
    are float32. Parameters, their gradients, statistics and optimizers are float32 on both. Outside of the block, and
    in a float32 block inside it, such results want `.float()` beside float32. Loss scaling is not needed, for bfloat16
    has the range of float32. float64 tensors are not touched.

    Parameters
    ----------
    dtype : str or None
        "bfloat16"; "float32" or None: plain float32, also inside another autocast.

    Raises
    ------
    ValueError
        For another dtype.

    Notes
    -----
    Errors are near 2^-8 of the sum of the products' absolute values for each output. On the CPU, processors with
    AVX512-BF16 multiply pairs of bfloat16 numbers where that is predicted to be faster; others, and other paths, round
    the operands and multiply in float32: the same errors, no gain. Where `set_conv_algorithm` allows FFT ("auto": for
    gradients and hidden values) and it is predicted to be faster still, it runs in float32 with nothing rounded. An
    algorithm that is chosen by name ("direct", "fft", ...) keeps its own arithmetic. `upsample_conv` rounds the sums of
    weights that it multiplies. Numbers below 1.2e-38 count as zero; NaN and infinities stay what they are. On
    device="cuda" the products run on tensor cores; the Numba backend computes and stores all of it in float32.

    Examples
    --------
    >>> import gankernels as gk
    >>> a = gk.full((1, 1), 1.001)
    >>> with gk.autocast("bfloat16"):
    ...     (a @ gk.ones(1, 1)).item()
    1.0
    """

    def __init__(self, dtype: str | None) -> None:
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"autocast: expected {', '.join(map(repr, _DTYPES))} or None, got {dtype!r}")
        self.dtype = None if dtype == "float32" else dtype

    def __enter__(self) -> None:
        block = computing(self.dtype)
        block.__enter__()
        _entered.__dict__.setdefault("blocks", []).append(block)  # a stack: one object may be entered twice

    def __exit__(self, *raised: Any) -> None:
        _entered.blocks.pop().__exit__(*raised)

    def __call__(self, function: _Function) -> _Function:
        """Decorate a function."""

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with computing(self.dtype):
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]
