"""Sizes and arguments at and beyond the edge: the right answer, or an error that names the operation and the values."""

from __future__ import annotations

import mmap
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import ops
from gankernels.backends import cpu
from gankernels.testing.bounds import assert_same_bits

zeros, ones = gk.zeros, gk.ones
i64 = np.int64


def huge(*shape: int) -> gk.Tensor:
    """A tensor of one number seen everywhere: any shape, four bytes."""
    return gk.from_array(np.broadcast_to(np.float32(1), shape))


Refusal = tuple[Callable[[], Any], type[Exception], str]

CONV: list[Refusal] = [
    (lambda: ops.conv(zeros(2, 6, 5, 5), zeros(8, 2, 3, 3), groups=2), ValueError,
     r"conv: x has 6 channels, w expects 4 \(w\.shape=\(8, 2, 3, 3\), groups=2\)"),
    (lambda: ops.conv(zeros(2, 6, 5, 5), zeros(8, 2, 3, 3), groups=4), ValueError, r"conv: groups=4 must divide the 6"),
    (lambda: ops.conv(zeros(2, 4, 5, 5), zeros(7, 2, 3, 3), groups=2),
     ValueError, r"conv: groups=2 must divide .* 7 of w"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), groups=0),
     ValueError, "conv: groups must be an int of at least 1, got 0"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), groups=True), ValueError, "conv: groups .* got True"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), groups=1.0), ValueError, r"conv: groups .* got 1\.0"),
    (lambda: ops.conv(zeros(2, 4), zeros(8, 4)),
     ValueError, r"conv: expected 1, 2 or 3 spatial axes, got x of shape \(2, 4\)"),
    (lambda: ops.conv(zeros(1, 1, 1, 1, 1, 1), zeros(1, 1, 1, 1, 1, 1)),
     ValueError, "conv: expected 1, 2 or 3 spatial axes"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3, 3)),
     ValueError, r"conv: x has 3 axes .* w must have 3, got shape \(8, 4, 3, 3\)"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 0)),
     ValueError, r"conv: every kernel extent .* got w of shape \(8, 4, 0\)"),
    (lambda: ops.conv(zeros(2, 4, 3, 3), zeros(8, 4, 4, 3)), ValueError,
     r"conv: kernel \(4, 3\) with dilation \(1, 1\) does not fit into x of extents \(3, 3\) .* 3 cells and needs 4"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), dilation=3),
     ValueError, r"conv: kernel \(3,\) with dilation \(3,\)"),
    (lambda: ops.conv(zeros(2, 4, 0), zeros(8, 4, 1)), ValueError, r"conv: kernel .* x of extents \(0,\)"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=0),
     ValueError, "conv: stride must be at least 1 .* got 0"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=-1),
     ValueError, "conv: stride must be at least 1 .* got -1"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=1.5),
     TypeError, r"conv: stride must be an int or 1 ints, got 1\.5"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=True), TypeError, "conv: stride .* got True"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride="2"), TypeError, "conv: stride .* got '2'"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=None), TypeError, "conv: stride .* got None"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=(1, 2)), TypeError, r"conv: stride .* got \(1, 2\)"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=np.array([1, 2])), TypeError, "conv: stride"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), stride=2**31),
     ValueError, "conv: stride must be at most 2147483647"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), dilation=0), ValueError, "conv: dilation must be at least 1"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding=-1),
     ValueError, "conv: padding must be at least 0 .* got -1"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding=2**31),
     ValueError, "conv: padding must be at most .* 2147483648"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding=((0, 2**31),)),
     ValueError, "conv: padding must be between 0 and"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding=((0, -1),)),
     ValueError, "conv: padding must be between 0 and"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding=((0, 1, 2),)),
     TypeError, "conv: padding as pairs must be 1 pairs"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding=((0, 1), (0, 1))), TypeError, "conv: padding as pairs"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), padding="full"),
     ValueError, "conv: padding must be .* got 'full'"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3), zeros(4)),
     ValueError, r"conv: bias has shape \(4,\), expected \(8,\)"),
    (lambda: ops.conv(zeros(2, 4, 5), zeros(8, 4, 3, dtype=np.float64)),
     TypeError, "conv: w has dtype float64, x has float32"),
    (lambda: ops.conv(zeros(2, 4, 5, dtype=i64), zeros(8, 4, 3)),
     TypeError, "conv: x has dtype int64; expected float32 or"),
    (lambda: ops.conv(np.zeros((2, 4, 5)), zeros(8, 4, 3)), TypeError, "conv: x must be a Tensor, got ndarray"),
    (lambda: ops.conv([[[1.0]]], zeros(8, 4, 3)), TypeError, "conv: x must be a Tensor, got list"),
    (lambda: ops.conv(zeros(2, 4, 5), "weight"), TypeError, "conv: w must be a Tensor, got str"),
    (lambda: ops.conv_transpose(zeros(2, 4, 5), zeros(3, 4, 3)),
     ValueError, "conv_transpose: the input has 4 channels, w expects 3"),
    (lambda: ops.conv_transpose(zeros(2, 4, 5), zeros(4, 2, 3), output_padding=1), ValueError,
     r"conv_transpose: output_padding must be smaller than stride or dilation, got \(1,\)"),
    (lambda: ops.conv_transpose(zeros(2, 4, 1), zeros(4, 2, 1), padding=1),
     ValueError, "conv_transpose: the output would have"),
    (lambda: ops.conv_transpose(zeros(2, 4, 5), zeros(4, 2, 3), groups=3),
     ValueError, "conv_transpose: groups=3 must divide"),
    (lambda: ops.conv_transpose(zeros(2, 4, 5), zeros(4, 2, 3), zeros(3)),
     ValueError, r"conv_transpose: bias has shape \(3,\)"),
    (lambda: ops.conv_weight(zeros(2, 4, 5), zeros(2, 3, 9), 2),
     ValueError, r"conv_weight: y has shape \(2, 3, 9\).*\(2, 3, 4\)"),
    (lambda: ops.conv_weight(zeros(2), zeros(2), 2),
     ValueError, r"conv_weight: expected x \(N, C, \*X\).*got shape \(2,\)"),
    (lambda: ops.conv_weight(zeros(2, 4, 5), zeros(2, 3, 4), 2, groups=3), ValueError, "conv_weight: .*groups=3"),
    (lambda: ops.local_conv(zeros(2, 3, 5), zeros(4, 3, 3)), ValueError, "local_conv: .* w must have 4 axes"),
    (lambda: ops.local_conv(zeros(2, 3, 5), zeros(4, 3, 9, 3)),
     ValueError, r"local_conv: w has shape .* expected .* \(4, 3, 3, 3\)"),
    (lambda: ops.local_conv(zeros(2, 3, 5), zeros(4, 3, 3, 3), zeros(4)),
     ValueError, r"local_conv: bias has shape \(4,\)"),
    (lambda: ops.im2col(zeros(2, 3), 2), ValueError, r"im2col: expected x .* got shape \(2, 3\)"),
    (lambda: ops.im2col(zeros(2, 3, 4), 5), ValueError, r"im2col: kernel \(5,\)"),
    (lambda: ops.col2im(zeros(2, 6, 3), 4, 2), TypeError, "col2im: output_size must be 1 to 3 ints, got 4"),
    (lambda: ops.col2im(zeros(2, 5, 3), (4,), 2), ValueError, r"col2im: cols must be \(N, C\*2, P\)"),
    (lambda: ops.col2im(zeros(2, 6, 4), (4,), 2), ValueError, r"col2im: cols have shape \(2, 6, 4\)"),
    (lambda: ops.set_conv_algorithm("winograd"),
     ValueError, "set_conv_algorithm: expected one of auto, direct, im2col, fft, fast, channels, .* got 'winograd'"),
]  # fmt: skip

