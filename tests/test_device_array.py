"""Device arrays: their views against NumPy's own, and what they hand to other libraries."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gankernels.backends import dlpack
from gankernels.backends.device_array import DeviceArray, c_strides, host_view


class Memory:
    """A buffer in host memory, as a simulated device has it."""

    def __init__(self, nbytes: int, on_host: bool = True) -> None:
        self.keep = np.zeros(nbytes, np.uint8)
        self.host = self.keep if on_host else None
        self.ptr, self.nbytes = self.keep.ctypes.data, nbytes


def backend(**more: Any) -> Any:
    return SimpleNamespace(name="cuda", synchronize=lambda: None, **more)


def pair(shape: tuple[int, ...], dtype: Any = np.float32) -> tuple[DeviceArray, np.ndarray[Any, Any]]:
    """A device array of distinct numbers, and a NumPy array over the same memory."""
    dtype = np.dtype(dtype)
    buffer = Memory(max(1, int(np.prod(shape))) * dtype.itemsize)
    array = DeviceArray(buffer, shape, dtype, backend())
    host = np.ndarray(shape, dtype, buffer=buffer.keep)
    host[...] = np.arange(host.size).reshape(shape)
    return array, host


def assert_same_view(array: DeviceArray, host: Any) -> None:
    host = np.asarray(host)
    assert array.shape == host.shape
    assert array.dtype == host.dtype
    assert (array.size, array.ndim, array.nbytes) == (host.size, host.ndim, host.nbytes)
    assert array.flags.c_contiguous == host.flags.c_contiguous
    if host.size:
        assert array.ptr == host.ctypes.data
        for n, ours, theirs in zip(host.shape, array.strides, host.strides, strict=True):
            assert n == 1 or ours == theirs
        np.testing.assert_array_equal(host_view(array), host)


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
filled_shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    parts: list[Any] = []
    step = st.sampled_from([None, 1, 2, 3, -1, -2])
    end = st.none() | st.integers(-6, 6)
    for n in shape:
        if draw(st.booleans()):
            parts.append(slice(draw(end), draw(end), draw(step)))
        elif n:
            parts.append(draw(st.integers(-n, n - 1)))
        else:
            parts.append(slice(None))
    cut = draw(st.integers(0, len(parts)))
    if draw(st.booleans()):
        back = draw(st.integers(cut, len(parts)))
        parts = [*parts[:cut], Ellipsis, *parts[back:]]
    else:
        parts = parts[:cut]
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), None)
    return tuple(parts)


@given(st.data())
def test_indexing_makes_the_views_that_numpy_makes(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    array, host = pair(shape)
    key = data.draw(keys(shape))
    assert_same_view(array[key], host[key] if Ellipsis in key else host[(*key, ...)])


@given(st.data())
def test_chains_of_views_are_numpys_chains_of_views(data: st.DataObject) -> None:
    array, host = pair(
        data.draw(filled_shapes), data.draw(st.sampled_from([np.float32, np.float64, np.int64, np.bool_]))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["index", "transpose", "swap", "broadcast", "squeeze", "expand"]))
        if kind == "index":
            key = data.draw(keys(host.shape))
            key = key if Ellipsis in key else (*key, ...)
            array, host = array[key], host[key]
        elif kind == "transpose":
            order = tuple(data.draw(st.permutations(range(host.ndim))))
            array, host = array.transpose(order), host.transpose(order)
        elif kind == "swap" and host.ndim:
            a, b = data.draw(st.integers(-host.ndim, host.ndim - 1)), data.draw(st.integers(0, host.ndim - 1))
            array, host = array.swapaxes(a, b), host.swapaxes(a, b)
        elif kind == "broadcast":
            lead = data.draw(st.lists(st.integers(1, 3), max_size=1))
            wanted = (*lead, *(data.draw(st.integers(1, 3)) if n == 1 else n for n in host.shape))
            array, host = array.broadcast_to(wanted), np.broadcast_to(host, wanted)
        elif kind == "squeeze":
            array, host = array.squeeze(), host.squeeze()
        elif kind == "expand":
            axis = data.draw(st.integers(-host.ndim - 1, host.ndim))
            array, host = array.expand(axis), np.expand_dims(host, axis)
        if host.ndim > 8:
            break
        assert_same_view(array, host)
        assert_same_view(array.T, host.T)


@given(st.data())
def test_a_reshape_is_a_view_exactly_where_numpy_can_make_one(data: st.DataObject) -> None:
    array, host = pair(data.draw(filled_shapes))
    order = tuple(data.draw(st.permutations(range(host.ndim))))
    key = tuple(slice(None, None, data.draw(st.sampled_from([1, 1, 2, -1]))) for _ in host.shape)
    array, host = array.transpose(order)[key], host.transpose(order)[(*key, ...)]
    factors = [n for extent in host.shape for n in ((extent,) if extent != 4 else (2, 2))]
    new: list[int] = []
    for n in factors:  # merge or keep neighbours, with a 1 here and there
        if new and data.draw(st.booleans()):
            new[-1] *= n
        else:
            new.append(n)
        if data.draw(st.integers(0, 4)) == 0:
            new.append(1)
    alias = host.view()
    try:
        alias.shape = tuple(new)
    except AttributeError:
        with pytest.raises(ValueError, match="no view of shape"):
            array.reshape(new)
        return
    assert_same_view(array.reshape(new), alias)
    assert_same_view(array.reshape(*new), alias)


def test_a_reshape_fills_in_one_extent_and_refuses_what_does_not_fit() -> None:
    array, host = pair((2, 3, 4))
    assert_same_view(array.reshape(-1), host.reshape(-1))
    assert_same_view(array.reshape(4, -1), host.reshape(4, -1))
    assert_same_view(array.ravel(), host.ravel())
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) \(24 elements\) does not fit into \(5, -1\)"):
        array.reshape(5, -1)
    with pytest.raises(ValueError, match="does not fit"):
        array.reshape(-1, -1)
    empty, none = pair((0, 3))
    assert_same_view(empty.reshape(3, 0), none.reshape(3, 0))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda a: a[2], "index 2 is out of bounds for axis 0 with size 2"),
        (lambda a: a[0, 0, 0], "too many indices"),
        (lambda a: a[..., 0, ...], "single ellipsis"),
        (lambda a: a[[0, 1]], "only integers, slices, None and Ellipsis"),
        (lambda a: a[True], "only integers, slices, None and Ellipsis"),
        (lambda a: a.transpose(0, 0), "not an order of 2 axes"),
        (lambda a: a.broadcast_to((2, 4)), "cannot be broadcast"),
        (lambda a: a.squeeze(0), "has not extent 1"),
        (lambda a: a.swapaxes(0, 2), "out of bounds"),
    ],
)
def test_what_is_no_view_is_refused(call: Any, error: str) -> None:
    with pytest.raises((IndexError, ValueError), match=error):
        call(pair((2, 3))[0])


def test_nothing_is_copied_to_the_host_silently() -> None:
    array, _ = pair((2,))
    for access in (
        np.asarray,
        lambda a: np.add(a, 1),
        lambda a: np.ones(2, np.float32) + a,
        lambda a: np.broadcast_to(a, (2, 2)),
        bool,
        float,
    ):
        with pytest.raises(TypeError):
            access(array)
    with pytest.raises(TypeError, match=r"call \.cpu\(\)"):
        np.asarray(array)


def test_the_cuda_array_interface_is_version_3() -> None:
    array, _ = pair((2, 3))
    assert array.__cuda_array_interface__ == {
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (array.ptr, False),
        "strides": None,
        "version": 3,
        "stream": 1,
    }
    assert array.T.__cuda_array_interface__["strides"] == (4, 12)
    assert pair((0,))[0].__cuda_array_interface__["data"] == (0, False)
    assert pair((1,), np.bool_)[0].__cuda_array_interface__["typestr"] == "|b1"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_dlpack_shares_the_memory_of_a_simulated_device(dtype: Any) -> None:
    array, host = pair((2, 3), dtype)
    view = np.from_dlpack(array[:, ::-1])
    np.testing.assert_array_equal(view, host[:, ::-1])
    host[0, 2] = 0
    assert view[0, 0] == 0
    assert np.from_dlpack(array[0, 0]).shape == ()


def test_dlpack_keeps_the_memory_alive_as_long_as_it_is_read() -> None:
    array, _ = pair((3,))
    owner = weakref.ref(array)
    view = np.from_dlpack(array)
    del array
    gc.collect()
    assert owner() is not None
    del view
    gc.collect()
    assert owner() is None


def test_a_capsule_that_nobody_reads_frees_the_memory() -> None:
    array, _ = pair((3,))
    owner = weakref.ref(array)
    capsule = array.__dlpack__()
    del array, capsule
    pair((1,))[0].__dlpack__()  # whoever exports next sweeps
    gc.collect()
    assert owner() is None


def test_dlpack_waits_for_our_stream_unless_the_reader_does() -> None:
    waits = []
    array = DeviceArray(Memory(4), (1,), np.float32, SimpleNamespace(name="cuda", synchronize=lambda: waits.append(1)))
    array.__dlpack__(stream=-1)
    array.__dlpack__(stream=1)
    assert not waits
    array.__dlpack__(stream=2)
    assert waits
    with pytest.raises(BufferError, match="ambiguous"):
        array.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="share memory"):
        array.__dlpack__(copy=True)


def test_memory_of_a_real_device_says_so() -> None:
    array = DeviceArray(Memory(4, on_host=False), (1,), np.float32, backend())
    assert array.__dlpack_device__() == (dlpack.CUDA, 0)
    with pytest.raises(TypeError, match="on a real device"):
        host_view(array)


@given(st.data())
def test_dlpack_reads_what_numpy_exports(data: st.DataObject) -> None:
    host = np.arange(24.0).reshape(2, 3, 4)[data.draw(keys((2, 3, 4)).filter(lambda k: Ellipsis not in k))]
    if np.ndim(host) == 0:
        return
    buffer, shape, strides, offset, dtype = dlpack.read(host.__dlpack__())
    array = DeviceArray(buffer, shape, dtype, backend(), strides, offset)
    np.testing.assert_array_equal(host_view(array), host)


def test_an_imported_array_gives_the_memory_back_once() -> None:
    array, host = pair((2, 3))
    owner = weakref.ref(array)
    capsule = array.T.__dlpack__()
    buffer, shape, strides, offset, dtype = dlpack.read(capsule)
    with pytest.raises(BufferError, match="fresh capsule"):
        dlpack.read(capsule)
    del capsule, array
    again = DeviceArray(buffer, shape, dtype, backend(), strides, offset)
    np.testing.assert_array_equal(host_view(again), host.T)
    del again, buffer
    gc.collect()
    assert owner() is None


def test_strides_of_a_row_major_array_are_numpys() -> None:
    for shape in ((), (3,), (2, 3, 4), (1, 1, 5)):
        assert c_strides(shape, 8) == np.empty(shape).strides
