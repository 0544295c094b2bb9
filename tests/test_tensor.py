"""Tensors from arrays and back: every conversion that is documented, and refusals by name."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import ops
from gankernels.testing.bounds import assert_same_bits


class Interface:
    """An object with nothing but __array_interface__."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


class Dlpack:
    """An object with nothing but the DLPack protocol."""

    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


CONVERSIONS: list[tuple[Any, Any]] = [
    (np.float32(1.5), np.float32), (np.float64(1.5), np.float64), (1.5, np.float32), (2, np.int64), (True, np.bool_),
    ([1.0, 2.0], np.float32), ([1, 2], np.int64), ([[True], [False]], np.bool_), ((1, 2.5), np.float32),
    ([], np.float32),
    (np.zeros(2, np.float16), np.float32), (np.zeros(2, np.float32), np.float32), (np.zeros(2), np.float64),
    (np.zeros(2, np.int8), np.int64), (np.zeros(2, np.int32), np.int64), (np.zeros(2, np.uint32), np.int64),
    (np.zeros(2, np.uint8), np.int64), (np.zeros(2, np.bool_), np.bool_), (np.zeros(2, ">f4"), np.float32),
    (np.zeros(2, ">f8"), np.float64), (np.zeros(2, ">i8"), np.int64), (np.zeros(2, ">f2"), np.float32),
    (np.zeros(2, ">i2"), np.int64), (Interface(np.zeros(2, np.float32)), np.float32), (Dlpack(np.zeros(3)), np.float64),
]  # fmt: skip


def name_of(value: Any) -> str:
    """Without addresses: processes that share the tests must agree on their names."""
    return getattr(value, "__name__", type(value).__name__ if hasattr(value, "array") else repr(value)[:40])


@pytest.mark.parametrize(("data", "dtype"), CONVERSIONS, ids=name_of)
def test_data_become_the_documented_dtype(data: Any, dtype: Any) -> None:
    t = gk.tensor(data)
    assert t.dtype == dtype
    assert t.dtype.isnative
    assert t.data.flags.c_contiguous
    plain = data.array if hasattr(data, "array") else data
    assert t.tolist() == np.asarray(plain).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(2, np.uint64), "uint64"), (np.zeros(2, np.complex64), "complex64"), (np.array(["a"]), "<U1"),
        (np.array([None]), "object"), ("text", "<U4"), (None, "object"), (1j, "complex128"), ([2**63], "uint64"),
        ([2**70], "object"), (np.zeros(2, "M8[s]"), "datetime64"), (np.zeros(2, [("a", "f4")]), "'a'"),
        (np.zeros(2, np.longdouble), "float128|longdouble"), ({"a": 1}, "object"),
    ],
)  # fmt: skip
def test_other_dtypes_are_refused_by_name(data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"tensor: dtype .*({message}).* is not supported; float32, float64, int64"):
        gk.tensor(data)


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(ValueError, match="tensor: the data is not a rectangular array"):
        gk.tensor([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match=r"tensor: the data is on DLPack device \(8, 0\); copy it to the CPU"):
        gk.tensor(Dlpack(np.zeros(2), (8, 0)))
    with pytest.raises(ValueError, match=r"tensor: shape .* has 9 axes; the limit is 8"):
        gk.tensor(np.zeros((1,) * 9))


def test_a_dtype_can_be_asked_for() -> None:
    assert gk.tensor([1, 2], dtype=np.float64).dtype == np.float64
    assert gk.tensor([1.7], dtype="int64").tolist() == [1]
    for bad in (np.float16, np.int32, "complex64", "no such", object, ">f4"):
        with pytest.raises(TypeError, match=r"tensor: dtype .* is not supported; use float32"):
            gk.tensor([1], dtype=bad)
    with pytest.raises(TypeError, match="cannot convert data of dtype complex128 to float32"):
        gk.tensor([1j], dtype=np.float32)


@pytest.mark.cpu_only
def test_tensor_copies_and_from_array_shares() -> None:
    a = np.zeros((2, 3), np.float32)
    copied, shared = gk.tensor(a), gk.from_array(a)
    a[0, 0] = 7
    assert copied.numpy()[0, 0] == 0
    assert shared.numpy()[0, 0] == 7
    assert shared.numpy() is a
    assert np.shares_memory(gk.from_array(a.T[::-1]).numpy(), a)
    assert np.shares_memory(gk.from_array(Dlpack(a)).numpy(), a)
    assert gk.tensor(shared).data is not a


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(2, np.float16), "float16"), (np.zeros(2, np.int32), "int32"), (np.zeros(2, ">f4"), ">f4"),
        (np.zeros(9, np.uint8)[1:].view(np.float32), "aligned"), ([1.0], "list"), (1.0, "float"),
        (np.zeros(3, [("a", "f4"), ("b", "i1")])["a"], r"strides \(5,\)"),
    ],
)  # fmt: skip
def test_from_array_refuses_what_it_cannot_share(array: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"from_array: .*{message}"):
        gk.from_array(array)


def test_arrays_read_only_or_with_negative_strides_can_be_used() -> None:
    a = np.arange(6.0).reshape(2, 3)
    a.flags.writeable = False
    assert (gk.from_array(a)[:, ::-1] + gk.from_array(a)).tolist() == [[2, 2, 2], [8, 8, 8]]


