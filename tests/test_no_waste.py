"""A training step computes no gradient that nobody asked for: kernel calls are counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import gankernels as gk
from gankernels import backends, nn
from gankernels.gan import GAN, ArrayBatches, Scores, Trainer, TrainerConfig

CELLS = (6, 6)


class ConvGAN(GAN):
    """Two convolutions and a dense layer on either side."""

    latent = 4

    def __init__(self):
        rng = gk.Generator(1)
        self.generator = nn.Sequential(
            nn.Linear(4, 2 * 36, generator=rng), nn.ReLU(), nn.Unflatten(1, (2, *CELLS)),
            nn.Conv2d(2, 3, 3, padding=1, generator=rng), nn.LeakyReLU(0.2),
            nn.Conv2d(3, 1, 3, padding=1, generator=rng),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, generator=rng), nn.LeakyReLU(0.2),
            nn.Conv2d(3, 2, 3, padding=1, generator=rng), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(2 * 36, 1, generator=rng),
        )  # fmt: skip

    def generate(self, noise, conditions):
        return self.generator(noise)

    def discriminate(self, images, conditions):
        return Scores(self.discriminator(images))


@pytest.fixture
def calls(monkeypatch):
    found: Counter[str] = Counter()

    def counted(name, kernel):
        def run(*args):
            found[name] += 1
            return kernel(*args)

        return run

    backend = backends.get()
    for name in ("conv", "conv_transpose", "conv_weight", "matmul", "epilogue_backward", "adam_step"):
        for kernel in (name, name + "_epilogue"):  # the same work, whatever follows it
            if hasattr(backend, kernel):
                monkeypatch.setattr(backend, kernel, counted(name, getattr(backend, kernel)))
    return found


@pytest.fixture
def trainer():
    images = np.random.default_rng(0).normal(size=(64, 1, *CELLS)).astype(np.float32)
    data = ArrayBatches(images, {"energy": np.ones(64, np.float32)}, batch=8)
    trainer = Trainer(ConvGAN(), data, TrainerConfig(max_steps=9, batch=8, conv_algorithm="direct"))
    trainer.train_step()
    return trainer


def test_the_discriminator_has_no_gradient_of_images_and_no_work_in_the_generator(calls, trainer):
    real = next(trainer.data).to(trainer.gan.device)
    calls.clear()
    trainer.updates.discriminator(real)
    assert calls == {
        "conv": 2 + 4,  # two layers of the generator; two layers, real and fake
        "conv_weight": 4,
        "conv_transpose": 2,  # into the first layer's output, never into the image
        "matmul": 1 + 2 + 2 + 2,  # the generator's dense layer; value, weights, input of the discriminator's
        "epilogue_backward": 4,
        "adam_step": 1,
    }


def test_the_generator_has_no_gradient_of_the_discriminators_weights_and_none_of_the_noise(calls, trainer):
    real = next(trainer.data).to(trainer.gan.device)
    calls.clear()
    trainer.updates.generator(real)
    assert calls == {
        "conv": 4,
        "conv_weight": 2,  # of the generator only
        "conv_transpose": 2 + 2,
        "matmul": 2 + 1 + 1,  # values; input of the discriminator's dense layer; weights of the generator's
        "epilogue_backward": 4,
        "adam_step": 1,
    }


def test_generated_images_are_outside_any_graph(calls, trainer):
    real = next(trainer.data).to(trainer.gan.device)
    calls.clear()
    fake = trainer.updates.fakes(real)
    assert fake.images.node is None
    assert not fake.images.requires_grad
    assert calls == {"conv": 2, "matmul": 1}
