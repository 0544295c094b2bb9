"""Module: registration, walking, switching, state."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn
from gankernels.ops import update


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(gk.ones(4))
        self.register_buffer("seen", gk.zeros(2))
        self.register_buffer("scratch", gk.zeros(2), persistent=False)
        self.constant = gk.ones(4)

    def forward(self, x):
        return self.norm(self.first(x)) * self.scale


KEYS = ["scale", "seen", "first.weight", "first.bias", "norm.weight", "norm.bias", "norm.running_mean",
        "norm.running_var", "norm.num_batches_tracked"]  # fmt: skip


def test_assignment_registers_and_state_dict_lists_own_names_before_those_below():
    net = Net()
    assert list(net.state_dict()) == KEYS
    assert [n for n, _ in net.named_parameters()] == ["scale", "first.weight", "first.bias", "norm.weight", "norm.bias"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "norm"]
    assert [n for n, _ in net.named_buffers()][:2] == ["seen", "scratch"]
    assert net.num_parameters() == 4 + 12 + 4 + 4 + 4
    assert net.get_parameter("first.bias") is net.first.bias
    assert net.get_submodule("norm") is net.norm
    assert net.get_submodule("") is net
    with pytest.raises(AttributeError, match=r"there is no parameter 'first\.scale'"):
        net.get_parameter("first.scale")
    with pytest.raises(AttributeError, match="no sub-module 'second'"):
        net.get_submodule("second.bias")


def test_state_dict_shares_memory_and_is_outside_the_graph():
    net = Net()
    state = net.state_dict()
    assert not any(t.requires_grad for t in state.values())
    update.fill_(state["scale"], 5)
    assert net.scale.detach().numpy().tolist() == [5] * 4


def test_load_state_dict_copies_in_place_and_is_noticed_by_stale_graphs():
    net, other = Net(), Net()
    weight = net.first.weight
    y = net(gk.randn(5, 3)).sum()
    assert net.load_state_dict(other.state_dict()) == ([], [])
    assert net.first.weight is weight
    assert np.array_equal(weight.detach().numpy(), other.first.weight.detach().numpy())
    update.fill_(other.first.weight.detach(), 0)
    assert weight.detach().numpy().any()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_load_state_dict_accepts_arrays_and_says_what_does_not_match():
    net = Net()
    good = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    net.load_state_dict(good)
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    short = {k: v for k, v in good.items() if k != "norm.bias"}
    with pytest.raises(KeyError, match=r"missing: 'norm.bias'; unexpected: 'extra'"):
        net.load_state_dict({**short, "extra": np.ones(1)})
    assert net.load_state_dict({**short, "extra": np.ones(1)}, strict=False) == (["norm.bias"], ["extra"])
    bad = [
        (
            {"first.weight": np.ones((4, 2), np.float32)},
            ValueError,
            r"'first.weight' has shape \(4, 2\), expected",
        ),
        ({"scale": np.ones(4)}, TypeError, "'scale' has dtype float64, expected float32"),
        ({"scale": np.ones(4, np.float16)}, TypeError, "'scale' has dtype float16, expected float32"),
        ({"norm.num_batches_tracked": np.zeros((), np.int32)}, TypeError, "dtype int32, expected int64"),
        ({"scale": np.array(["a"] * 4)}, TypeError, "'scale' cannot be read"),
    ]
    for change, error, message in bad:
        changed = {k: v + 1 if v.dtype == np.float32 else v for k, v in good.items()}
        with pytest.raises(error, match=message):
            net.load_state_dict({**changed, **change})
    assert all(np.array_equal(v.numpy(), before[k]) for k, v in net.state_dict().items())


def test_a_failed_load_after_a_good_entry_changes_nothing():
    net = nn.Linear(2, 2)
    before = net.weight.detach().numpy().copy()
    with pytest.raises(ValueError, match="'bias' has shape"):
        net.load_state_dict({"weight": np.zeros((2, 2), np.float32), "bias": np.zeros(3, np.float32)})
    assert np.array_equal(net.weight.detach().numpy(), before)


def test_train_eval_and_requires_grad_reach_every_module():
    net = nn.Sequential(Net(), nn.Dropout(0.5))
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    assert net.num_parameters(trainable_only=True) == 0


def test_apply_visits_children_before_the_module_itself():
    names = []
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
    net.apply(lambda m: names.append(type(m).__name__))
    assert names == ["Linear", "ReLU", "Sequential", "Sequential"]


def test_conversion_keeps_the_parameters_and_leaves_integers_alone():
    net = Net()
    weight = net.first.weight
    assert net.double() is net
    assert net.first.weight is weight
    assert weight.dtype == np.float64
    assert net.norm.running_mean.dtype == np.float64
    assert net.norm.num_batches_tracked.dtype == np.int64
    assert net.float().scale.dtype == np.float32
    assert net.to("cpu") is net
    with pytest.raises(TypeError, match="expected float32, float64 or"):
        net.to(np.int64)


def test_zero_grad_forgets_or_fills_with_zeros():
    net = nn.Linear(2, 1)
    net(gk.ones(1, 2)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.weight.grad.numpy().tolist() == [[0.0, 0.0]]
    net.zero_grad()
    assert net.weight.grad is None


def test_shared_modules_are_listed_once_as_parameters_and_twice_as_state():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, layer)
    assert len(list(net.parameters())) == 2
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_deep_copy_shares_nothing():
    net = nn.Sequential(Net(), nn.spectral_norm(nn.Linear(4, 2)), nn.Dropout(0.1, generator=gk.Generator(1)))
    net(gk.randn(4, 3)).sum().backward()
    twin = copy.deepcopy(net)
    for (name, a), (other, b) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
        assert name == other
        assert np.array_equal(a.numpy(), b.numpy())
        assert a.data is not b.data
        assert not np.shares_memory(a.detach().numpy(), b.detach().numpy())
    frozen = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    twin(gk.randn(4, 3))
    assert all(np.array_equal(v.numpy(), frozen[k]) for k, v in net.state_dict().items())


def test_attributes_can_be_replaced_and_deleted():
    net = Net()
    net.scale = nn.Parameter(gk.zeros(4))
    assert net.get_parameter("scale").detach().numpy().tolist() == [0] * 4
    net.scale = None
    assert "scale" not in net.state_dict()
    with pytest.raises(TypeError, match="'norm' holds a Module; cannot assign a int"):
        net.norm = 3
    with pytest.raises(TypeError, match="'scale' holds a Parameter"):
        net.scale = gk.ones(4)
    net.seen = gk.ones(2)
    assert net.state_dict()["seen"].numpy().tolist() == [1, 1]
    del net.norm
    assert [n for n, _ in net.named_modules()] == ["", "first"]
    assert not hasattr(net, "norm")


def test_names_that_cannot_be_registered_are_refused():
    net = nn.Module()
    for name in ("", "a.b", 3):
        with pytest.raises(KeyError, match="non-empty string without a dot"):
            net.register_parameter(name, None)
    with pytest.raises(KeyError, match="taken by the class"):
        net.add_module("train", nn.ReLU())
    with pytest.raises(TypeError, match="must be a Parameter or None"):
        net.register_parameter("w", gk.ones(1))
    with pytest.raises(TypeError, match="must be a Tensor or None"):
        net.register_buffer("w", np.ones(1))
    with pytest.raises(TypeError, match="must be a Module"):
        net.add_module("w", None)

    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\)"):
        Early()


def test_hooks_see_and_may_replace_arguments_and_results():
    layer = nn.Identity()
    before = layer.register_forward_pre_hook(lambda m, args: args[0] + 1.0)
    after = layer.register_forward_hook(lambda m, args, y: y * 3.0)
    assert layer(gk.ones(1)).item() == 6.0
    before.remove()
    before.remove()
    assert layer(gk.ones(1)).item() == 3.0
    after.remove()
    assert layer(gk.ones(1)).item() == 1.0


def test_sequential_is_a_list_of_modules():
    net = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.ReLU()))
    assert list(net.state_dict()) == ["a.weight", "a.bias"]
    assert net[-1] is net.b
    assert len(net[:1]) == 1
    numbered = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).append(nn.Linear(3, 1))
    assert len(numbered) == 3
    del numbered[1]
    assert list(numbered.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    numbered[1] = nn.Linear(3, 5)
    assert numbered(gk.ones(1, 2)).shape == (1, 5)
    with pytest.raises(IndexError, match="out of range for 2 modules"):
        numbered[2]


def test_lists_and_dictionaries_register_their_modules():
    heads = nn.ModuleDict({"real": nn.Linear(2, 1), "energy": nn.Linear(2, 1)})
    assert [*heads] == ["real", "energy"]
    assert "real" in heads
    layers = nn.ModuleList([nn.Linear(1, 2), heads])
    assert list(layers.state_dict())[2] == "1.real.weight"
    assert [type(m) for m in layers[:1]] == [nn.Linear]


def test_the_printed_network_shows_its_arguments():
    net = nn.Sequential(nn.Conv3d(1, 2, 3, padding=((1, 2), (0, 1), (1, 1))), nn.LeakyReLU(0.3), nn.Dropout(0.2))
    text = repr(net)
    assert "(0): Conv3d(1, 2, kernel_size=(3, 3, 3), stride=(1, 1, 1), padding=((1, 2), (0, 1), (1, 1)))" in text
    assert "(1): LeakyReLU(negative_slope=0.3)" in text
    assert "(2): Dropout(p=0.2)" in text


@pytest.mark.cpu_only
def test_a_parameter_shares_its_array_unless_an_optimizer_could_not_change_it():
    array = np.ones((2, 3))
    assert nn.Parameter(array).data is array
    for unfit in (array.T, np.broadcast_to(array[:1], (2, 3))):
        p = nn.Parameter(gk.from_array(unfit))
        p.grad = gk.tensor(np.ones(p.shape))
        gk.optim.SGD([p], lr=1.0).step()
        assert not p.detach().numpy().any()
        assert unfit.all()
