"""Locally connected convolution: w(O, C/groups, P, K), a kernel of its own at every output position. Every weight is
used once for each image, so memory is the limit and one thread makes one element of the result, without tiles.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gankernels.backends.cuda_numba.arrays import flats
from gankernels.backends.cuda_numba.columns import output_of
from gankernels.backends.cuda_numba.launch import elements, launch, scalar_type, strides_of, unravel, volume
from gankernels.backends.cuda_numba.plan import split_pod
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["local_conv", "local_conv_transpose", "local_conv_weight"]

Ints = tuple[int, ...]


@lru_cache(maxsize=2)
def _forward_kernel(T: Any) -> Any:
    zero = T(0)

    def local_conv_kernel(x: Any, w: Any, y: Any, n: int, g: Any, X: Any, K: Any, Y: Any, s: Any, e: Any, pad: Any,
                          sx: Any, sw: Any, sy: Any) -> None:  # fmt: skip
        """g: input and output channels of a group, all output channels."""
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, pd, ph, pw = unravel(i, Y[0], Y[1], Y[2])
            image = rest // g[2]
            o = rest - image * g[2]
            x0 = sx[0] + image * sx[1] + o // g[1] * g[0] * sx[2]
            w0 = sw[0] + o * sw[1] + ((pd * Y[1] + ph) * Y[2] + pw) * sw[3]
            total = zero
            for c in range(g[0]):
                for kd in range(K[0]):
                    d = pd * s[0] + kd * e[0] - pad[0]
                    if d < 0 or d >= X[0]:
                        continue
                    for kh in range(K[1]):
                        h = ph * s[1] + kh * e[1] - pad[1]
                        if h < 0 or h >= X[1]:
                            continue
                        for kw in range(K[2]):
                            v = pw * s[2] + kw * e[2] - pad[2]
                            if v >= 0 and v < X[2]:
                                k = (kd * K[1] + kh) * K[2] + kw
                                cell = x[x0 + c * sx[2] + d * sx[3] + h * sx[4] + v * sx[5]]
                                total += w[w0 + c * sw[2] + k * sw[4]] * cell
            y[sy[0] + image * sy[1] + o * sy[2] + pd * sy[3] + ph * sy[4] + pw * sy[5]] = total

    return jit(local_conv_kernel)


@lru_cache(maxsize=2)
def _transpose_kernel(T: Any) -> Any:
    zero = T(0)

    def local_conv_transpose_kernel(y: Any, w: Any, x: Any, n: int, g: Any, X: Any, K: Any, Y: Any, s: Any, e: Any,
                                    pad: Any, sx: Any, sw: Any, sy: Any) -> None:  # fmt: skip
        """g: input and output channels of a group, all input channels."""
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, d, h, v = unravel(i, X[0], X[1], X[2])
            image = rest // g[2]
            c = rest - image * g[2]
            group = c // g[0]
            y0 = sy[0] + image * sy[1] + group * g[1] * sy[2]
            w0 = sw[0] + group * g[1] * sw[1] + (c - group * g[0]) * sw[2]
            total = zero
            for kd in range(K[0]):
                pd = output_of(d + pad[0], kd * e[0], s[0], Y[0])
                if pd < 0:
                    continue
                for kh in range(K[1]):
                    ph = output_of(h + pad[1], kh * e[1], s[1], Y[1])
                    if ph < 0:
                        continue
                    for kw in range(K[2]):
                        pw = output_of(v + pad[2], kw * e[2], s[2], Y[2])
                        if pw >= 0:
                            k = (kd * K[1] + kh) * K[2] + kw
                            at_w = w0 + ((pd * Y[1] + ph) * Y[2] + pw) * sw[3] + k * sw[4]
                            at_y = y0 + pd * sy[3] + ph * sy[4] + pw * sy[5]
                            for o in range(g[1]):
                                total += w[at_w + o * sw[1]] * y[at_y + o * sy[2]]
            x[sx[0] + image * sx[1] + c * sx[2] + d * sx[3] + h * sx[4] + v * sx[5]] = total

    return jit(local_conv_transpose_kernel)


@lru_cache(maxsize=2)
def _weight_kernel(T: Any) -> Any:
    zero = T(0)

    def local_conv_weight_kernel(x: Any, y: Any, w: Any, n: int, g: Any, X: Any, K: Any, Y: Any, s: Any, e: Any,
                                 pad: Any, sx: Any, sw: Any, sy: Any) -> None:  # fmt: skip
        """g: input and output channels of a group, images, taps, positions."""
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest = i // g[3]
            k = i - rest * g[3]
            p = rest % g[4]
            rest = rest // g[4]
            c = rest % g[0]
            o = rest // g[0]
            pw = p % Y[2]
            ph = p // Y[2] % Y[1]
            pd = p // (Y[2] * Y[1])
            d = pd * s[0] + k // (K[1] * K[2]) * e[0] - pad[0]
            h = ph * s[1] + k // K[2] % K[1] * e[1] - pad[1]
            v = pw * s[2] + k % K[2] * e[2] - pad[2]
            total = zero
            if d >= 0 and d < X[0] and h >= 0 and h < X[1] and v >= 0 and v < X[2]:
                at_x = sx[0] + (o // g[1] * g[0] + c) * sx[2] + d * sx[3] + h * sx[4] + v * sx[5]
                at_y = sy[0] + o * sy[2] + pd * sy[3] + ph * sy[4] + pw * sy[5]
                for image in range(g[2]):
                    total += x[at_x + image * sx[1]] * y[at_y + image * sy[1]]
            w[sw[0] + o * sw[1] + c * sw[2] + p * sw[3] + k * sw[4]] = total

    return jit(local_conv_weight_kernel)


def _run(kernel: Any, arrays: tuple[DeviceArray, ...], extra: Any, pod: Ints, x: DeviceArray, w: DeviceArray,
         y: DeviceArray) -> None:  # fmt: skip
    memory, n = flats(*arrays), arrays[-1].size
    if n:
        g = split_pod(pod)
        origin, strides = strides_of(w)
        channels = (g.in_channels // g.groups, g.out_channels // g.groups, *extra)
        launch(kernel, *elements(n), *memory, n, channels, g.x, g.kernel, g.y, g.stride, g.dilation, g.pad, volume(x),
               (origin, *strides), volume(y))  # fmt: skip


def local_conv(x: DeviceArray, w: DeviceArray, y: DeviceArray, pod: Ints) -> None:
    """y (N,O,P) from x (N,C,X) and w (O,C/groups,P,K)."""
    _run(_forward_kernel(scalar_type(x)), (x, w, y), (pod[2],), pod, x, w, y)


def local_conv_transpose(y: DeviceArray, w: DeviceArray, x: DeviceArray, pod: Ints) -> None:
    """The adjoint of local_conv in x."""
    _run(_transpose_kernel(scalar_type(x)), (y, w, x), (pod[1],), pod, x, w, y)


def local_conv_weight(x: DeviceArray, y: DeviceArray, w: DeviceArray, pod: Ints) -> None:
    """The adjoint of local_conv in w."""
    g = split_pod(pod)
    _run(_weight_kernel(scalar_type(x)), (x, y, w), (g.batch, g.taps, g.y_volume), pod, x, w, y)
