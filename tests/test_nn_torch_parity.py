"""Layers and losses against torch.nn: forward, gradients, and state_dicts that travel byte for byte both ways."""

from __future__ import annotations

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn

torch = pytest.importorskip("torch")
tnn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

# (our layer, torch's layer, input shape); the arguments are the same for both.
LAYERS = [
    ("Linear", (5, 3), {}, (4, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 4, 5)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9)),
    ("Conv1d", (4, 6, 3), {}, (4, 9)),
    ("Conv1d", (2, 3, 4), {"padding": "same"}, (2, 2, 9)),
    ("Conv2d", (2, 3, (3, 2)), {"padding": (1, 0), "dilation": (1, 2)}, (2, 2, 6, 7)),
    ("Conv3d", (2, 4, 3, 1, 1), {}, (2, 2, 4, 5, 3)),
    ("Conv3d", (2, 4, (1, 2, 3)), {"bias": False, "stride": (2, 1, 1)}, (2, 4, 5, 3)),
    ("ConvTranspose1d", (4, 6, 3, 2, 1, 1, 2), {}, (2, 4, 5)),
    ("ConvTranspose2d", (3, 2, 3, 2), {"output_padding": 1}, (2, 3, 4, 5)),
    ("ConvTranspose3d", (3, 2, 3), {"stride": 2, "padding": 1, "bias": False}, (2, 3, 3, 2, 4)),
    ("ConvTranspose3d", (2, 2, 2), {"dilation": 2}, (2, 3, 2, 4)),
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1}, (2, 3, 9)),
    ("MaxPool2d", (2,), {"ceil_mode": True}, (2, 3, 5, 7)),
    ("MaxPool3d", ((2, 3, 2),), {"stride": 1, "dilation": (1, 1, 2)}, (3, 5, 6, 5)),
    ("AvgPool1d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 9)),
    ("AvgPool2d", (3, 2, 1, True), {}, (2, 3, 6, 8)),
    ("AvgPool3d", (2,), {"divisor_override": 3}, (2, 2, 4, 4, 6)),
    ("AdaptiveAvgPool3d", (1,), {}, (2, 3, 4, 5, 2)),
    ("AdaptiveAvgPool2d", ((2, 3),), {}, (2, 3, 4, 6)),
    ("Upsample", (None, 2), {}, (2, 3, 4)),
    ("Upsample", (), {"scale_factor": (2, 3, 1)}, (2, 3, 2, 3, 4)),
    ("Upsample", ((8, 9),), {}, (2, 3, 4, 3)),
    ("BatchNorm1d", (3,), {}, (5, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (5, 3, 4)),
    ("BatchNorm2d", (3, 1e-3, 0.01), {}, (5, 3, 2, 2)),
    ("BatchNorm3d", (3,), {"affine": False}, (2, 3, 2, 3, 2)),
    ("BatchNorm3d", (3,), {"track_running_stats": False}, (2, 3, 2, 3, 2)),
    ("LayerNorm", (4,), {}, (2, 3, 4)),
    ("LayerNorm", ((3, 4),), {"bias": False}, (2, 3, 4)),
    ("InstanceNorm1d", (3,), {}, (2, 3, 6)),
    ("InstanceNorm3d", (3,), {"affine": True}, (2, 3, 2, 3, 2)),
    ("GroupNorm", (2, 4), {}, (3, 4, 5)),
    ("ReLU", (), {}, (3, 4)),
    ("LeakyReLU", (), {}, (3, 4)),
    ("LeakyReLU", (0.3,), {}, (3, 4)),
    ("ELU", (0.7,), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("LogSigmoid", (), {}, (3, 4)),
    ("Softplus", (2.0, 1.5), {}, (3, 4)),
    ("Softmax", (1,), {}, (3, 4)),
    ("LogSoftmax", (0,), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("Identity", (), {}, (3, 4)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Unflatten", (1, (2, -1)), {}, (3, 4)),
    ("Unflatten", (-1, (2, 2)), {}, (3, 4)),
    ("ZeroPad1d", ((1, 2),), {}, (2, 3, 4)),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, (2, 3, 4, 2)),
    ("ZeroPad3d", (1,), {}, (2, 3, 2, 2, 2)),
]
IDS = [f"{name}{args}{kwargs}{shape}" for name, args, kwargs, shape in LAYERS]
# Sums of at most ~200 products of numbers below 10: u*K*|terms|, far below a wrong tap's effect of order 0.1.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def close(ours, theirs, tolerance):
    a, b = np.asarray(ours), np.asarray(theirs)
    assert a.shape == b.shape
    error, scale = np.max(np.abs(a - b), initial=0.0), max(1.0, np.max(np.abs(b), initial=0.0))
    assert error <= tolerance * scale  # False for NaN


def twins(name, args, kwargs, dtype):
    """Our layer and torch's with the same random parameters, moved across by state_dict."""
    ours = getattr(nn, name)(*args, **kwargs).to(dtype)
    theirs = getattr(tnn, name)(*args, **kwargs).to(torch.float64 if dtype is np.float64 else torch.float32)
    rng = np.random.default_rng(1)
    for p in theirs.parameters():
        p.data.copy_(torch.from_numpy(rng.normal(size=tuple(p.shape))))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), LAYERS, ids=IDS)
def test_a_layer_gives_torchs_output_gradients_and_state(name, args, kwargs, shape, dtype):
    ours, theirs = twins(name, args, kwargs, dtype)
    tolerance = TOLERANCE[dtype]
    rng = np.random.default_rng(2)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        x = rng.normal(size=shape).astype(dtype)
        ox, tx = gk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        oy, ty = ours(ox), theirs(tx)
        close(oy.detach(), ty.detach(), tolerance)
        ct = rng.normal(size=oy.shape).astype(dtype)
        ours.zero_grad()
        theirs.zero_grad()
        oy.backward(gk.tensor(ct))
        ty.backward(torch.tensor(ct))
        close(ox.grad, tx.grad, 10 * tolerance)
        for (on, op), (tn, tp) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert on == tn
            close(op.grad, tp.grad, 10 * tolerance)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        close(ours.state_dict()[key], value, tolerance)


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), LAYERS, ids=IDS)
def test_a_state_dict_travels_both_ways_byte_for_byte(name, args, kwargs, shape):
    ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(tnn, name)(*args, **kwargs)
    sent = {k: v.numpy().tobytes() for k, v in ours.state_dict().items()}
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()})
    arrived = {k: v.numpy() for k, v in theirs.state_dict().items()}
    assert {k: v.tobytes() for k, v in arrived.items()} == sent
    assert all(arrived[k].dtype == v.dtype for k, v in ours.state_dict().items())
    fresh = getattr(nn, name)(*args, **kwargs)
    fresh.load_state_dict(theirs.state_dict())
    assert {k: v.numpy().tobytes() for k, v in fresh.state_dict().items()} == sent