WINDOWS: list[Refusal] = [
    (lambda: ops.max_pool(zeros(2, 3, 4), 5),
     ValueError, r"max_pool: window \(5,\) .* does not fit into x of extents \(4,\)"),
    (lambda: ops.max_pool(zeros(2, 3, 4), 2, padding=2),
     ValueError, "max_pool: padding must be at most half the kernel"),
    (lambda: ops.max_pool(zeros(2, 3, 4), 0), ValueError, "max_pool: kernel_size must be at least 1"),
    (lambda: ops.max_pool(zeros(2, 3, 4), 2.0), TypeError, r"max_pool: kernel_size must be an int .* got 2\.0"),
    (lambda: ops.max_pool(zeros(2, 3, 4), 2, 0), ValueError, "max_pool: stride must be at least 1"),
    (lambda: ops.max_pool(zeros(2, 3, 0), 1), ValueError, r"max_pool: window .* x of extents \(0,\)"),
    (lambda: ops.max_pool(zeros(2, 3), 1), ValueError, r"max_pool: expected \(N, C, \*X\).*got shape \(2, 3\)"),
    (lambda: ops.max_pool(zeros(1, 1, 3), 2, 1, 1, dilation=4),
     ValueError, r"max_pool: dilation \(4,\) is larger than x"),
    (lambda: ops.max_pool(zeros(2, 3, 4, dtype=i64), 2), TypeError, "max_pool: x has dtype int64"),
    (lambda: ops.avg_pool(zeros(2, 3, 4), 2, padding=2),
     ValueError, "avg_pool: padding must be at most half the kernel"),
    (lambda: ops.avg_pool(zeros(2, 3, 4), 2, divisor_override=0), ValueError, "avg_pool: divisor_override .* got 0"),
    (lambda: ops.avg_pool(zeros(2, 3, 4), 2, divisor_override=2**40),
     ValueError, "avg_pool: divisor_override .* 1099511627776"),
    (lambda: ops.avg_pool([1.0], 2), TypeError, "avg_pool: x must be a Tensor, got list"),
    (lambda: ops.upsample_nearest(zeros(2, 3, 4), 0), ValueError, "upsample_nearest: factors must be at least 1"),
    (lambda: ops.upsample_nearest(zeros(2, 3, 4), 1.5),
     TypeError, r"upsample_nearest: factors must be an int .* got 1\.5"),
    (lambda: ops.upsample_nearest(zeros(2, 3, 4), (1, 2)), TypeError, r"upsample_nearest: factors .* got \(1, 2\)"),
    (lambda: ops.upsample_nearest(zeros(2, 3), 2), ValueError, "upsample_nearest: expected"),
    (lambda: ops.sum_blocks(zeros(2, 3, 5), 2),
     ValueError, r"sum_blocks: extents \(5,\) are not multiples of factors \(2,\)"),
]  # fmt: skip

