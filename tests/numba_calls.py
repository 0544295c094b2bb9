"""A call of every backend function in every variant that has a kernel of its own, on small arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from gankernels.backends import cuda_numba as device
from gankernels.backends.opcodes import BINARY, COMPARE, UNARY
from gankernels.geometry import conv_geometry, upsample_conv_geometry, window_geometry

Call = Callable[[], Any]


def _zeros(*shape: int, dtype: Any = np.float32) -> Any:
    return device.from_host(np.zeros(shape, dtype))


def _pointwise(T: Any) -> Iterator[Call]:
    x, y = _zeros(6, dtype=T), _zeros(6, dtype=T)
    for op in UNARY:
        yield lambda op=op: device.unary(op, x, y, 2.5, 1.0)
    for p in (2.0, 3.0, 0.5, -0.5, -1.0):
        yield lambda p=p: device.unary("power", x, y, p)
    yield lambda: device.unary("leaky_relu", x, y, 0.0)
    for op in BINARY:
        yield lambda op=op: device.binary(op, x, x, y)
    mask = _zeros(6, dtype=np.bool_)
    for op in COMPARE:
        yield lambda op=op: device.compare(op, x, y, mask)
    for slope in (0.0, 0.1):
        yield lambda slope=slope: device.gate(x, x, y, slope)
    yield lambda: device.select(mask, x, x, y)
    # loops of more than one axis: nothing merges
    for shape in ((3, 2), (3, 2, 2), (2, 3, 2, 2)):
        a = _zeros(*shape, dtype=T).transpose()
        b = _zeros(*shape[::-1], dtype=T)
        yield lambda a=a, b=b: device.copy(a, b)
        yield lambda a=a, b=b: device.binary("add", a, b, b)
    yield lambda: device.dropout(_zeros(3, 2, dtype=T).T, _zeros(2, 3, dtype=T), 0.5, 1, 2)


def _integers() -> Iterator[Call]:
    i, m = _zeros(4, dtype=np.int64), _zeros(4, dtype=np.bool_)
    for op in ("add", "subtract", "multiply", "maximum", "minimum", "power"):
        yield lambda op=op: device.binary(op, i, i, i)
    for op in ("add", "multiply", "maximum", "minimum"):
        yield lambda op=op: device.binary(op, m, m, m)
    for op in COMPARE:
        yield lambda op=op: device.compare(op, i, i, m)
        yield lambda op=op: device.compare(op, m, m, m)
    dtypes = (np.float32, np.float64, np.int64, np.bool_)
    for source in dtypes:
        for target in dtypes:
            yield lambda s=source, t=target: device.cast(_zeros(4, dtype=s), t)
    for T in (np.float32, np.float64, np.int64, np.bool_):
        whole = _zeros(6, dtype=T)
        yield lambda w=whole: device.copy_parts([w[:2], w[2:4]], [w[2:4], w[4:]], w)
    for T in (np.int64, np.bool_):
        a = _zeros(4, dtype=T)
        yield lambda a=a: device.copy(a, a)
        yield lambda a=a: device.fill(a, 1)
        yield lambda a=a: device.select(m, a, a, a)
        yield lambda a=a, T=T: device.gather_rows(a.reshape(2, 2), i, _zeros(4, 2, dtype=T))
    yield lambda: device.sum(i, _zeros(1, dtype=np.int64))


def _shapes(T: Any) -> Iterator[Call]:
    g = conv_geometry("conv", (2, 4, 5, 5), (8, 2, 3, 3), 2, 1, 1, 2)
    x, w, y = (_zeros(*s, dtype=T) for s in (g.x_shape, g.w_shape, g.y_shape))
    for channels in (4, 12, 24, 64):  # every tile
        h = conv_geometry("conv", (2, channels, 5), (channels, channels, 3), 1, 1)
        a, b, c = (_zeros(*s, dtype=T) for s in (h.x_shape, h.w_shape, h.y_shape))
        yield lambda h=h, a=a, b=b, c=c: device.conv(a, b, c, h.pod, 0)
        yield lambda h=h, a=a, b=b, c=c: device.conv_weight(a, c, b, h.pod, 0)
        many = conv_geometry("conv", (30000, channels, 5), (channels, channels, 3), 1, 1)  # tiles of many columns
        large = a[:1].broadcast_to(many.x_shape)
        yield lambda g=many, x=large, w=b: device.conv(x, w, x, g.pod, 0)
        m = _zeros(1, channels, 100, dtype=T)
        yield lambda m=m: device.matmul(m, m.transpose(0, 2, 1), _zeros(1, m.shape[1], m.shape[1], dtype=T), 0)
    yield lambda: device.conv_transpose(y, w, x, g.pod, 0)
    flat = _zeros(*g.w_shape[:2], prod(g.y), prod(g.kernel), dtype=T)
    yield lambda: device.local_conv(x, flat, y, g.pod)
    yield lambda: device.local_conv_transpose(y, flat, x, g.pod)
    yield lambda: device.local_conv_weight(x, y, flat, g.pod)
    columns = _zeros(*g.columns_shape, dtype=T)
    yield lambda: device.im2col(x, columns, g.pod)
    yield lambda: device.col2im(columns, x, g.pod)
    u = upsample_conv_geometry("upsample_conv", (2, 4, 5), (4, 4, 3), 2, 1)
    a, b, c = (_zeros(*s, dtype=T) for s in (u.x_shape, u.w_shape, u.y_shape))
    yield lambda: device.upsample_conv(a, b, c, u.pod, 0)
    none, plain = _zeros(0, dtype=T), (1.0, 0.0, 1, 2)
    yield lambda: device.conv_epilogue(x, w, y, g.pod, 0, none, *plain)
    yield lambda: device.conv_transpose_epilogue(y, w, x, g.pod, 0, none, *plain)
    yield lambda: device.upsample_conv_epilogue(a, b, c, u.pod, 0, none, *plain)
    yield lambda: device.upsample_conv_transpose(c, b, a, u.pod, 0)
    yield lambda: device.upsample_conv_weight(a, c, b, u.pod, 0)
    yield lambda: device.upsample_nearest(a, _zeros(2, 4, 10, dtype=T))
    yield lambda: device.sum_blocks(_zeros(2, 4, 10, dtype=T), a)
    p = window_geometry("pool", (2, 4, 5, 5), 2)
    z, index = _zeros(*p.y_shape, dtype=T), _zeros(*p.y_shape, dtype=np.int64)
    yield lambda: device.max_window(x, z, index, p.pod)
    yield lambda: device.average_window(x, z, p.pod)
    yield lambda: device.spread_window(z, x, p.pod)
    yield lambda: device.gather_window(x, index, z)
    yield lambda: device.scatter_window(z, index, x)


def _rest(T: Any) -> Iterator[Call]:
    x, c = _zeros(2, 3, 4, dtype=T), [_zeros(3, dtype=T) for _ in range(6)]
    for out in ((1, 1, 1), (1, 3, 1), (2, 1, 4)):
        yield lambda out=out: device.sum(x, _zeros(*out, dtype=T))
    yield lambda: device.sum(_zeros(10**5, dtype=T), _zeros(1, dtype=T))  # in more than one step
    yield lambda: device.softmax(x[0], x[1])
    yield lambda: device.log_softmax(x[0], x[1])
    yield lambda: device.channel_moments(x, c[0], c[1])
    yield lambda: device.channel_affine(x, c[0], c[1], x)
    yield lambda: device.batch_norm_backward(x, x, *c[:3], x, *c[3:5])
    index = _zeros(5, dtype=np.int64)
    yield lambda: device.gather_rows(x[0], index, _zeros(5, 4, dtype=T))
    yield lambda: device.scatter_rows(_zeros(5, 4, dtype=T), index, x[0])
    yield lambda: device.random_uniform(x, 1, 2)
    yield lambda: device.random_normal(x, 1, 2)
    none = _zeros(0, dtype=T)
    for momentum, nesterov, step in ((0.0, False, 1), (0.9, False, 1), (0.9, True, 2)):
        yield lambda m=momentum, n=nesterov, s=step: device.sgd_step(
            c[0], c[1], c[2] if m else none, 0.1, m, 0.0, 0.0, n, s
        )
    yield lambda: device.adam_step(*c[:4], 0.1, 0.9, 0.999, 1e-8, 0.0, False, 1)
    for momentum, centered in ((0.0, False), (0.5, True)):
        yield lambda m=momentum, k=centered: device.rmsprop_step(*c[:5], 0.1, 0.9, 1e-8, 0.0, m, k)
    for t in (0.1, 0.9):
        yield lambda t=t: device.lerp(c[0], c[1], t)
    square = _zeros(1, 3, 3, dtype=T)
    for slope, p in ((1.0, 0.0), (0.0, 0.0), (0.2, 0.0), (0.2, 0.5)):
        for b in (none, c[0]):
            yield lambda s=slope, p=p, b=b: device.matmul_epilogue(
                x[:1], x[:1].transpose(0, 2, 1), square, 0, b, s, p, 1, 2
            )
        yield lambda s=slope, p=p: device.norm_epilogue(x, c[0], c[1], x, s, p, 1, 2)
    yield lambda: device.epilogue_backward(x, x, x, c[0], 0.2, 0.5)
    yield lambda: device.norm_epilogue_backward(x, x, x, *c[:3], x, *c[3:5], 0.2, 0.5)
    table, numbers = (device.arrays.upload(np.zeros(99, t)) for t in (np.int64, np.float64))
    memory = device.arrays.flat(x), device.arrays.flat(_zeros(6, dtype=np.bool_))
    yield lambda: device.launch.launch(device.chain.kernel(T), 1, 64, *memory, table, numbers, 1)


def every_call() -> Iterator[Call]:
    """Calls that launch every kernel in every variant, float32 and float64, integers and masks."""
    for T in (np.float32, np.float64):
        for part in (_pointwise, _shapes, _rest):
            yield from part(T)
    yield from _integers()
