"""Random numbers by counter (Philox 4x32-10, Salmon et al., SC'11): a Generator is a seed and a position, nothing more.

Each call takes as many blocks of counters as it fills, so a stored (seed, offset) continues exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gankernels.autograd import Form, Tensor
from gankernels.backends import backend_of, get, recording
from gankernels.dtypes import is_float
from gankernels.geometry import is_int
from gankernels.ops.common import check_float, empty_like, extents, kept_dtype

__all__ = ["Generator", "default_generator", "dropout", "manual_seed", "rand", "randn"]


class Generator:
    """A stream of random numbers.

    Parameters
    ----------
    seed : int
        0 to 2**64 - 1.
    offset : int
        Number of counter blocks already used.

    Examples
    --------
    >>> import gankernels as gk
    >>> gk.Generator(1).normal((2,)).shape
    (2,)
    """

    def __init__(self, seed: int = 0, offset: int = 0) -> None:
        for name, value in (("seed", seed), ("offset", offset)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= value < 2**64:
                raise ValueError(f"Generator: {name} must be an int from 0 to 2**64 - 1, got {value!r}")
        self.seed = int(seed)
        self.offset = int(offset)

    def __repr__(self) -> str:
        return f"Generator(seed={self.seed}, offset={self.offset})"

    def manual_seed(self, seed: int) -> Generator:
        """Start again from a seed."""
        recording.forbid("a random stream was given a seed")
        self.__init__(seed)  # type: ignore[misc]
        return self

    def state(self) -> dict[str, int]:
        """What is needed to continue: {"seed", "offset"}."""
        return {"seed": self.seed, "offset": self.offset}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state."""
        recording.forbid("a random stream was restored")
        self.__init__(state["seed"], state["offset"])  # type: ignore[misc]

    def spawn(self, index: int) -> Generator:
        """An independent stream, the same for the same (seed, index)."""
        seed = np.random.SeedSequence([self.seed, int(index)]).generate_state(1, np.uint64)[0]
        return Generator(int(seed))

    def take(self, elements: int) -> int:
        """Reserve counters for so many elements; the block where they begin."""
        start = self.offset
        self.offset += (elements + 1) // 2  # a block holds four float32 or two float64
        if recording.active is not None:
            recording.drawn(self, start, self.offset)
        return start

    def _filled(self, kernel: str, shape: Any, dtype: Any, device: str | None) -> Tensor:
        backend = get(device)
        found = kept_dtype(kernel, dtype, backend)
        if not is_float(found):
            raise TypeError(f"{kernel}: dtype {found} is not supported; use float32 or float64")
        y = backend.empty(extents(kernel, shape), found)
        getattr(backend, kernel)(y, self.seed, self.take(y.size))
        return Tensor(y)

    def uniform(self, shape: Any, dtype: Any = np.float32, device: str | None = None) -> Tensor:
        """Uniform numbers in [0, 1), made on the device (None: the default device)."""
        return self._filled("random_uniform", shape, dtype, device)

    def normal(self, shape: Any, dtype: Any = np.float32, device: str | None = None) -> Tensor:
        """Normal numbers of mean 0 and standard deviation 1, made on the device (None: the default device)."""
        return self._filled("random_normal", shape, dtype, device)

    def integers(self, high: int, shape: Any, device: str | None = None) -> Tensor:
        """int64 numbers from 0 to high - 1; high at most 2**31."""
        if not is_int(high) or not 1 <= high <= 2**31:
            raise ValueError(f"Generator.integers: high must be an int from 1 to 2**31, got {high!r}")
        u = self.uniform(shape, np.float64, device).data
        backend = backend_of(u)
        backend.unary("affine", u, u, float(high), 0.0)
        return Tensor(backend.cast(u, np.int64))


_default = Generator(0)


def default_generator() -> Generator:
    """The stream used where none is given."""
    return _default


def manual_seed(seed: int) -> Generator:
    """Start the default stream again from a seed."""
    return _default.manual_seed(seed)


def rand(*shape: Any, dtype: Any = np.float32, device: str | None = None, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1); shape as ints or one tuple."""
    return (generator or _default).uniform(shape[0] if len(shape) == 1 else shape, dtype, device)


def randn(
    *shape: Any, dtype: Any = np.float32, device: str | None = None, generator: Generator | None = None
) -> Tensor:
    """Normal numbers of mean 0 and standard deviation 1; shape as ints or one tuple."""
    return (generator or _default).normal(shape[0] if len(shape) == 1 else shape, dtype, device)


def _dropout_kernel(x: Any, p: tuple[float, int, int]) -> Any:
    y = empty_like(x)
    backend_of(x).dropout(x, y, *p)
    return y


_dropout = Form("dropout", x=_dropout_kernel, y=_dropout_kernel)  # the same mask both ways: self-adjoint


def masked(x: Tensor, p: float, seed: int, offset: int) -> Tensor:
    """dropout with the mask that starts at a counter."""
    return _dropout.open("y", (p, seed, offset), x=x)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1 - p); x itself when not training.

    The mask is recomputed from the generator's counters, never stored.
    """
    check_float("dropout", x=x)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p must be between 0 and 1, got {p}")
    if not training or p == 0.0:
        return x
    stream = generator or _default
    return masked(x, float(p), stream.seed, stream.take(x.data.size))