OTHERS: list[Refusal] = [
    (lambda: ops.matmul(zeros(2, 3), zeros(4, 5)),
     ValueError, r"matmul: shapes \(2, 3\) and \(4, 5\) do not fit: 3 columns"),
    (lambda: ops.matmul(zeros(2, 2, 3), zeros(3, 3, 4)),
     ValueError, r"matmul: the batch axes of \(2, 2, 3\) and \(3, 3, 4\)"),
    (lambda: ops.matmul(gk.tensor(1.0), zeros(2)), ValueError, "matmul: expected at least one axis"),
    (lambda: ops.matmul(zeros(2, 2), 3.0), TypeError, "matmul: b must be a Tensor, got float"),
    (lambda: ops.matmul(zeros(2, 2, dtype=i64), zeros(2, 2, dtype=i64)), TypeError, "matmul: a has dtype int64"),
    (lambda: ops.linear(zeros(2, 3), zeros(4, 5)),
     ValueError, r"linear: x of shape \(2, 3\) .* weight of shape \(4, 5\)"),
    (lambda: ops.linear(zeros(2, 3), zeros(4, 3), zeros(1)),
     ValueError, r"linear: bias has shape \(1,\), expected \(4,\)"),
    (lambda: zeros(2, 3) + zeros(4), ValueError, r"add: shapes \(2, 3\) and \(4,\) cannot be broadcast together"),
    (lambda: zeros(2) + "1", TypeError, "add: .* must be a Tensor, got str"),
    (lambda: zeros(2) * [1.0, 2.0], TypeError, "mul: .* must be a Tensor, got list"),
    (lambda: zeros(2) / None, TypeError, "div: .* must be a Tensor, got NoneType"),
    (lambda: ops.maximum(zeros(2), zeros(3)), ValueError, r"maximum: shapes \(2,\) and \(3,\)"),
    (lambda: gk.tensor([True]) - gk.tensor([True]), TypeError, "sub: bool tensors cannot be subtracted"),
    (lambda: gk.tensor([2]) ** gk.tensor([-1]), ValueError, "pow: integers cannot be raised to negative powers"),
    (lambda: ops.exp(gk.tensor([1])), TypeError, "exp: x has dtype int64; expected float32 or float64"),
    (lambda: ops.exp(1.0), TypeError, "exp: x must be a Tensor, got float"),
    (lambda: ops.clamp(zeros(2)), ValueError, "clamp: at least one of min and max"),
    (lambda: ops.clamp(zeros(2), "0"), TypeError, "clamp: min must be a number, got str"),
    (lambda: ops.where(zeros(2), 1.0, 0.0), TypeError, "where: condition must be a bool Tensor, got float32"),
    (lambda: ops.where(zeros(2) > 0, zeros(3), 0.0), ValueError, r"where: shapes \(2,\), \(3,\) and \(\)"),
    (lambda: zeros(2, 3).sum(2), IndexError, "sum: dim 2 is out of range for a tensor of 2 axes"),
    (lambda: zeros(2, 3).sum((0, -2)), ValueError, "sum: dim .* names an axis twice"),
    (lambda: zeros(2, 3).mean(1.0), TypeError, r"mean: dim must be an int, got 1\.0"),
    (lambda: zeros(2, 3).sum(True), TypeError, "sum: dim must be an int, got True"),
    (lambda: zeros(2, 0).max(1), ValueError, r"max: axis 1 of shape \(2, 0\) is empty"),
    (lambda: ops.softmax(zeros(2), 1), IndexError, "softmax: dim 1 is out of range"),
    (lambda: zeros(2, 3).reshape(4, -1), ValueError, r"reshape: \(2, 3\) \(6 elements\) does not fit into \(4, -1\)"),
    (lambda: zeros(2, 3).reshape(-1, -1), ValueError, r"reshape: .* does not fit into \(-1, -1\)"),
    (lambda: zeros(2, 3).reshape(2.0, 3), TypeError, r"reshape: expected ints, got \(2\.0, 3\)"),
    (lambda: zeros(0).reshape(2**32, 2**32), ValueError, "reshape: .* does not fit"),
    (lambda: zeros(1).reshape((1,) * 9), ValueError, "reshape: .* has 9 axes; the limit is 8"),
    (lambda: zeros(2, 3).permute(0, 0), ValueError, r"permute: \(0, 0\) is not an order of the 2 axes"),
    (lambda: zeros(2, 3).transpose(0, 2), IndexError, "transpose: dim 2"),
    (lambda: zeros(2, 3).flatten(1, 0), ValueError, "flatten: start_dim 1 comes after end_dim 0"),
    (lambda: zeros(2, 3).expand(2, 4), ValueError, r"broadcast_to: shape \(2, 3\) cannot be broadcast to \(2, 4\)"),
    (lambda: zeros(1).expand(2**50), ValueError, "broadcast_to: shape .* elements; the limit is"),
    (lambda: zeros(2, 3)[5], IndexError, r"index: .*shape \(2, 3\)"),
    (lambda: zeros(2, 3)[0, 0, 0], IndexError, r"index: .*shape \(2, 3\)"),
    (lambda: zeros(2, 3)[[0, 7]], IndexError, r"index: index 0\.\.7 is out of range for 2 rows"),
    (lambda: zeros(2, 3)[[0.5]], IndexError, "index: an index must hold integers or bool, got dtype float64"),
    (lambda: zeros(2, 3)["a"], IndexError, "index: an index must hold integers or bool"),
    (lambda: zeros(2, 3)[gk.tensor([True])], IndexError, r"index: a mask of shape \(1,\)"),
    (lambda: ops.cat([]), ValueError, "cat: expected at least one tensor"),
    (lambda: ops.cat([zeros(2, 3), zeros(3, 3)], 1),
     ValueError, r"cat: tensor 1 has shape \(3, 3\), tensor 0 \(2, 3\); only axis 1"),
    (lambda: ops.cat([zeros(2), [1.0]]), TypeError, "cat: tensor 1 must be a Tensor, got list"),
    (lambda: ops.stack([zeros(2), zeros(3)]), ValueError, r"stack: tensor 1 has shape \(3,\), tensor 0 \(2,\)"),
    (lambda: ops.pad(zeros(2), (1,)), ValueError, "pad: padding must hold up to 1 pairs"),
    (lambda: ops.pad(zeros(2), (-2, -1)), ValueError, r"pad: padding \(-2, -1\) crops more than shape \(2,\) has"),
    (lambda: ops.pad(zeros(2), (0.5, 1)), TypeError, "pad: padding must be ints"),
    (lambda: ops.pad(zeros(2), (1, 1), "reflect"), ValueError, "pad: mode 'reflect' is not supported"),
    (lambda: ops.pad(zeros(2), (2**50, 0)), ValueError, "pad: shape .* elements; the limit is"),
    (lambda: ops.embedding([5], zeros(5, 2)), IndexError, r"embedding: index 5\.\.5 is out of range for 5 rows"),
    (lambda: ops.embedding([-1], zeros(5, 2)), IndexError, "embedding: index -1 is negative"),
    (lambda: ops.embedding([1.0], zeros(5, 2)),
     TypeError, "embedding: the index must hold integers, got dtype float64"),
    (lambda: ops.embedding([1], zeros(5)), ValueError, r"embedding: weight must have two axes .* got shape \(5,\)"),
    (lambda: ops.index_select(zeros(2), 0, [[0]]),
     ValueError, r"index_select: the index must have one axis, got shape \(1, 1\)"),
    (lambda: ops.batch_norm(zeros(1, 3), None, None, training=True),
     ValueError, r"batch_norm: training needs more .*\(1, 3\)"),
    (lambda: ops.batch_norm(zeros(2, 3), None, None),
     ValueError, "batch_norm: running_mean and running_var are needed"),
    (lambda: ops.batch_norm(zeros(2, 3), zeros(2), zeros(3)), ValueError, r"batch_norm: running_mean has shape \(2,\)"),
    (lambda: ops.batch_norm(zeros(3), zeros(3), zeros(3)),
     ValueError, r"batch_norm: expected \(N, C, \*\), got shape \(3,\)"),
    (lambda: ops.layer_norm(zeros(2, 3), (2,)),
     ValueError, r"layer_norm: normalized_shape \(2,\) .* x's shape \(2, 3\)"),
    (lambda: ops.layer_norm(zeros(2, 3), 3, zeros(2)),
     ValueError, r"layer_norm: weight has shape \(2,\), expected \(3,\)"),
    (lambda: ops.group_norm(zeros(2, 3, 4), 2), ValueError, "group_norm: num_groups=2 must divide the channels"),
    (lambda: ops.dropout(zeros(2), 1.5), ValueError, r"dropout: p must be between 0 and 1, got 1\.5"),
    (lambda: ops.dropout(zeros(2), float("nan")), ValueError, "dropout: p must be between 0 and 1, got nan"),
    (lambda: gk.set_num_threads(0), ValueError, "set_num_threads: expected an int from 1 .* got 0"),
    (lambda: gk.set_num_threads(10**9), ValueError, "set_num_threads: .* got 1000000000"),
    (lambda: gk.set_num_threads(1.5), ValueError, r"set_num_threads: .* got 1\.5"),
    (lambda: cpu.set_isa("avx9"), ValueError, "set_isa: 'avx9' is not available here; present: .*scalar"),
]  # fmt: skip