def test_max_pool_indices_are_torchs():
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5))
    _, ours = nn.MaxPool2d(3, 2, 1, return_indices=True)(gk.tensor(x))
    _, theirs = tnn.MaxPool2d(3, 2, 1, return_indices=True)(torch.tensor(x))
    assert np.array_equal(ours.numpy(), theirs.numpy())


def test_an_embedding_with_a_padding_row_gives_torchs_gradient():
    ours, theirs = twins("Embedding", (6, 3), {"padding_idx": 2}, np.float64)
    index = np.array([[0, 2, 5], [2, 2, 1]])
    ours(gk.tensor(index)).square().sum().backward()
    theirs(torch.tensor(index)).square().sum().backward()
    close(ours.weight.grad, theirs.weight.grad, 1e-13)


def test_default_values_of_layers_follow_torchs_distribution():
    """Uniform within the same bound: the extreme of n draws is within bound*20/n of it, all but once in 10^8."""
    for name, args in (
        ("Linear", (50, 400)),
        ("Conv2d", (8, 64, 5)),
        ("ConvTranspose3d", (16, 12, 3)),
    ):
        theirs = getattr(tnn, name)(*args).weight
        ours = getattr(nn, name)(*args, generator=gk.Generator(3)).weight.detach().numpy()
        bound = (1.0 / np.prod(theirs.shape[1:])) ** 0.5
        for w in (theirs.detach().numpy(), ours):
            assert bound * (1 - 40 / w.size) <= np.abs(w).max() <= bound


