"""nn.functional takes PyTorch's argument names, order and defaults; what is not supported is refused by name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn
from gankernels.nn import functional as F

RNG = np.random.default_rng(3)
NAMES = [
    "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dropout", "elu",
    "embedding", "group_norm", "instance_norm", "interpolate", "l1_loss", "layer_norm", "leaky_relu", "log_softmax",
    "mse_loss", "nll_loss", "normalize", "pad", "relu", "sigmoid", "smooth_l1_loss", "softmax", "tanh",
]  # fmt: skip
NOT_OURS = {"_stacklevel", "out", "weight"}  # weight: of mse_loss and l1_loss since PyTorch 2.8


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_are_pytorchs_in_its_order(name):
    torch = pytest.importorskip("torch")
    theirs = inspect.signature(getattr(torch.nn.functional, name)).parameters
    ours = inspect.signature(getattr(F, name)).parameters
    common = [n for n in theirs if n in ours or n not in NOT_OURS]
    assert [n for n in ours if n != "generator"] == common
    for n in common:
        default = theirs[n].default
        assert ours[n].default is default or ours[n].default == default, n


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 3, 4, 2)])
def test_softmax_without_an_axis_takes_pytorchs(shape):
    x = gk.tensor(RNG.normal(size=shape))
    axis = 0 if len(shape) in (1, 3) else 1
    for ours in (F.softmax(x), nn.Softmax()(x)):
        assert np.array_equal(ours.numpy(), F.softmax(x, axis).numpy())
    for ours in (F.log_softmax(x), nn.LogSoftmax()(x)):
        assert np.array_equal(ours.numpy(), F.log_softmax(x, axis).numpy())


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 3, 4), (2, 3, 4, 2)])
def test_softmax_without_an_axis_agrees_with_pytorch(shape):
    torch = pytest.importorskip("torch")
    x = np.asarray(RNG.normal(size=shape))
    for name in ("softmax", "log_softmax"):
        theirs = getattr(torch.nn.functional, name)(torch.tensor(x)).numpy()
        assert np.abs(getattr(F, name)(gk.tensor(x)).numpy() - theirs).max() <= 1e-14


def test_instance_norm_takes_pytorchs_order():
    torch = pytest.importorskip("torch")
    x, w, b = RNG.normal(size=(2, 3, 5)), RNG.normal(size=3), RNG.normal(size=3)
    ours = F.instance_norm(gk.tensor(x), None, None, gk.tensor(w), gk.tensor(b), True, 0.1, 1e-3)
    theirs = torch.nn.functional.instance_norm(
        torch.tensor(x), None, None, torch.tensor(w), torch.tensor(b), True, 0.1, 1e-3
    )
    assert np.abs(ours.numpy() - theirs.numpy()).max() <= 1e-13


def test_normalize_by_each_norm_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    x = RNG.normal(size=(3, 4, 2))
    for p in (1.0, 2.0, float("inf")):
        theirs = torch.nn.functional.normalize(torch.tensor(x), p, 2).numpy()
        assert np.abs(F.normalize(gk.tensor(x), p, 2).numpy() - theirs).max() <= 1e-14


def test_the_row_of_padding_receives_no_gradient():
    weight = gk.ones(4, 2, requires_grad=True)
    F.embedding(gk.tensor([1, 3, 3]), weight, -1).sum().backward()
    assert weight.grad.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_pad_and_the_norms_take_pytorchs_keywords():
    assert F.pad(gk.ones(2), pad=(1, 0)).tolist() == [0, 1, 1]
    assert F.pad(gk.ones(2), (0, 1), "constant", 3.0).tolist() == [1, 1, 3]
    for layer in (
        nn.BatchNorm1d(4, bias=False), nn.GroupNorm(2, 4, bias=False), nn.InstanceNorm1d(4, affine=True, bias=False),
    ):  # fmt: skip
        assert layer.bias is None
        assert layer.weight is not None
        assert layer(gk.randn(3, 4, 5)).shape == (3, 4, 5)


X = gk.ones(2, 3, 4)
REFUSED = [
    (lambda: F.relu(X, True), r"relu: inplace=True is not supported"),
    (lambda: F.leaky_relu(X, 0.1, True), r"leaky_relu: inplace=True"),
    (lambda: F.elu(X, inplace=True), r"elu: inplace=True"),
    (lambda: F.dropout(X, 0.5, True, True), r"dropout: inplace=True"),
    (lambda: F.gelu(X, approximate="tanh"), r"gelu: approximate='tanh' is not supported; expected 'none'"),
    (lambda: F.instance_norm(X, gk.zeros(3)), r"instance_norm: running_mean is not supported"),
    (lambda: F.instance_norm(X, None, gk.ones(3)), r"instance_norm: running_var is not supported"),
    (lambda: F.instance_norm(X, use_input_stats=False), r"instance_norm: use_input_stats=False"),
    (lambda: F.embedding(gk.tensor([0]), gk.ones(2, 2), None, 1.0), r"embedding: max_norm=1\.0 is not supported"),
    (lambda: F.embedding(gk.tensor([0]), gk.ones(2, 2), 2), r"embedding: padding_idx 2 is out of range"),
    (lambda: F.embedding(gk.tensor([0]), gk.ones(2, 2), sparse=True), r"embedding: sparse=True"),
    (lambda: nn.Embedding(2, 2, max_norm=2.0), r"Embedding: max_norm=2\.0"),
    (lambda: F.normalize(X, 3), r"normalize: p=3 is not supported; expected 1, 2 or inf"),
    (lambda: F.interpolate(X, scale_factor=2, align_corners=False), r"interpolate: align_corners=False"),
    (lambda: nn.Upsample(scale_factor=2, align_corners=True), r"Upsample: align_corners=True"),
    (lambda: F.mse_loss(X, X, True), r"mse_loss: size_average=True is not supported; expected None"),
    (lambda: F.cross_entropy(X, gk.zeros(2, 4, dtype=np.int64), reduce=False), r"cross_entropy: reduce=False"),
    (lambda: nn.BCELoss(size_average=False), r"BCELoss: size_average=False"),
    (lambda: nn.MSELoss(reduce=True), r"MSELoss: reduce=True"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_losses_take_the_deprecated_arguments_as_none():
    assert F.mse_loss(X, X, None, None, "sum").item() == 0
    assert nn.MSELoss(None, None, "none")(X, X).shape == X.shape
    assert nn.NLLLoss(None, None, -1, None, "sum").ignore_index == -1
