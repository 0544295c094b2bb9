"""The numbers of the pointwise operations, in the order of csrc/core/operators.hpp (a test compares the two)."""

from __future__ import annotations

__all__ = ["BINARY", "COMPARE", "CONV_ALGORITHMS", "MATMUL_PRECISIONS", "UNARY"]


def _numbered(names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(names.split())}


UNARY = _numbered(
    "negate absolute sign exp expm1 log log1p sqrt rsqrt reciprocal square sin cos tanh sigmoid erf floor round "
    "affine power clamp clamp_mask leaky_relu elu softplus"
)
BINARY = _numbered("add subtract multiply divide maximum minimum power atan2")
COMPARE = _numbered("equal not_equal less less_equal greater greater_equal")
CONV_ALGORITHMS = _numbered(
    "auto direct im2col fft fast channels tf32 bf16 measured measured_fast bf16_auto bf16_fast batch rows"
)
MATMUL_PRECISIONS = _numbered("full tf32 bf16")
