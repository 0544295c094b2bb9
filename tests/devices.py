"""The device that the tests run on (`pytest --device`), and what lets one suite serve every device.

On "cuda" the default device is switched, so that a test which says nothing about devices runs there. Tests may read
results with `.numpy()` and make tensors of NumPy arrays as on the CPU; the package itself may not.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import backends, ops
from gankernels.autograd import Tensor
from gankernels.backends import cpu, cuda, cuda_numba
from gankernels.backends.device_array import DeviceArray
from gankernels.ops import common
from gankernels.testing.cases import Case

HERE = Path(__file__).resolve().parent
_SIMULATED_FLOPS, _EMULATED_FLOPS = 100_000, 8_000_000  # of one pass: a second or less for its three slots
_SIMULATED_ELEMENTS = 2_000  # of one array that a test calls many kernels on: more than 30 blocks of 64 threads
_PASSED_THROUGH = ("numpy", "contextlib.py", "devices.py", "fake_cuda.py")


def start(device: str, required: bool) -> str:
    """Make `device` the default of this process; says what serves it."""
    if device == "cpu":
        return "cpu"
    reason = backends.why_not(device)
    if reason is not None:
        if required:
            raise pytest.UsageError(f"cuda is required by this run, but: {reason}")
        import fake_cuda

        backends.serve(device, fake_cuda)
    gk.set_default_device(device)
    _let_tests_read()
    served_by = backends.get(device).__name__
    return f"{device} served by {served_by}" + (f" ({reason})" if reason else "")


def is_simulated() -> bool:
    """True if kernels of the default device run as Python: a millisecond for a thousand multiplications."""
    return backends.get() is cuda_numba and cuda_numba.available.is_simulated()


def rounds_to_bfloat16() -> bool:
    """True if products in `gk.autocast` are of rounded numbers on the default device."""
    return backends.get() is not cuda_numba


def stores_bfloat16() -> bool:
    """True if `gk.autocast` makes arrays of bfloat16 on the default device, locally connected layers' too."""
    return common.stores_bfloat16(backends.get())


def in_a_new_process() -> str:
    """What a process that a test starts says first, to run on the device under test; the stand-in is the CPU's bits."""
    if backends.get().__name__ in (cpu.__name__, "fake_cuda"):
        return ""
    return f"import gankernels; gankernels.set_default_device({gk.get_default_device()!r})"


def cpu_settings() -> list[tuple[str, int]]:
    """Instruction sets and thread counts to compare: all of the CPU, on a device the one in use."""
    if backends.get() is not cpu:
        return [(cpu.isa(), cpu.num_threads())]
    return [(isa, threads) for isa in cpu.isa_present() for threads in (1, 2, 3)]


def is_emulated() -> bool:
    """True if kernels of the default device are the compiled ones, run thread by thread on the processor."""
    return backends.get() is cuda and cuda.native.emulated


def fit(item: pytest.Item) -> str | None:
    """Give a test on a device without hardware less to do where its case can be cut; else why it cannot run there."""
    if not (is_simulated() or is_emulated()):
        return None
    device, limit = ("a simulated", _SIMULATED_FLOPS) if is_simulated() else ("an emulated", _EMULATED_FLOPS)
    params = getattr(item, "callspec", SimpleNamespace(params={})).params
    case = params.get("case")
    marked = item.get_closest_marker("much_work")
    flops = case.flops if isinstance(case, Case) else marked.kwargs.get("flops", 0) if marked else 0
    if (is_simulated() and marked) or (flops > limit and (not isinstance(case, Case) or case.kind == "full")):
        return f"too much work for {device} device, where the same kernels run on less"
    if flops > limit:
        params["case"] = cut = _cut(case, limit)
        if cut is None:
            return f"too much work for {device} device, also on one image of one channel"
    return None


