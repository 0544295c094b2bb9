"""Layers without a counterpart to compare with, and what must hold without torch: formulas, errors, empty batches."""

from __future__ import annotations

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn
from gankernels.nn import functional as F
from gankernels.ops import update

RNG = np.random.default_rng(0)


def numbers(*shape):
    return gk.tensor(RNG.normal(size=shape))


def test_a_locally_connected_layer_of_equal_kernels_is_a_convolution():
    for rank, shape in ((1, (7,)), (2, (5, 6)), (3, (4, 3, 5))):
        for arguments in (
            {"padding": "same"},
            {"stride": 2, "padding": ((1, 0),) * rank},
            {"dilation": 2, "groups": 2},
        ):
            kernel = 2 if "dilation" in arguments else 3
            conv = getattr(nn, f"Conv{rank}d")(2, 4, kernel, **arguments).double()
            local = getattr(nn, f"LocallyConnected{rank}d")(2, 4, shape, kernel, **arguments).double()
            K = (kernel,) * rank
            every = (slice(None), slice(None), *(None,) * rank)
            local.load_state_dict({
                "weight": np.broadcast_to(conv.weight.detach().numpy()[every], local.weight.shape).copy(),
                "bias": np.broadcast_to(conv.bias.detach().numpy().reshape(4, *(1,) * rank), local.bias.shape).copy(),
            })  # fmt: skip
            assert local.weight.shape == (4, 2 // local.groups, *local.output_size, *K)
            x = numbers(2, 2, *shape)
            assert np.abs((local(x) - conv(x)).detach().numpy()).max() <= 1e-13
            assert local(x[0]).shape == (4, *local.output_size)


def test_upsampling_and_its_gradient_repeat_and_sum():
    x = gk.tensor(np.arange(4.0).reshape(1, 1, 4), requires_grad=True)
    y = nn.Upsample(scale_factor=3.0)(x)
    assert y.detach().numpy()[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    y.sum().backward()
    assert x.grad.numpy().ravel().tolist() == [3, 3, 3, 3]
    assert F.interpolate(x, size=8).shape == (1, 1, 8)


def test_zero_padding_takes_pairs_in_the_order_of_the_axes():
    y = nn.ZeroPad2d(((1, 0), (0, 2)))(gk.ones(1, 1, 2, 2))
    assert y.shape == (1, 1, 3, 4)
    assert y.numpy()[0, 0, 0].tolist() == [0] * 4
    assert y.numpy()[0, 0, 1].tolist() == [1, 1, 0, 0]
    assert np.array_equal(nn.ZeroPad2d((0, 2, 1, 0))(gk.ones(1, 1, 2, 2)).numpy(), y.numpy())


def test_reshape_keeps_the_batch():
    assert nn.Reshape(2, -1)(gk.ones(3, 4, 5)).shape == (3, 2, 10)
    assert nn.Reshape((20,))(gk.ones(3, 4, 5)).shape == (3, 20)


def test_dropout_repeats_with_its_generator_and_rests_in_evaluation():
    x = gk.ones(50, 40)
    first = nn.Dropout(0.3, generator=gk.Generator(5))
    again = nn.Dropout(0.3, generator=gk.Generator(5))
    y = first(x)
    assert np.array_equal(y.numpy(), again(x).numpy())
    assert not np.array_equal(y.numpy(), first(x).numpy())
    assert abs(float((y == 0.0).float().mean()) - 0.3) <= 5 * (0.3 * 0.7 / 2000) ** 0.5
    assert np.allclose(np.unique(y.numpy()), [0, 1 / 0.7])
    assert first.eval()(x) is x
    assert nn.GaussianNoise(0.1).eval()(x) is x
    noisy = nn.GaussianNoise(0.5, generator=gk.Generator(1))(x).numpy() - 1
    assert abs(noisy.std() - 0.5) <= 5 * 0.5 / (2 * 2000) ** 0.5


def naive_closeness(M):
    N, B, _ = M.shape
    return np.array([[sum(np.exp(-np.abs(M[i, b] - M[j, b]).sum()) for j in range(N)) for b in range(B)]
                     for i in range(N)])  # fmt: skip


def test_minibatch_discrimination_is_the_papers_formula():
    layer = nn.MinibatchDiscrimination(5, 3, 4).double()
    x = numbers(6, 5)
    M = np.einsum("na,abc->nbc", x.numpy(), layer.weight.detach().numpy())
    expected = np.concatenate([x.numpy(), naive_closeness(M)], 1)
    assert np.abs(layer(x).detach().numpy() - expected).max() <= 1e-13
    layer.concatenate, layer.include_self = False, False
    assert np.abs(layer(x).detach().numpy() - naive_closeness(M) + 1).max() <= 1e-13


def test_calogans_minibatch_features_have_a_bias_that_cancels():
    layer = nn.MinibatchDiscrimination(5, 10, 10, bias=True, concatenate=False, dtype=np.float64)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {"weight": (5, 10, 10), "bias": (10, 10)}
    x = numbers(4, 5)
    before = layer(x).detach().numpy()
    update.fill_(layer.bias.detach(), 0.25)
    assert np.abs(layer(x).detach().numpy() - before).max() <= 1e-12
    assert before.min() >= 1.0


@pytest.mark.cpu_only
def test_minibatch_discrimination_can_be_differentiated_twice():
    layer = nn.MinibatchDiscrimination(3, 2, 2).double()
    x = gk.tensor(RNG.normal(size=(4, 3)), requires_grad=True)

    def penalty():
        (dx,) = gk.grad(layer(x).square().sum(), x, create_graph=True)
        return dx.square().sum()

    (analytic,) = gk.grad(penalty(), layer.weight)
    step, w = 1e-5, layer.weight.data
    for position in ((0, 0, 0), (2, 1, 1), (1, 0, 1)):
        values = []
        for sign in (1, -1):
            w[position] += sign * step
            values.append(penalty().item())
            w[position] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert abs(numeric - analytic.numpy()[position]) <= 1e-6 * max(1, abs(numeric))


def test_spectral_norm_brings_the_largest_singular_value_to_one():
    layer = nn.spectral_norm(nn.Conv2d(3, 4, 3), generator=gk.Generator(2)).double()
    x = numbers(1, 3, 3, 3)
    for _ in range(200):
        layer(x)
    matrix = layer.weight.numpy().reshape(4, -1)
    assert abs(np.linalg.svd(matrix)[1][0] - 1) <= 1e-6
    y = layer.eval()(x).detach().numpy()
    nn.remove_spectral_norm(layer)
    assert list(layer.state_dict()) == ["bias", "weight"]
    assert np.array_equal(layer(x).detach().numpy(), y)
    with pytest.raises(ValueError, match="not normalised"):
        nn.remove_spectral_norm(layer)


@pytest.mark.cpu_only
def test_spectral_norm_of_a_spectrally_normalised_critic_has_a_penalty_gradient():
    """Finite differences in evaluation mode, where u and v rest: they are constants for differentiation."""
    critic = nn.Sequential(nn.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.spectral_norm(nn.Linear(4, 1))).double()
    x = gk.tensor(RNG.normal(size=(5, 3)), requires_grad=True)
    critic(x)
    critic.eval()

    def penalty():
        (dx,) = gk.grad(critic(x).sum(), x, create_graph=True)
        return (dx.square().sum(1).sqrt() - 1.0).square().mean()

    (analytic,) = gk.grad(penalty(), critic[0].weight_orig)
    step, w = 1e-5, critic[0].weight_orig.data
    for position in ((0, 0), (3, 2)):
        values = []
        for sign in (1, -1):
            w[position] += sign * step
            values.append(penalty().item())
            w[position] -= sign * step
        numeric = (values[0] - values[1]) / (2 * step)
        assert abs(numeric) > 1e-6
        assert abs(numeric - analytic.numpy()[position]) <= 1e-6 * abs(numeric) + 1e-9


def test_cross_entropy_of_large_logits_keeps_its_value_and_gradient():
    for dtype in (np.float32, np.float64):
        x = gk.tensor(np.array([1e4, -1e4, 1e4, -1e4, 20, -20], dtype), requires_grad=True)
        t = gk.tensor(np.array([1, 0, 0, 1, 1, 0], dtype))
        loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        small = np.log1p(np.exp(-20.0))
        expected = np.array([0, 0, 1e4, 1e4, small, small])
        # relative, element by element: a formula with cancellation has no correct digit of `small` in float32
        assert (np.abs(loss.detach().numpy() - expected) <= 8 * np.finfo(dtype).eps * expected).all()
        loss.sum().backward()
        slope = 1 / (1 + np.exp(20.0))
        expected = np.array([0, 0, 1, -1, -slope, slope])
        assert (np.abs(x.grad.numpy() - expected) <= 8 * np.finfo(dtype).eps * np.abs(expected)).all()


def test_binary_cross_entropy_is_finite_at_zero_and_one_and_refuses_what_is_no_probability():
    p = gk.tensor(np.array([0.0, 1.0]), requires_grad=True)
    loss = F.binary_cross_entropy(p, gk.tensor(np.array([1.0, 0.0])), reduction="none")
    assert loss.detach().numpy().tolist() == [100.0, 100.0]
    loss.sum().backward()
    assert np.isfinite(p.grad.numpy()).all()
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            F.binary_cross_entropy(gk.tensor(np.array([0.5, bad])), gk.tensor(np.array([1.0, 0.0])))


def test_binary_cross_entropy_can_be_differentiated_twice():
    p = gk.tensor(RNG.uniform(0.2, 0.8, 5), requires_grad=True)
    t = gk.tensor(RNG.uniform(0, 1, 5))
    (first,) = gk.grad(F.binary_cross_entropy(p, t, reduction="sum"), p, create_graph=True)
    (second,) = gk.grad(first.sum(), p)
    a, b = p.detach().numpy(), t.numpy()
    assert np.abs(second.numpy() - (b / a**2 + (1 - b) / (1 - a) ** 2)).max() <= 1e-11


EMPTY = [
    (lambda: nn.Linear(3, 2), (0, 3), (0, 2)),
    (lambda: nn.Conv2d(2, 3, 3, padding="same"), (0, 2, 4, 4), (0, 3, 4, 4)),
    (lambda: nn.ConvTranspose3d(2, 3, 2, 2), (0, 2, 2, 2, 2), (0, 3, 4, 4, 4)),
    (lambda: nn.LocallyConnected1d(2, 3, 5, 3), (0, 2, 5), (0, 3, 3)),
    (lambda: nn.MaxPool2d(2), (0, 2, 4, 4), (0, 2, 2, 2)),
    (lambda: nn.AvgPool3d(2), (0, 2, 4, 4, 4), (0, 2, 2, 2, 2)),
    (lambda: nn.Upsample(scale_factor=2), (0, 2, 3), (0, 2, 6)),
    (lambda: nn.BatchNorm2d(2), (0, 2, 3, 3), (0, 2, 3, 3)),
    (lambda: nn.LayerNorm(4), (0, 4), (0, 4)),
    (lambda: nn.InstanceNorm2d(2), (0, 2, 3, 3), (0, 2, 3, 3)),
    (lambda: nn.Dropout(0.5), (0, 3), (0, 3)),
    (lambda: nn.Flatten(), (0, 3, 2), (0, 6)),
    (lambda: nn.MinibatchDiscrimination(3, 2, 2), (0, 3), (0, 5)),
    (lambda: nn.Softmax(1), (0, 3), (0, 3)),
]


@pytest.mark.parametrize(("make", "given", "expected"), EMPTY, ids=[str(i) for i in range(len(EMPTY))])
def test_an_empty_batch_passes_forward_and_backward(make, given, expected):
    layer = make()
    x = gk.tensor(np.zeros(given, np.float32), requires_grad=True)
    y = layer(x)
    assert y.shape == expected
    y.sum().backward()
    assert x.grad.shape == given
    for p in layer.parameters():
        assert p.grad is None or not p.grad.numpy().any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="circular"), ValueError, "padding_mode 'circular'"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "groups=2 must divide"),
        (lambda: nn.Conv2d(0, 4, 3), ValueError, "in_channels must be an int of at least 1, got 0"),
        (lambda: nn.Conv3d(1, 1, (3, 3)), TypeError, "kernel_size must be an int or 3 ints"),
        (lambda: nn.Conv3d(1, 1, 3, padding="full"), ValueError, "'full'"),
        (lambda: nn.Conv1d(1, 1, 3, stride=0), ValueError, "stride must be at least 1"),
        (lambda: nn.Conv1d(1, 1, 3, dtype=np.int64), TypeError, "dtype must be float32, float64 or"),
        (lambda: nn.Linear(2.5, 1), ValueError, "in_features"),
        (lambda: nn.LocallyConnected2d(1, 1, 2, 3), ValueError, "does not fit"),
        (lambda: nn.Upsample(scale_factor=1.5), ValueError, "whole"),
        (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), ValueError, "mode 'bilinear'"),
        (lambda: nn.Upsample(), ValueError, "one of size and scale_factor"),
        (lambda: nn.Upsample(size=7)(gk.ones(1, 1, 3)), ValueError, "must be a multiple"),
        (lambda: nn.AdaptiveAvgPool1d(2)(gk.ones(1, 1, 5)), ValueError, "must divide"),
        (lambda: nn.BatchNorm2d(3)(gk.ones(2, 4, 2, 2)), ValueError, "4 axes with 3 channels"),
        (lambda: nn.BatchNorm2d(3)(gk.ones(2, 3)), ValueError, "4 axes"),
        (lambda: nn.BatchNorm1d(3)(gk.ones(1, 3)), ValueError, "more than one value"),
        (lambda: nn.InstanceNorm2d(3, track_running_stats=True), ValueError, "track_running_stats"),
        (lambda: nn.GroupNorm(2, 3), ValueError, "must divide"),
        (lambda: nn.Dropout(1.5), ValueError, "between 0 and 1"),
        (lambda: nn.GELU("tanh"), ValueError, "approximate"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), ValueError, "padding_idx"),
        (lambda: nn.ZeroPad2d((1, 2)), TypeError, "4 ints or 2 pairs"),
        (lambda: nn.Conv2d(1, 1, 3)(gk.ones(2, 2)), ValueError, "4 axes"),
        (lambda: nn.Conv2d(1, 1, 3)(np.ones((1, 1, 3, 3))), TypeError, "must be a Tensor, got ndarray"),
        (lambda: nn.Conv2d(1, 1, 3)(gk.ones(1, 1, 3, 3, dtype=np.float64)), TypeError, "float64"),
        (lambda: nn.MSELoss(reduction="batch"), ValueError, "'batch'"),
        (lambda: F.mse_loss(gk.ones(2), gk.ones(2, 1)), ValueError, "must be equal"),
        (lambda: F.cross_entropy(gk.ones(2, 3), gk.tensor([0, 3])), IndexError, "out of range for 3 classes"),
        (lambda: F.cross_entropy(gk.ones(2, 3), gk.tensor([0, 1, 1])), ValueError, "target has shape"),
        (lambda: F.cross_entropy(gk.ones(2, 3), gk.tensor([0, 1]), gk.ones(2)), ValueError, "weight has shape"),
        (lambda: nn.spectral_norm(nn.ReLU()), ValueError, "no parameter 'weight'"),
        (lambda: nn.spectral_norm(nn.spectral_norm(nn.Linear(2, 2))), ValueError, "already"),
        (lambda: nn.MinibatchDiscrimination(3, 2, 2)(gk.ones(2, 4)), ValueError, r"\(N, 3\)"),
        (lambda: nn.utils.clip_grad_norm_([], 1.0, norm_type=3), ValueError, "norm_type"),
    ],
)
def test_what_cannot_work_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradient_clipping_does_not_scale_a_shared_gradient_twice():
    a, b = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))
    ((a + b) * 2.0).sum().backward()  # one array is the gradient of both
    assert abs(nn.utils.clip_grad_norm_([a, b], 1.0) - np.sqrt(24)) <= 1e-12
    assert np.abs(a.grad.numpy() - 2 / np.sqrt(24)).max() <= 1e-6
    nn.utils.clip_grad_value_([a, b], 0.25)
    assert b.grad.numpy().tolist() == [0.25] * 3


def test_weight_clipping_limits_every_weight():
    net = nn.Linear(20, 20)
    nn.utils.clip_parameters_(net.parameters(), -0.01, 0.02)
    for p in net.parameters():
        assert p.detach().numpy().min() >= np.float32(-0.01)
        assert p.detach().numpy().max() <= np.float32(0.02)
