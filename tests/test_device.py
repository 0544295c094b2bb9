"""Tensors, networks and optimizers on a device, on a stand-in that refuses every silent look at its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fake_cuda
import numpy as np
import pytest

import gankernels as gk
from gankernels import backends, nn, ops, optim
from gankernels.autograd import Tensor
from gankernels.backends.device_array import DeviceArray
from gankernels.nn import functional as F
from gankernels.ops import update


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    before = backends._serving.get("cuda")
    backends.serve("cuda", fake_cuda)
    with gk.device("cpu"):
        yield
    backends.serve("cuda", before)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def host(t: Any) -> Any:
    return t.detach().cpu().numpy() if isinstance(t, Tensor) else t


# ---- moving --------------------------------------------------------------------------------------------------------
def test_a_tensor_moves_there_and_back() -> None:
    x = gk.tensor([[1.0, 2.0], [3.0, 4.0]])
    there = x.to("cuda")
    assert (x.device, there.device, there.cpu().device, x.cuda().device) == ("cpu", "cuda", "cpu", "cuda")
    assert type(there.data) is DeviceArray
    assert there.to("cuda") is there
    assert x.cpu() is x
    np.testing.assert_array_equal(there.t().cpu().numpy(), x.t().numpy())
    assert x.to(there).device == "cuda"
    moved = x.to("cuda", np.float64)
    assert (moved.device, moved.dtype) == ("cuda", np.float64)
    assert x.to(device="cuda", dtype=np.int64).tolist() == [[1, 2], [3, 4]]


@pytest.mark.cpu_only
def test_a_tensor_on_a_device_is_read_only_where_that_is_asked_for() -> None:
    x = gk.tensor([3.0], device="cuda")
    assert (x.item(), float(x), int(x), bool(x), x.tolist(), f"{x:.1f}") == (3.0, 3.0, 3, True, [3.0], "3.0")
    assert repr(x) == "tensor([3.], dtype=float32, device='cuda')"
    with pytest.raises(TypeError, match=r"numpy: the tensor is on 'cuda'; use t\.cpu\(\)\.numpy\(\)"):
        x.numpy()
    with pytest.raises(TypeError, match=r"t\.cpu\(\)\.numpy\(\)"):
        np.asarray(x)
    with pytest.raises((BufferError, RuntimeError), match="device"):
        np.from_dlpack(x)
    assert x.__cuda_array_interface__["shape"] == (1,)
    assert not hasattr(gk.ones(1), "__cuda_array_interface__")


def test_gradients_come_back_to_where_the_leaves_are() -> None:
    x = gk.tensor(normal(2, 3), requires_grad=True)
    ((x.to("cuda") * 2.0).cpu() ** 2).sum().backward()
    assert x.grad is not None
    assert x.grad.device == "cpu"
    np.testing.assert_allclose(x.grad.numpy(), 8.0 * host(x), rtol=1e-6)
    y = gk.tensor(normal(2, 3), requires_grad=True, device="cuda")
    (y.cpu() ** 2).sum().backward()
    assert y.grad is not None
    assert y.grad.device == "cuda"


def test_factories_make_tensors_where_they_are_told_to() -> None:
    stream = gk.Generator(3)
    made: list[Callable[..., Tensor]] = [
        lambda **k: gk.zeros(2, 3, **k),
        lambda **k: gk.ones((2, 3), **k),
        lambda **k: gk.full((2,), 7, dtype=np.int64, **k),
        lambda **k: gk.full((2,), True, dtype=np.bool_, **k),
        lambda **k: gk.arange(5, **k),
        lambda **k: gk.linspace(0, 1, 4, **k),
        lambda **k: gk.eye(3, 2, **k),
        lambda **k: gk.rand(3, generator=gk.Generator(1), **k),
        lambda **k: gk.randn(3, generator=gk.Generator(1), **k),
        lambda **k: gk.Generator(1).integers(10, (6,), **k),
        lambda **k: gk.tensor([1.0, 2.0], **k),
        lambda **k: gk.zeros_like(gk.ones(2), **k),
        lambda **k: gk.ones(2).new_zeros(3, **k),
    ]
    for make in made:
        here, there = make(), make(device="cuda")
        assert (here.device, there.device, here.dtype) == ("cpu", "cuda", there.dtype)
        np.testing.assert_array_equal(here.numpy(), there.cpu().numpy())
        with gk.device("cuda"):
            assert make().device == "cuda"
    assert gk.get_default_device() == "cpu"
    assert stream.offset == 0
    like = gk.ones(2, device="cuda")
    assert {gk.zeros_like(like).device, gk.ones_like(like).device, like.new_ones(3).device} == {"cuda"}


def test_the_default_device_is_restored_and_nests() -> None:
    with gk.device("cuda"):
        with gk.device("cpu"):
            assert gk.zeros(1).device == "cpu"
        assert gk.zeros(1).device == "cuda"
        assert nn.Linear(2, 3).weight.device == "cuda"
    assert gk.zeros(1).device == "cpu"
    gk.set_default_device("cuda")
    assert gk.get_default_device() == "cuda"
    gk.set_default_device("cpu")
    with pytest.raises(gk.DeviceError, match="there is no device 'tpu'; the names are 'cpu' and 'cuda'"):
        gk.set_default_device("tpu")


# ---- two devices in one operation ----------------------------------------------------------------------------------
def _mixed() -> dict[str, tuple[Callable[[Any, Any], Any], str]]:
    a = gk.ones(2, 2)
    conv = "conv: w is on 'cpu', x on 'cuda'; move one of them with .to"
    return {
        "add": (lambda x, y: x + y, "add: the second operand is on 'cpu', the first operand on 'cuda'"),
        "rsub": (lambda x, y: y - x, "sub: the second operand is on 'cuda', the first operand on 'cpu'"),
        "less": (lambda x, y: x < y, "less: the second operand is on 'cpu'"),
        "matmul": (lambda x, y: x @ y, "matmul: b is on 'cpu', a on 'cuda'"),
        "linear": (lambda x, y: ops.linear(x, y), "linear: weight is on 'cpu', x on 'cuda'"),
        "conv": (lambda x, y: ops.conv(x.reshape(1, 2, 2), y.reshape(2, 2, 1)), conv),
        "where": (lambda x, y: gk.where(y > 0, x, 0.0), "where: a is on 'cuda', condition on 'cpu'"),
        "cat": (lambda x, y: gk.cat([x, y]), "cat: the second operand"),
        "batch_norm": (lambda x, y: ops.batch_norm(x, y[0], y[1]), "batch_norm: running_mean is on 'cpu'"),
        "copy_": (lambda x, y: update.copy_(x, y), "copy_: the other is on 'cpu', the tensor to change on 'cuda'"),
        "embedding": (lambda x, y: ops.embedding(y.long(), x), "embedding: weight is on 'cuda', index on 'cpu'"),
        "nll": (lambda x, y: F.nll_loss(x, y[0].long()), "nll_loss: target is on 'cpu', input on 'cuda'"),
        "array": (lambda x, y: x + y.numpy(), "add: the second operand is on 'cpu'"),
        "gradient": (lambda x, y: x.requires_grad_().backward(y + a), "backward: the gradient is on 'cpu'"),
    }


@pytest.mark.parametrize("name", _mixed())
def test_two_devices_in_one_operation_are_refused_by_name(name: str) -> None:
    call, message = _mixed()[name]
    with pytest.raises(RuntimeError, match=message):
        call(gk.ones(2, 2, device="cuda"), gk.ones(2, 2))


# ---- every kind of operation gives the CPU's bits --------------------------------------------------------------------
X, W = normal(2, 3, 6, 5), normal(4, 3, 3, 2, seed=1)
OPERATIONS: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda x: (2.0 - x) * x / (x * x + 1.0) - x**3 + 2.0**x,
    "broadcast": lambda x: x + x[:, :1] * x[0, 0, 0],
    "views": lambda x: gk.flip(x.permute(2, 0, 3, 1)[1:4, ::1, None, -1], 0).reshape(-1),
    "joins": lambda x: gk.stack([gk.cat([x, x[:1]]), gk.cat([x[1:], x])]),
    "pad": lambda x: gk.pad(x, (1, 2, -1, 0), value=3.0),
    "reduce": lambda x: gk.cat([x.sum((0, 2)).reshape(-1), x.mean().reshape(1), x.var(1).reshape(-1)]),
    "norms": lambda x: x.norm() + x.norm(1) + x.std() + x.amax() - x.amin((0, 1)).sum(),
    "extremes": lambda x: gk.max(x, 2)[0] + gk.min(x, 2)[0] + x.max() + gk.maximum(x, 0.5).sum(),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(0) + x.logsumexp(2, True),
    "choice": lambda x: gk.where((x > 0) & ~(x > 1) | x.isnan(), x, gk.where(x > 0, 1.0, 0.5) * x),
    "clamps": lambda x: x.clamp(-0.5) + F.relu(x) + F.leaky_relu(x) + F.elu(x) + F.softplus(x) + F.gelu(x),
    "prod": lambda x: gk.prod(x, 3) + x.masked_fill(x > 0, 2.0).prod(),
    "index": lambda x: x[[1, 0, 0]].sum() + x[x > 0].sum() + gk.index_select(x, 2, [3, -1]) + x[0, [1, 2]].sum(),
    "repeat": lambda x: gk.tile(gk.repeat(x, 1, 1, 2, 1), 2),
    "split": lambda x: gk.cat([a * i for i, a in enumerate((*gk.split(x, 2, 2), *gk.chunk(x, 2, 3)[:0]))], 2),
    "conv": lambda x: ops.conv(x, gk.tensor(W, device=x.device), stride=(2, 1), padding=1),
    "deconv": lambda x: ops.conv_transpose(x, gk.tensor(W[:3, :2], device=x.device), stride=2),
    "local": lambda x: ops.local_conv(x, gk.tensor(normal(2, 3, 4, 4, 3, 2), device=x.device)),
    "columns": lambda x: ops.col2im(ops.im2col(x, 2), (6, 5), 2),
    "upsample": lambda x: ops.upsample_conv(x, gk.tensor(W, device=x.device), factors=2),
    "pools": lambda x: ops.max_pool(x, 2) + ops.avg_pool(x, 2) + ops.upsample_nearest(x, 2)[:, :, :3, :2],
    "normalise": lambda x: ops.batch_norm(x, None, None, training=True) + ops.layer_norm(x, 5) + ops.group_norm(x, 3),
    "dropout": lambda x: ops.dropout(x, 0.3, generator=gk.Generator(5)),
    "losses": lambda x: F.mse_loss(x, x * 0.5) + F.huber_loss(x, x * 0.1),
    "probabilities": lambda x: F.binary_cross_entropy(x.sigmoid(), x.tanh() ** 2),
    "classes": lambda x: F.cross_entropy(
        x, gk.tensor(np.arange(60).reshape(2, 6, 5) % 3, device=x.device), label_smoothing=0.1
    ),
    "copies": lambda x: x.clone() + x.double().float(),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_and_its_gradient_have_the_bits_of_the_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        x = gk.tensor(X, requires_grad=True, device=device)
        y = OPERATIONS[name](x)
        assert y.device == device
        y.sum().backward()
        assert x.grad is not None
        found.append((host(y), host(x.grad)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x * 3 - x.sum(),
        lambda x: x.sum(0),
        lambda x: (x > 2).sum(1, True),
        lambda x: x.max(1)[1] + x.argmin(1),
        lambda x: x.max() + x.min(),
        lambda x: x**2,
        lambda x: x.prod(0),
        lambda x: x[:, [2, 0]],
        lambda x: x[x > 3],
        lambda x: gk.where(x > 2, x, 0),
        lambda x: gk.cat([x, x.flip(0)]),
        lambda x: x.float().mean(),
        lambda x: x / 2,
        lambda x: (x == 1) | (x != x.t().t()),
        lambda x: gk.tensor([x.any(), (x > 1).all(), (x == x).all()]).cpu(),
    ],
)
def test_indices_and_masks_stay_on_the_device(function: Callable[[Tensor], Tensor]) -> None:
    x = np.arange(12).reshape(3, 4) % 7
    here, there = function(gk.tensor(x)), function(gk.tensor(x, device="cuda"))
    assert here.dtype == there.dtype
    np.testing.assert_array_equal(host(here), host(there))


def test_a_number_beside_a_tensor_is_made_on_the_device_once() -> None:
    x = gk.tensor([1.0, -2.0], device="cuda")
    for _ in range(2):
        fills = fake_cuda.launches.get("fill", 0)
        assert (x > 0.625).tolist() == [True, False]
        assert [str(v) for v in (gk.where(x > 5.0, x, -0.0) + gk.where(x > 5.0, x, 0.0)).tolist()] == ["0.0", "0.0"]
        assert [str(v) for v in gk.where(x > 5.0, x, -0.0).tolist()] == ["-0.0", "-0.0"]
    assert fake_cuda.launches["fill"] == fills


# ---- networks --------------------------------------------------------------------------------------------------------
def network(device: str) -> nn.Sequential:
    stream = gk.Generator(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, generator=stream), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
        nn.Dropout(0.2, generator=gk.Generator(4)), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3, generator=stream),
    ).to(device)  # fmt: skip


def trained(device: str, steps: int = 3) -> tuple[nn.Sequential, Any, list[float]]:
    net = network(device)
    optimizer = optim.Adam(net.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for i in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(
            net(gk.tensor(normal(5, 1, 4, 4, seed=i), device=device)), gk.tensor([0, 1, 2, 1, 0], device=device)
        )
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return net, optimizer, losses


def test_training_on_the_device_gives_the_bits_of_the_cpu() -> None:
    (here, _, expected), (there, _, found) = trained("cpu"), trained("cuda")
    assert found == expected
    for (name, a), b in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        assert (a.device, b.device) == ("cpu", "cuda")
        np.testing.assert_array_equal(host(a), host(b), err_msg=name)


def test_a_module_moves_with_its_buffers_and_keeps_its_tensors() -> None:
    net = network("cpu")
    weight, tensors = net[0].weight, [*net.parameters(), *net.buffers()]
    assert net.cuda() is net
    assert net[0].weight is weight
    assert {t.device for t in tensors} == {"cuda"}
    assert {t.device for t in [*net.cpu().parameters(), *net.buffers()]} == {"cpu"}
    assert net.to("cuda", np.float64)[0].weight.dtype == np.float64
    assert net[1].num_batches_tracked.dtype == np.int64


def test_states_go_to_the_host_and_back_to_wherever_the_parameters_are() -> None:
    net, optimizer, _ = trained("cuda")
    saved = {name: host(t).copy() for name, t in net.state_dict().items()}
    moments = optimizer.state_dict()
    assert moments["state"][0]["exp_avg"].device == "cuda"
    for device in ("cpu", "cuda"):
        other = network(device)
        other.load_state_dict(saved)
        again = optim.Adam(other.parameters(), lr=0.01, weight_decay=0.1)
        again.load_state_dict(moments)
        assert {t.device for t in other.state_dict().values()} == {device}
        assert again.state[next(other.parameters())]["exp_avg"].device == device
        net.load_state_dict(other.state_dict())


def test_a_model_that_moved_after_its_optimizers_first_step_is_told_so() -> None:
    net, optimizer, _ = trained("cpu", 1)
    net.cuda()
    net(gk.tensor(normal(5, 1, 4, 4), device="cuda")).sum().backward()
    with pytest.raises(
        RuntimeError, match=r"adam_step: the optimizer's state is on 'cpu', the tensor to change on 'cuda'"
    ):
        optimizer.step()


def test_moving_averages_follow_the_device() -> None:
    from gankernels.gan.ema import EMA

    net, _, _ = trained("cuda", 1)
    average = EMA(net, 0.9)
    average.update(net)
    stored = {name: host(t) for name, t in average.state_dict().items()}
    average.load_state_dict(stored, 1)
    assert {t.device for t in average.state_dict().values()} == {"cuda"}
    with average.applied(net):
        assert next(net.parameters()).device == "cuda"


@pytest.mark.cpu_only
def test_another_librarys_array_on_the_device_is_shared_and_copied_there() -> None:
    owner = gk.tensor(normal(2, 3), device="cuda")

    class Elsewhere:
        def __dlpack__(self, **kwargs: Any) -> Any:
            return owner.t().data.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    reads = fake_cuda.reads
    copied = gk.tensor(Elsewhere())
    assert (copied.device, copied.shape) == ("cuda", (3, 2))
    shared = gk.from_array(Elsewhere())
    assert shared.data.ptr == owner.data.ptr
    assert fake_cuda.reads == reads