def extents(*shape: int) -> tuple[int, ...]:
    """`shape`; for a simulated device its longest axes cut until it has few enough elements."""
    cut = list(shape)
    while is_simulated() and prod(cut) > _SIMULATED_ELEMENTS:
        longest = cut.index(max(cut))
        cut[longest] = _fewer(cut[longest])
    return tuple(cut)


def _cut(case: Case, limit: int) -> Case | None:
    """The same taps and strides on one image and fewer channels, of numbers that leave a rest in every tile."""
    if not case.w or case.w[1] != case.x[1]:  # windows, and a case of groups, are small as they are
        return None
    (_, C, *X), (O, _, *K) = case.x, case.w
    case = replace(case, x=(1, C, *X))
    while case.flops > limit and (C, O) != (1, 1):
        C, O = (_fewer(C), O) if C > O else (C, _fewer(O))
        case = replace(case, x=(1, C, *X), w=(O, C, *K))
    return case if case.flops <= limit else None


def _fewer(n: int) -> int:
    return n // 2 + 1 if n > 2 else 1


def _asked_by_a_test() -> bool:
    """True if the nearest caller outside NumPy and this file is a test."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(part in name for part in _PASSED_THROUGH):
            return HERE in Path(name).parents
        frame = frame.f_back
    return False


def _let_tests_read() -> None:
    def reading(method: Any) -> Any:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            here = self.cpu() if not self.requires_grad and _asked_by_a_test() else self
            return method(here, *args, **kwargs)

        return read

    for name in ("numpy", "__array__"):
        setattr(Tensor, name, reading(getattr(Tensor, name)))
    from_array = ops.from_array

    def on_device(array: Any, requires_grad: bool = False) -> Tensor:
        return from_array(array).to(backends.default_device()).requires_grad_(requires_grad)

    gk.from_array = on_device  # what tests call; the package imports it from where it is made


# ---- kernels on NumPy arrays, on any device ------------------------------------------------------------------------
class _Upload:
    """The bytes that a NumPy array spans, on the device, under the same strides."""

    def __init__(self, backend: Any, address: int, size: int) -> None:
        self.before = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).copy()
        self.address, self.whole = address, backend.from_host(self.before.view(np.bool_))
        self.backend = backend

    def view(self, a: Any) -> DeviceArray:
        offset = self.whole.offset + a.ctypes.data - self.address
        return DeviceArray(self.whole.buffer, a.shape, a.dtype, self.backend, a.strides, offset)

    def bring_back(self, a: Any) -> None:
        after = self.backend.to_host(self.whole).view(np.uint8)
        if not np.array_equal(after, self.before):
            a[...] = np.ndarray(a.shape, a.dtype, after, a.ctypes.data - self.address, a.strides)


def _span(a: Any) -> tuple[int, int]:
    steps = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    low, high = sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)
    return a.ctypes.data + low, high - low + a.itemsize


class Backend:
    """The kernels of the device under test, called with NumPy arrays: on "cpu" the functions themselves."""

    def __getattr__(self, name: str) -> Any:
        device = backends.get()
        if device is cpu:
            return getattr(cpu, name)
        function = getattr(device, name)

        def run(*arguments: Any, **named: Any) -> Any:
            uploads: dict[tuple[int, int], _Upload] = {}
            scalars: list[Any] = []  # kept, so that no two of them get one address

            def moved(a: Any) -> Any:
                if isinstance(a, np.generic):
                    a = np.asarray(a)
                    scalars.append(a)
                if not isinstance(a, np.ndarray):
                    return a
                if a.size == 0:
                    return device.empty(a.shape, a.dtype)
                key = _span(a)
                if key not in uploads:
                    uploads[key] = _Upload(device, *key)
                return uploads[key].view(a)

            result = function(*map(moved, arguments), **{k: moved(v) for k, v in named.items()})
            for a in (*arguments, *named.values()):
                if isinstance(a, np.ndarray) and a.size and a.flags.writeable:
                    uploads[_span(a)].bring_back(a)
            return device.to_host(result) if type(result) is DeviceArray else result

        return run


backend = Backend()