@pytest.mark.parametrize("transposed", [False, True])
def test_spectral_norm_follows_torch_for_several_steps(transposed):
    name = "ConvTranspose2d" if transposed else "Conv2d"
    ours, theirs = (
        m.double()
        for m in (nn.spectral_norm(getattr(nn, name)(3, 4, 3)), tnn.utils.spectral_norm(getattr(tnn, name)(3, 4, 3)))
    )
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    for training in (True, True, False, True):
        ours.train(training)
        theirs.train(training)
        x = rng.normal(size=(2, 3, 5, 5))
        oy, ty = ours(gk.tensor(x)), theirs(torch.tensor(x))
        close(oy.detach(), ty.detach(), 1e-12)
        ours.zero_grad()
        theirs.zero_grad()
        oy.square().sum().backward()
        ty.square().sum().backward()
        close(ours.weight_orig.grad, theirs.weight_orig.grad, 1e-11)
        for key, value in theirs.state_dict().items():
            close(ours.state_dict()[key], value, 1e-12)


RNG = np.random.default_rng(5)
PROBABILITIES, TARGETS = RNG.uniform(0.01, 0.99, (4, 3)), RNG.uniform(0, 1, (4, 3))
SCORES = PROBABILITIES * 9 - 4
LOGITS, CLASSES = RNG.normal(size=(4, 3, 2)) * 3, RNG.integers(0, 3, (4, 2))
CLASSES[1, 1] = 1
SOFT = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
WEIGHT = np.array([0.5, 2.0, 1.5])
LOSSES = [
    ("mse_loss", (LOGITS, SOFT), {}, {}),
    ("l1_loss", (LOGITS, SOFT), {}, {}),
    ("huber_loss", (LOGITS, SOFT), {"delta": 0.5}, {}),
    ("smooth_l1_loss", (LOGITS, SOFT), {"beta": 2.0}, {}),
    ("smooth_l1_loss", (LOGITS, SOFT), {"beta": 0.0}, {}),
    ("binary_cross_entropy", (PROBABILITIES, TARGETS), {}, {}),
    ("binary_cross_entropy", (PROBABILITIES, TARGETS), {}, {"weight": WEIGHT}),
    ("binary_cross_entropy", (np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])), {}, {}),
    ("binary_cross_entropy_with_logits", (PROBABILITIES * 9 - 4, TARGETS), {}, {}),
    (
        "binary_cross_entropy_with_logits",
        (PROBABILITIES * 9 - 4, TARGETS),
        {},
        {"weight": WEIGHT, "pos_weight": WEIGHT},
    ),
    ("nll_loss", (np.log(SOFT), CLASSES), {}, {}),
    ("nll_loss", (np.log(SOFT), CLASSES), {"ignore_index": 1}, {"weight": WEIGHT}),
    ("cross_entropy", (LOGITS, CLASSES), {}, {}),
    ("cross_entropy", (LOGITS[:, :, 0], CLASSES[:, 0]), {}, {"weight": WEIGHT}),
    ("cross_entropy", (LOGITS[0, :, 0], CLASSES[0, 0]), {}, {}),
    ("cross_entropy", (LOGITS, CLASSES), {"ignore_index": 1, "label_smoothing": 0.1}, {"weight": WEIGHT}),
    ("cross_entropy", (LOGITS, SOFT), {"label_smoothing": 0.2}, {"weight": WEIGHT}),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", LOSSES, ids=[f"{n}-{k}-{list(w)}-{i}" for i, (n, _, k, w) in enumerate(LOSSES)])
def test_a_loss_gives_torchs_value_and_gradient(case, reduction):
    name, (x, t), settings, weights = case
    ox, tx = gk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ours = getattr(nn.functional, name)(
        ox, gk.tensor(t), **settings, reduction=reduction, **{k: gk.tensor(v) for k, v in weights.items()}
    )
    theirs = getattr(tnn.functional, name)(
        tx, torch.tensor(t), **settings, reduction=reduction, **{k: torch.tensor(v) for k, v in weights.items()}
    )
    close(ours.detach(), theirs.detach(), 1e-12)
    ours.sum().backward()
    theirs.sum().backward()
    close(ox.grad, tx.grad, 1e-12)


