"""im2col and its adjoint: cols(N, C*K, P) as torch.nn.functional.unfold orders them; both gather, one thread each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gankernels.backends.cuda_numba.arrays import flat
from gankernels.backends.cuda_numba.launch import elements, launch, scalar_type, strides_of, unravel, volume
from gankernels.backends.cuda_numba.plan import split_pod
from gankernels.backends.cuda_numba.shim import cuda, device, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["col2im", "im2col", "output_of"]


@device
def output_of(cell: int, tap: int, stride: int, outputs: int) -> int:
    """The output whose tap lies `tap` cells after its first one and meets `cell` (counted with padding), or -1."""
    distance = cell - tap
    if distance < 0:
        return -1
    p = distance // stride
    return p if p * stride == distance and p < outputs else -1


@lru_cache(maxsize=2)
def _im2col_kernel(T: Any) -> Any:
    zero = T(0)

    def im2col_kernel(x: Any, cols: Any, n: int, g: Any, X: Any, K: Any, Y: Any, s: Any, e: Any, pad: Any, sx: Any,
                      sc: Any) -> None:  # fmt: skip
        """g: channels, taps, positions."""
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            row = i // g[2]
            p = i - row * g[2]
            k = row % g[1]
            c = row // g[1] % g[0]
            image = row // (g[1] * g[0])
            d = p // (Y[1] * Y[2]) * s[0] + k // (K[1] * K[2]) * e[0] - pad[0]
            h = p // Y[2] % Y[1] * s[1] + k // K[2] % K[1] * e[1] - pad[1]
            w = p % Y[2] * s[2] + k % K[2] * e[2] - pad[2]
            value = zero
            if d >= 0 and d < X[0] and h >= 0 and h < X[1] and w >= 0 and w < X[2]:
                value = x[sx[0] + image * sx[1] + c * sx[2] + d * sx[3] + h * sx[4] + w * sx[5]]
            cols[sc[0] + image * sc[1] + (c * g[1] + k) * sc[2] + p * sc[3]] = value

    return jit(im2col_kernel)


@lru_cache(maxsize=2)
def _col2im_kernel(T: Any) -> Any:
    zero = T(0)

    def col2im_kernel(cols: Any, x: Any, n: int, g: Any, X: Any, K: Any, Y: Any, s: Any, e: Any, pad: Any, sx: Any,
                      sc: Any) -> None:  # fmt: skip
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, d, h, w = unravel(i, X[0], X[1], X[2])
            image = rest // g[0]
            c = rest - image * g[0]
            total = zero
            start = sc[0] + image * sc[1] + c * g[1] * sc[2]
            for kd in range(K[0]):
                pd = output_of(d + pad[0], kd * e[0], s[0], Y[0])
                if pd < 0:
                    continue
                for kh in range(K[1]):
                    ph = output_of(h + pad[1], kh * e[1], s[1], Y[1])
                    if ph < 0:
                        continue
                    for kw in range(K[2]):
                        pw = output_of(w + pad[2], kw * e[2], s[2], Y[2])
                        if pw >= 0:
                            row = (kd * K[1] + kh) * K[2] + kw
                            total += cols[start + row * sc[2] + ((pd * Y[1] + ph) * Y[2] + pw) * sc[3]]
            x[sx[0] + image * sx[1] + c * sx[2] + d * sx[3] + h * sx[4] + w * sx[5]] = total

    return jit(col2im_kernel)


def _layout(a: DeviceArray) -> tuple[int, ...]:
    origin, strides = strides_of(a)
    return (origin, *strides)


def im2col(x: DeviceArray, cols: DeviceArray, pod: tuple[int, ...]) -> None:
    """cols (N, C*K, P) from x (N, C, X)."""
    source, target = flat(x), flat(cols)
    if cols.size:
        g = split_pod(pod)
        sizes = (g.in_channels, g.taps, g.y_volume)
        launch(_im2col_kernel(scalar_type(x)), *elements(cols.size), source, target, cols.size, sizes, g.x, g.kernel,
               g.y, g.stride, g.dilation, g.pad, volume(x), _layout(cols))  # fmt: skip


def col2im(cols: DeviceArray, x: DeviceArray, pod: tuple[int, ...]) -> None:
    """x (N, C, X): the sums of the elements of cols (N, C*K, P) that im2col reads from each cell."""
    source, target = flat(cols), flat(x)
    if x.size:
        g = split_pod(pod)
        sizes = (g.in_channels, g.taps, g.y_volume)
        launch(_col2im_kernel(scalar_type(x)), *elements(x.size), source, target, x.size, sizes, g.x, g.kernel,
               g.y, g.stride, g.dilation, g.pad, volume(x), _layout(cols))  # fmt: skip
