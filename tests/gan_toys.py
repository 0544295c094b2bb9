"""A GAN of a few hundred weights on images of 8 cells, for the tests of the training."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import devices
import numpy as np

import gankernels as gk
from gankernels.gan import GAN, ArrayBatches, Auxiliary, Scores, image_sum

CELLS = 8


class Generator(gk.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = gk.nn.Linear(5, 16)
        self.norm = gk.nn.BatchNorm1d(16)
        self.out = gk.nn.Linear(16, CELLS)

    def forward(self, x):
        return gk.ops.softplus(self.out(gk.ops.leaky_relu(self.norm(self.dense(x)), 0.2)))


class Discriminator(gk.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = gk.nn.Conv1d(1, 4, 3, padding=1)
        self.drop = gk.nn.Dropout(0.2)
        self.validity = gk.nn.Linear(4 * CELLS, 1)
        self.energy = gk.nn.Linear(4 * CELLS, 1)

    def forward(self, x):
        features = self.drop(gk.ops.leaky_relu(self.conv(x), 0.2)).flatten(1)
        return self.validity(features), self.energy(features)


class ToyGAN(GAN):
    latent = 4

    def __init__(self):
        self.generator, self.discriminator = Generator(), Discriminator()
        self.auxiliary = {"energy": Auxiliary("mape", 0.01, 0.01), "sum": Auxiliary("mape", 0.01, 0.01)}

    def generate(self, noise, conditions):
        energy = conditions["energy"].reshape(-1, 1)
        return (self.generator(gk.cat([noise, energy], 1)) * energy).reshape(-1, 1, CELLS)

    def discriminate(self, images, conditions):
        logits, energy = self.discriminator(images)
        return Scores(logits, {"energy": energy.reshape(-1), "sum": image_sum(images)})

    def targets(self, conditions):
        return {"energy": conditions["energy"], "sum": conditions["energy"] * 2.0}


def toy_gan(seed=1):
    gk.manual_seed(seed)
    return ToyGAN()


def toy_data(events=96, batch=16, seed=1):
    rng = np.random.default_rng(seed)
    energy = rng.uniform(0.5, 2.0, events).astype(np.float32)
    shape = rng.uniform(0.5, 1.5, (events, 1, CELLS)) * np.hanning(CELLS + 2)[1:-1]
    images = shape / shape.sum(2, keepdims=True) * 2.0 * energy[:, None, None]
    return ArrayBatches(images.astype(np.float32), {"energy": energy}, batch=batch, seed=seed)


def python(code, *arguments, cwd):
    """Arguments of subprocess.run and Popen for Python code that uses this gankernels on the device under test."""
    code = f"{devices.in_a_new_process()}\n{code}"
    env = {**os.environ, "PYTHONPATH": str(Path(gk.__file__).parents[1])}
    return {"args": [sys.executable, "-c", code, *map(str, arguments)], "cwd": cwd, "env": env, "text": True}