def test_loss_modules_are_the_functions():
    x, t = gk.tensor(LOGITS), gk.tensor(CLASSES)
    module = nn.CrossEntropyLoss(gk.tensor(WEIGHT), ignore_index=1, label_smoothing=0.1, reduction="sum")
    theirs = tnn.CrossEntropyLoss(torch.tensor(WEIGHT), ignore_index=1, label_smoothing=0.1, reduction="sum")
    close(module(x, t), theirs(torch.tensor(LOGITS), torch.tensor(CLASSES)), 1e-12)
    assert list(module.state_dict()) == list(theirs.state_dict()) == ["weight"]
    logits = nn.BCEWithLogitsLoss(pos_weight=gk.tensor(WEIGHT))
    expected = tnn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHT))(
        torch.tensor(PROBABILITIES), torch.tensor(TARGETS)
    )
    close(logits(gk.tensor(PROBABILITIES), gk.tensor(TARGETS)), expected, 1e-12)


def test_clip_grad_norm_is_torchs():
    ours, theirs = twins("Linear", (5, 3), {}, np.float64)
    x = np.random.default_rng(0).normal(size=(4, 5))
    ours(gk.tensor(x)).square().sum().backward()
    theirs(torch.tensor(x)).square().sum().backward()
    for kind in (2.0, float("inf")):
        before = nn.utils.clip_grad_norm_(ours.parameters(), 0.1, kind)
        close(before, tnn.utils.clip_grad_norm_(theirs.parameters(), 0.1, kind), 1e-12)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            close(a.grad, b.grad, 1e-12)


def test_two_passes_through_a_spectrally_normalised_critic_before_backward_are_torchs():
    ours = nn.spectral_norm(nn.Linear(4, 3)).double()
    theirs = tnn.utils.spectral_norm(tnn.Linear(4, 3)).double()
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 5, 4))
    (ours(gk.tensor(real)).square().mean() - ours(gk.tensor(fake)).square().mean()).backward()
    (theirs(torch.tensor(real)).square().mean() - theirs(torch.tensor(fake)).square().mean()).backward()
    close(ours.weight_orig.grad, theirs.weight_orig.grad, 1e-12)


def critics():
    """A convolutional critic with every layer that a gradient penalty may pass, ours and torch's."""
    return [
        lib.Sequential(
            lib.Conv3d(1, 4, 3, padding=1),
            lib.LeakyReLU(0.3),
            lib.AvgPool3d(2),
            lib.InstanceNorm3d(4, affine=True),
            lib.ConvTranspose3d(4, 2, 2, 2),
            lib.Tanh(),
            lib.MaxPool3d(2),
            lib.Flatten(),
            lib.LayerNorm(16),
            lib.Softplus(),
            lib.Linear(16, 1),
        )
        for lib in (nn, tnn)
    ]


def test_the_gradient_of_a_wgan_gp_penalty_is_torchs_for_every_weight():
    ours, theirs = critics()
    theirs.double()
    ours.double().load_state_dict(theirs.state_dict())
    images = np.random.default_rng(3).normal(size=(3, 1, 4, 4, 4))
    x, tx = gk.tensor(images, requires_grad=True), torch.tensor(images, requires_grad=True)
    (slope,) = gk.grad(ours(x).sum(), x, create_graph=True)
    (reference,) = torch.autograd.grad(theirs(tx).sum(), tx, create_graph=True)
    (slope.reshape(3, -1).square().sum(1).sqrt() - 1.0).square().mean().backward()
    (reference.reshape(3, -1).square().sum(1).sqrt() - 1.0).square().mean().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        expected = np.zeros(p.shape) if q.grad is None else q.grad.numpy()
        found = np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        assert name.endswith("bias") or np.abs(expected).max() > 1e-6
        close(found, expected, 1e-11)


def test_a_batch_normalised_critic_has_torchs_penalty_gradient():
    ours, theirs = (
        lib.Sequential(lib.Linear(3, 5), lib.BatchNorm1d(5), lib.Sigmoid(), lib.Linear(5, 1)) for lib in (nn, tnn)
    )
    theirs.double()
    ours.double().load_state_dict(theirs.state_dict())
    points = np.random.default_rng(3).normal(size=(6, 3))
    x, tx = gk.tensor(points, requires_grad=True), torch.tensor(points, requires_grad=True)
    (slope,) = gk.grad(ours(x).sum(), x, create_graph=True)
    (reference,) = torch.autograd.grad(theirs(tx).sum(), tx, create_graph=True)
    slope.square().sum().backward()
    reference.square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        if q.grad is not None:
            close(p.grad, q.grad, 1e-11)