SIZES: list[Refusal] = [
    (lambda: ops.conv(huge(2**20, 1, 2**20), zeros(2**10, 1, 1)),
     ValueError, r"conv: y would have shape .*; the limit is"),
    (lambda: ops.conv(huge(1, 1, 4, 4), zeros(1, 1, 1, 1), padding=2**31 - 1), ValueError, "conv: y would have shape"),
    (lambda: ops.conv(huge(10**6, 1, 1000), ones(1000, 1, 1)),
     MemoryError, r"shape \(1000000, 1000, 1000\) takes 4000000000000"),
    (lambda: ops.conv_transpose(huge(1, 1, 10**6), ones(1, 1, 1), stride=10**6),
     MemoryError, r"shape \(1, 1, 999999000001\)"),
    (lambda: ops.conv_transpose(huge(1, 1, 2**20), ones(1, 1, 1), stride=2**31 - 1),
     ValueError, "conv_transpose: the output"),
    (lambda: ops.im2col(huge(2**10, 2**10, 2**10, 2**10), (8, 8), padding=4),
     ValueError, "im2col: shape .* the limit is"),
    (lambda: ops.upsample_nearest(huge(1, 1, 2**20), 2**31 - 1), MemoryError, "takes 9007199250546688 bytes"),
    (lambda: ops.upsample_nearest(huge(1, 1, 10**6), 10**6), MemoryError, "takes 4000000000000 bytes"),
    (lambda: huge(10**6, 1) + huge(1, 10**6), MemoryError, "takes 4000000000000 bytes"),
    (lambda: huge(2**25, 1) + huge(1, 2**25), MemoryError, "takes 4503599627370496 bytes"),
    (lambda: ops.matmul(huge(10**6, 1), huge(1, 10**6)), MemoryError, "takes 4000000000000 bytes"),
    (lambda: ops.matmul(huge(2**24, 1), huge(1, 2**24)), MemoryError, "takes 1125899906842624 bytes"),
    (lambda: ops.avg_pool(huge(1, 10**6, 10**6), 1), MemoryError, "takes 4000000000000 bytes"),
    (lambda: huge(10**6, 10**6).clone(), MemoryError, "takes 4000000000000 bytes"),
    (lambda: ops.cat([huge(10**6, 10**6)] * 2), MemoryError, "takes 8000000000000 bytes"),
    (lambda: gk.tensor(huge(10**6, 10**6)), MemoryError, "4000000000000 bytes"),
    (lambda: gk.randn(10**6, 10**6), MemoryError, "takes 4000000000000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CONV + WINDOWS + OTHERS)
def test_a_wrong_argument_is_named_with_its_value(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.cpu_only
@pytest.mark.parametrize(("call", "error", "message"), SIZES)
def test_a_result_too_large_is_refused_before_anything_is_allocated(
    call: Any, error: type[Exception], message: str
) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(error, match=message):
        call()
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# ---- edges with an answer ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft"])
def test_a_huge_stride_sees_the_first_cell_only(algorithm: str) -> None:
    before = ops.conv_algorithm()
    ops.set_conv_algorithm(algorithm)
    try:
        x, w = gk.tensor(np.arange(24.0).reshape(2, 1, 3, 4)), gk.tensor([[[[2.0]]]], dtype=np.float64)
        y = ops.conv(x, w, stride=2**31 - 1)
        assert y.tolist() == [[[[0.0]]], [[[24.0]]]]
        assert ops.conv_transpose(y, w, stride=2**31 - 1).tolist() == [[[[0.0]]], [[[48.0]]]]
        wide = ops.conv(x, gk.ones(1, 1, 2, 2, dtype=np.float64), padding=2, dilation=2, stride=2**31 - 1)
        assert wide.tolist() == [[[[0.0]]], [[[12.0]]]]
    finally:
        ops.set_conv_algorithm(before)


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft"])
def test_padding_far_beyond_the_image_gives_zeros_there(algorithm: str) -> None:
    before = ops.conv_algorithm()
    ops.set_conv_algorithm(algorithm)
    try:
        x, w = ones(1, 1, 3), ones(1, 1, 2)
        y = ops.conv(x, w, padding=1000).numpy()
        assert y.shape == (1, 1, 2002)
        assert y.sum() == 6
        far = ops.conv(x, w, padding=2**31 - 1, stride=2**31 - 1)  # the places 0, 2**31 - 1 and 2*(2**31 - 1)
        assert far.tolist() == [[[0.0, 2.0, 0.0]]]
    finally:
        ops.set_conv_algorithm(before)


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft"])
@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5)])
def test_no_image_and_no_channel_give_no_image_and_zeros(shape: Any, algorithm: str) -> None:
    before = ops.conv_algorithm()
    ops.set_conv_algorithm(algorithm)
    try:
        x, w = (
            gk.tensor(np.ones(shape), requires_grad=True),
            gk.tensor(np.ones((4, shape[1], 2, 2)), requires_grad=True),
        )
        y = ops.conv(x, w)
        assert_same_bits(y.detach().numpy(), np.zeros((shape[0], 4, 4, 4)))
        gx, gw = gk.grad(y.sum(), [x, w])
        assert gx.shape == x.shape
        assert_same_bits(gw.numpy(), np.zeros(w.shape))
        none = ops.conv(gk.tensor(np.ones((2, 3, 5, 5))), gk.tensor(np.ones((0, 3, 2, 2))))
        assert none.shape == (2, 0, 4, 4)
    finally:
        ops.set_conv_algorithm(before)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_extents_of_one_are_ordinary(rank: int) -> None:
    one = (1,) * rank
    x, w = gk.full((1, 1, *one), 3.0), gk.full((1, 1, *one), 2.0)
    for y in (ops.conv(x, w), ops.conv_transpose(x, w), ops.local_conv(x, w.reshape(1, 1, *one, *one))):
        assert y.item() == 6.0
    for y in (ops.max_pool(x, 1), ops.avg_pool(x, 1), ops.upsample_nearest(x, 1), ops.sum_blocks(x, 1)):
        assert y.item() == 3.0


