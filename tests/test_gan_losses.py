"""The losses against their formulas and PyTorch; the gradient penalties against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gankernels as gk
from gankernels.gan import GAN, Auxiliary, LossConfig, Scores, bin_counts, image_sum, mape, measured_angle
from gankernels.gan.losses import discriminator_loss, generator_loss, gradient_penalty, labels, r1_penalty
from gankernels.ops import update

S = np.array([[-7.5], [-1.0], [-0.2], [0.3], [1.5], [6.0]])
T = np.array([[1.0], [0.0], [1.0], [0.9], [0.0], [1.0]])


def sig(x):
    return 1 / (1 + np.exp(-x))


# (loss, d loss / d logit) of one event, written as in the papers
D_FORMULAS = {
    "minimax": (lambda s, t: -t * np.log(sig(s)) - (1 - t) * np.log(1 - sig(s)), lambda s, t: sig(s) - t),
    "non-saturating": (lambda s, t: -t * np.log(sig(s)) - (1 - t) * np.log(1 - sig(s)), lambda s, t: sig(s) - t),
    "least-squares": (lambda s, t: (s - t) ** 2 / 2, lambda s, t: s - t),
    "hinge": (
        lambda s, t: np.maximum(0, 1 - (2 * t - 1) * s),
        lambda s, t: np.where((2 * t - 1) * s < 1, -(2 * t - 1), 0.0),
    ),
    "wasserstein": (lambda s, t: -(2 * t - 1) * s, lambda s, t: -(2 * t - 1) + 0 * s),
    "wasserstein-gp": (lambda s, t: -(2 * t - 1) * s, lambda s, t: -(2 * t - 1) + 0 * s),
}
G_FORMULAS = {
    "minimax": (lambda s: np.log(1 - sig(s)), lambda s: -sig(s)),
    "non-saturating": (lambda s: -np.log(sig(s)), lambda s: sig(s) - 1),
    "least-squares": (lambda s: (s - 1) ** 2 / 2, lambda s: s - 1),
    "hinge": (lambda s: -s, lambda s: -1 + 0 * s),
    "wasserstein": (lambda s: -s, lambda s: -1 + 0 * s),
    "wasserstein-gp": (lambda s: -s, lambda s: -1 + 0 * s),
}


def close(a, b, tolerance=1e-12):
    return bool(np.all(np.abs(np.asarray(a) - np.asarray(b)) <= tolerance * (1 + np.abs(np.asarray(b)))))


@pytest.mark.parametrize("name", D_FORMULAS)
def test_the_discriminators_loss_and_gradient_follow_the_formula(name):
    s = gk.tensor(S, requires_grad=True)
    loss = discriminator_loss(name, s, gk.tensor(T))
    value, slope = D_FORMULAS[name]
    assert close(loss.item(), value(S, T).mean())
    assert close(gk.grad(loss, s)[0].numpy(), slope(S, T) / len(S))


@pytest.mark.parametrize("name", G_FORMULAS)
def test_the_generators_loss_and_gradient_follow_the_formula(name):
    s = gk.tensor(S, requires_grad=True)
    loss = generator_loss(name, s)
    value, slope = G_FORMULAS[name]
    assert close(loss.item(), value(S).mean())
    assert close(gk.grad(loss, s)[0].numpy(), slope(S) / len(S))


@pytest.mark.parametrize("name", D_FORMULAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_logit_is_too_large_for_a_loss(name, dtype):
    s = gk.tensor(np.array([[-1e4], [-100.0], [100.0], [1e4]]), dtype=dtype, requires_grad=True)
    for loss in (discriminator_loss(name, s, 1.0), discriminator_loss(name, s, 0.0), generator_loss(name, s)):
        assert math.isfinite(loss.item())
        assert np.isfinite(gk.grad(loss, s)[0].numpy()).all()


@pytest.mark.parametrize("target", [1.0, 0.9, 0.0])
def test_the_cross_entropy_is_that_of_torch(target):
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(S, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(theirs, torch.full_like(theirs, target))
    expected.backward()
    s = gk.tensor(S, requires_grad=True)
    loss = discriminator_loss("non-saturating", s, target)
    assert close(loss.item(), expected.item())
    assert close(gk.grad(loss, s)[0].numpy(), theirs.grad.numpy())


# ---- labels --------------------------------------------------------------------------------------------------------
def test_labels_are_flipped_with_the_given_probability():
    n, p = 20000, 0.05
    flipped = labels(n, LossConfig(label_flip=p), True, gk.Generator(3)).numpy() == 0.0
    assert not abs(flipped.sum() - n * p) > 5 * math.sqrt(n * p * (1 - p))
    fake = labels(n, LossConfig(label_flip=p), False, gk.Generator(4)).numpy()
    assert not abs(fake.sum() - n * p) > 5 * math.sqrt(n * p * (1 - p))


def test_labels_are_smoothed_on_the_side_that_was_asked_for():
    config = LossConfig(real_label=0.9)
    assert set(labels(50, config, True, gk.Generator(1)).numpy().ravel()) == {np.float32(0.9)}
    assert set(labels(50, config, False, gk.Generator(1)).numpy().ravel()) == {0.0}
    both = LossConfig(real_label=0.9, fake_label=0.1)
    assert set(labels(50, both, False, gk.Generator(1)).numpy().ravel()) == {np.float32(0.1)}


def test_labels_without_flips_draw_no_random_numbers():
    generator = gk.Generator(1)
    labels(100, LossConfig(), True, generator)
    assert generator.offset == 0


def test_penalty_and_clip_follow_from_the_name_of_the_loss():
    assert LossConfig(discriminator="wasserstein-gp").penalty_weight == 10.0
    assert LossConfig(discriminator="wasserstein").clip == 0.01
    assert LossConfig(discriminator="hinge", gradient_penalty=1.0).penalty_weight == 1.0
    assert (LossConfig().penalty_weight, LossConfig().clip) == (0.0, 0.0)


# ---- gradient penalties --------------------------------------------------------------------------------------------
class Critic(GAN):
    """Two dense layers with tanh, float64."""

    def __init__(self):
        rng = np.random.default_rng(5)
        shapes = {"a": (6, 4), "b": (6,), "c": (1, 6)}
        self.weights = {n: gk.tensor(rng.normal(size=s) * 0.7, requires_grad=True) for n, s in shapes.items()}

    def discriminate(self, images, conditions):
        w = self.weights
        hidden = gk.tanh(images.reshape(len(images), -1) @ w["a"].T + w["b"]) + images.reshape(len(images), -1)[:, :1]
        return Scores(hidden @ w["c"].T)


def critic_and_images():
    rng = np.random.default_rng(6)
    return Critic(), *(gk.tensor(rng.normal(size=(5, 1, 4))) for _ in range(2))


def penalties():
    return {
        "gp": lambda gan, real, fake: gradient_penalty(gan, real, fake, {}, gk.Generator(9)),
        "r1": lambda gan, real, fake: r1_penalty(gan, real, {}),
    }


@pytest.mark.parametrize("which", ["gp", "r1"])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_the_penaltys_gradient_agrees_with_finite_differences(which, name):
    gan, real, fake = critic_and_images()
    penalty = penalties()[which]
    w = gan.weights[name]
    (slope,) = gk.grad(penalty(gan, real, fake), w)
    assert np.abs(slope.numpy()).max() > 1e-3  # a backward that is not differentiable again would give exactly zero
    direction = np.random.default_rng(7).normal(size=w.shape)
    h, values, start = 1e-5, [], w.detach().numpy().copy()
    for sign in (1, -1):
        update.copy_(w.detach(), gk.tensor(start + sign * h * direction))
        values.append(penalty(gan, real, fake).item())
    expected = (values[0] - values[1]) / (2 * h)
    assert not abs((slope.numpy() * direction).sum() - expected) > 1e-7 * (1 + abs(expected))


def test_the_gradient_penalty_is_that_of_torch():
    torch = pytest.importorskip("torch")
    gan, real, fake = critic_and_images()
    u = gk.Generator(9).uniform((5, 1, 1), np.float64).numpy()
    w = {n: torch.tensor(t.detach().numpy(), requires_grad=True) for n, t in gan.weights.items()}
    x = torch.tensor(u * real.numpy() + (1 - u) * fake.numpy(), requires_grad=True)
    flat = x.reshape(5, -1)
    out = (torch.tanh(flat @ w["a"].T + w["b"]) + flat[:, :1]) @ w["c"].T
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    expected = ((slope.reshape(5, -1).norm(dim=1) - 1) ** 2).mean()
    theirs = torch.autograd.grad(expected, list(w.values()))
    ours = gradient_penalty(gan, real, fake, {}, gk.Generator(9))
    assert close(ours.item(), expected.item(), 1e-9)
    for a, b in zip(gk.grad(ours, list(gan.weights.values())), theirs, strict=True):
        assert close(a.numpy(), b.numpy(), 1e-9)


# ---- auxiliary losses ----------------------------------------------------------------------------------------------
def test_mape_is_that_of_keras():
    estimate, target = np.array([1.0, -3.0, 0.5, 2.0]), np.array([2.0, -4.0, 0.0, 2.0])
    expected = 100 * np.mean(np.abs(target - estimate) / np.maximum(np.abs(target), 1e-7))
    p = gk.tensor(estimate, requires_grad=True)
    loss = mape(p, gk.tensor(target))
    assert close(loss.item(), expected)
    slope = 100 * np.sign(estimate - target) / np.maximum(np.abs(target), 1e-7) / 4
    assert close(gk.grad(loss, p)[0].numpy(), slope)


def test_auxiliary_kinds_follow_their_formulas():
    p, t = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.0, 1.0])
    expected = {
        "mae": np.abs(p - t).mean(),
        "mse": ((p - t) ** 2).mean(),
        "bce": (np.logaddexp(0, p) - t * p).mean(),
    }
    for kind, value in expected.items():
        assert close(Auxiliary(kind)(gk.tensor(p).reshape(3, 1), gk.tensor(t)).item(), value)
    logits, classes = np.random.default_rng(1).normal(size=(4, 3)), np.array([0, 2, 1, 2])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = Auxiliary("cross_entropy")(gk.tensor(logits), gk.tensor(classes))
    assert close(loss.item(), -log_p[np.arange(4), classes].mean())


@pytest.mark.parametrize("arguments", [("mpae",), ("mae", -1.0), ("mae", 1.0, math.nan)])
def test_an_impossible_auxiliary_loss_is_refused(arguments):
    with pytest.raises(ValueError, match="Auxiliary"):
        Auxiliary(*arguments)


def test_bin_counts_approach_the_number_of_cells_in_each_bin_and_have_a_gradient():
    values = np.array([[0.001, 0.02, 0.03, 0.2, 0.3, 5.0]]).reshape(1, 1, 6)
    counts = bin_counts(gk.tensor(values), [0.01, 0.1, 1.0], softness=0.01)
    assert close(counts.numpy(), [[2, 2, 1]], 1e-6)
    x = gk.tensor(values, requires_grad=True)
    assert np.abs(gk.grad(bin_counts(x, [0.01, 0.1]).sum(), x)[0].numpy()).max() > 0
    with pytest.raises(ValueError, match="increasing"):
        bin_counts(x, [0.1, 0.1])


def angle_by_loops(cells):
    """3DGAN's formula for one event (X, Y, Z), term by term."""
    x, y, z = (np.arange(n) + 0.5 for n in cells.shape)
    ref = [(cells * a).sum() / cells.sum() for a in np.meshgrid(x, y, z, indexing="ij")]
    top = bottom = 0.0
    for k in range(cells.shape[2]):
        layer = cells[:, :, k]
        if layer.sum() <= 0:
            continue
        xm, ym = (layer.sum(1) * x).sum() / layer.sum(), (layer.sum(0) * y).sum() / layer.sum()
        m = (ym - ref[1]) / math.sqrt((xm - ref[0]) ** 2 + (z[k] - ref[2]) ** 2)
        m = -m if z[k] < ref[2] else m
        top, bottom = top + z[k] * (math.pi / 2 - math.atan(m)), bottom + z[k]
    return top / bottom


def test_the_measured_angle_is_3dgans_and_100_for_an_empty_event():
    rng = np.random.default_rng(8)
    cells = rng.uniform(0, 1, (3, 1, 5, 6, 7)) * (rng.uniform(size=(3, 1, 5, 6, 7)) > 0.3)
    cells[1, :, :, :, 2] = 0
    cells[2] = 0
    x = gk.tensor(cells, requires_grad=True)
    angle = measured_angle(x)
    assert close(angle.detach().numpy(), [angle_by_loops(cells[0, 0]), angle_by_loops(cells[1, 0]), 100.0], 1e-9)
    assert np.isfinite(gk.grad(angle.sum(), x)[0].numpy()).all()
    assert close(image_sum(x).detach().numpy(), cells.sum((1, 2, 3, 4)))