@pytest.mark.cpu_only
def test_a_tensor_gives_its_array_through_every_protocol() -> None:
    t = gk.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert np.asarray(t) is t.data
    assert np.array(t) is not t.data
    assert np.asarray(t, np.float64).dtype == np.float64
    assert np.shares_memory(np.from_dlpack(t), t.data)
    assert_same_bits(np.from_dlpack(t.T), t.data.T)
    assert t.tolist() == [[1, 2], [3, 4]]
    assert float(t[1, 1]) == 4.0
    assert int(t[1, 0]) == 3
    assert t[0, 1].item() == 2.0
    assert bool(t[0, 0])
    assert t.device == "cpu"


@pytest.mark.cpu_only
def test_a_tensor_prints_what_it_holds() -> None:
    assert repr(gk.tensor([1.0])) == "tensor([1.], dtype=float32)"
    assert "requires_grad=True" in repr(gk.tensor([1.0], requires_grad=True))
    assert f"{gk.tensor(2.5):.2f}" == "2.50"
    assert f"{gk.tensor([1])}" == "tensor([1], dtype=int64)"


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gk.zeros(2).item(), ValueError, r"item: .*shape \(2,\)"),
        (lambda: bool(gk.zeros(2)), ValueError, r"bool: .*\(2,\) is ambiguous"),
        (lambda: len(gk.tensor(1.0)), TypeError, "without axes"),
        (lambda: list(gk.tensor(1.0)), TypeError, "without axes"),
        (lambda: gk.tensor([1.0], device="tpu"), gk.DeviceError, "there is no device 'tpu'; the names are 'cpu' and"),
        (lambda: gk.zeros(2).to("float16"), TypeError, "cast: dtype .*float16.* is not supported"),
        (lambda: gk.zeros(2).to("nonsense"), TypeError, "cast: expected a dtype .* got 'nonsense'"),
        (lambda: gk.zeros(2, dtype=np.float16), TypeError, "full: dtype .*float16.* is not supported"),
        (lambda: gk.zeros(2.5), TypeError, r"full: the shape must be an int or ints, got 2\.5"),
        (lambda: gk.zeros(2, -1), ValueError, r"full: the extents must not be negative, got \(2, -1\)"),
        (lambda: gk.zeros(2**40, 2**10), ValueError, r"full: shape .* elements; the limit is"),
        (lambda: gk.zeros(2**45), MemoryError, r"shape \(35184372088832,\) takes 140737488355328 bytes"),
        (lambda: gk.rand(2, dtype=np.int64), TypeError, "random_uniform: dtype int64"),
        (lambda: gk.randn(-2), ValueError, "random_normal: the extents must not be negative"),
        (lambda: gk.Generator(-1), ValueError, "Generator: seed must be an int from 0"),
        (lambda: gk.Generator(1.5), ValueError, r"Generator: seed .* got 1\.5"),
        (lambda: gk.Generator(1).integers(0, 2), ValueError, "high must be an int from 1"),
    ],
)
def test_wrong_use_of_a_tensor_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_constructors() -> None:
    assert gk.zeros(2, 3).shape == gk.zeros((2, 3)).shape == (2, 3)
    assert gk.zeros().shape == ()
    assert gk.ones([4]).tolist() == [1, 1, 1, 1]
    assert gk.full((2,), 3, dtype=np.int64).tolist() == [3, 3]
    assert gk.zeros(2, requires_grad=True).requires_grad
    assert gk.rand(3, 2).shape == (3, 2)
    gk.manual_seed(3)
    first = gk.randn(4).numpy()
    gk.manual_seed(3)
    assert_same_bits(gk.randn((4,)).numpy(), first)


def test_a_tensor_can_be_a_key_and_be_compared_by_identity() -> None:
    a, b = gk.zeros(1), gk.zeros(1)
    assert len({a, b, a}) == 2
    assert copy.copy([a])[0] is a


@pytest.mark.cpu_only
def test_numpy_on_the_left_leaves_the_operation_to_the_tensor() -> None:
    t = gk.tensor([1.0, 2.0], requires_grad=True)
    for y in (np.ones(2, np.float32) - t, np.float32(3) / t, np.float64(2) * t, np.ones(2, np.float32) @ t):
        assert isinstance(y, gk.Tensor)
        assert y.requires_grad
    assert (np.zeros(2, np.float32) < t).tolist() == [True, True]


@pytest.mark.cpu_only
def test_arrays_beside_tensors_are_taken_as_they_are() -> None:
    assert (gk.zeros(2) + np.ones(2)).dtype == np.float64
    assert ops.matmul(gk.ones(1, 2), gk.tensor(np.ones((2, 1), np.float32))).item() == 2.0


torch_cases = ["float32", "float64", "int64", "bool", "float16", "int32", "uint8"]


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", torch_cases)
def test_pytorch_tensors_are_read_through_dlpack(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    source = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)).T
    t = gk.tensor(source)
    assert t.tolist() == source.tolist()
    assert_same_bits(torch.from_dlpack(t).numpy(), t.numpy())
    if dtype in ("float32", "float64", "int64", "bool"):
        assert gk.from_array(source).data.ctypes.data == source.data_ptr()


def test_pytorch_tensors_that_cannot_be_read_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="part of another library's graph; detach it first"):
        gk.tensor(torch.zeros(2, requires_grad=True))
    with pytest.raises(TypeError, match=r"cannot read the Tensor of dtype torch\.bfloat16 through DLPack"):
        gk.tensor(torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="complex64"):
        gk.tensor(torch.zeros(2, dtype=torch.complex64))
