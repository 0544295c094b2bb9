"""A convolution that finishes its results on their way to memory gives the bits of the two kernels one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gankernels import _cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import conv_geometry

pytestmark = pytest.mark.cpu_only

# x, w, options: batches of less and more than a vector, cut rows, pieces of long rows, groups, blocks of channels of
# several sizes, and strides that leave outputs of the transposed convolution without any tap
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "volume": ((17, 3, 6, 5, 7), (11, 3, 3, 3, 3), {"padding": 1}),
    "one channel": ((16, 1, 7, 7, 25), (32, 1, 5, 5, 5), {"padding": 2}),
    "single image": ((1, 2, 9, 20), (5, 2, 3, 3), {"padding": ((0, 1), (2, 1))}),
    "groups": ((4, 4, 12), (6, 2, 4), {"groups": 2, "dilation": 2}),
    "long row": ((1, 2, 9000), (3, 2, 4), {}),
    "gaps": ((3, 2, 8, 9), (4, 2, 2, 2), {"stride": (3, 4)}),
    "empty": ((0, 2, 8, 9), (4, 2, 2, 2), {}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ["auto", "batch", "rows", "channels", "fft", "bf16"])
@pytest.mark.parametrize("kernel", ["conv", "conv_transpose"])
@pytest.mark.parametrize("name", CASES)
def test_the_epilogue_at_the_store_gives_the_bits_of_the_one_after_it(
    name: str, kernel: str, algorithm: str, dtype: type
) -> None:
    x_shape, w_shape, options = CASES[name]
    g = conv_geometry("test", x_shape, w_shape, **options)
    rng = np.random.default_rng(1)
    given, result = (g.x_shape, g.y_shape) if kernel == "conv" else (g.y_shape, g.x_shape)
    a, w = rng.standard_normal(given).astype(dtype), rng.standard_normal(g.w_shape).astype(dtype)
    code = CONV_ALGORITHMS[algorithm]
    for bias in (np.zeros(0, dtype), rng.standard_normal(result[1]).astype(dtype)):
        for slope, p in ((1.0, 0.0), (0.2, 0.0), (0.0, 0.3), (1.0, 0.3)):
            want, got = np.full(result, np.nan, dtype), np.full(result, np.nan, dtype)
            getattr(_cpu, kernel)(a, w, want, g.pod, code)
            _cpu.epilogue(want.reshape(*result[:2], -1) if want.size else want, bias, slope, p, 7, 5)
            getattr(_cpu, kernel + "_epilogue")(a, w, got, g.pod, code, bias, slope, p, 7, 5)
            assert got.tobytes() == want.tobytes(), (slope, p, bias.size)