def test_pooling_without_images_has_no_output() -> None:
    x = zeros(0, 3, 4, requires_grad=True)
    for f in (lambda t: ops.max_pool(t, 2), lambda t: ops.avg_pool(t, 2), lambda t: ops.upsample_nearest(t, 2)):
        y = f(x)
        assert y.shape[:2] == (0, 3)
        assert gk.grad(y.sum(), x)[0].shape == x.shape


def far_image() -> gk.Tensor:
    """2**31 + 2**19 elements, of which only the pages that are touched take memory."""
    H, W = 2**16 + 1, 2**15 + 8
    mapping = mmap.mmap(
        -1, 4 * H * W, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    )
    image = np.frombuffer(mapping, np.float32).reshape(1, 1, H, W)
    image[0, 0, -1, -1], image[0, 0, -1, 0], image[0, 0, 0, -2] = 5, 3, 2
    try:
        return gk.from_array(image)
    except MemoryError as error:  # of a device: the CPU's tensor is the mapping itself
        pytest.skip(str(error))


@pytest.mark.much_work
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's lazily committed mappings")
@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col"])
def test_offsets_beyond_two_to_the_31_elements_address_the_right_cells(algorithm: str) -> None:
    t = far_image()
    corners = tuple(n - 2 for n in t.shape[2:])
    y, index = ops.max_pool(t, 2, corners, return_indices=True)
    assert y.tolist() == [[[[0.0, 2.0], [3.0, 5.0]]]]
    assert index[0, 0, 1].tolist() == [2**16 * t.shape[3], 2**16 * t.shape[3] + t.shape[3] - 1]
    assert ops.avg_pool(t, 2, corners).tolist() == [[[[0.0, 0.5], [0.75, 1.25]]]]
    assert ops.im2col(t, 2, stride=corners)[0, 3].tolist() == [0.0, 0.0, 0.0, 5.0]
    assert t[0, 0, -1, -1].item() == 5.0
    before = ops.conv_algorithm()
    ops.set_conv_algorithm(algorithm)
    try:
        assert ops.conv(t, ones(1, 1, 2, 2), stride=corners).tolist() == [[[[0.0, 2.0], [3.0, 5.0]]]]
        weight = ops.conv_weight(t, ones(1, 1, 2, 2), 2, stride=corners)
        assert weight.tolist() == [[[[2.0, 0.0], [3.0, 5.0]]]]
    finally:
        ops.set_conv_algorithm(before)
