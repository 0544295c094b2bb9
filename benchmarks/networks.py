"""The networks of the workloads that are no recipe: CaloGAN's three images and DCGAN at 64x64.

Their forward functions use only what a Tensor of ours and one of PyTorch have in common, so that the rival runs the
same lines (see rival.twin).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

import gankernels as gk
from gankernels import nn
from gankernels.gan.auxiliary import Auxiliary, image_sum
from gankernels.gan.model import GAN, Batch, Conditions, Scores
from gankernels.ops import Generator

CALO_LAYERS = ((3, 96), (12, 12), (12, 6))  # cells of the three calorimeter layers
CALO_CELLS = sum(map(prod, CALO_LAYERS))
LEAK = 0.3  # Keras's LeakyReLU


def join(parts: Sequence[Any]) -> Any:
    """Concatenate along axis 1, ours or PyTorch's."""
    if isinstance(parts[0], gk.Tensor):
        return gk.cat(parts, 1)
    import torch

    return torch.cat(list(parts), 1)


class CaloBranch(nn.Module):
    """(N, latent) to the cells of one layer, (N, rows * columns)."""

    def __init__(self, latent: int, rows: int, columns: int, rng: Generator) -> None:
        super().__init__()
        self.start = (36, rows + 2, columns + 2)
        self.cells = rows * columns
        self.dense = nn.Linear(latent, prod(self.start), generator=rng)
        self.body = nn.Sequential(
            nn.Conv2d(36, 16, 2, padding="same", generator=rng),
            nn.LeakyReLU(LEAK),
            nn.BatchNorm2d(16, eps=1e-3, momentum=0.01),
            nn.LocallyConnected2d(16, 6, (rows + 2, columns + 2), 2, generator=rng),
            nn.LeakyReLU(LEAK),
            nn.LocallyConnected2d(6, 1, (rows + 1, columns + 1), 2, bias=False, generator=rng),
            nn.ReLU(),
        )

    def forward(self, z: Any) -> Any:
        return self.body(self.dense(z).reshape(-1, *self.start)).reshape(-1, self.cells)


class CaloGenerator(nn.Module):
    """(N, latent) to the cells of the three layers, (N, 504)."""

    def __init__(self, latent: int, rng: Generator) -> None:
        super().__init__()
        self.branches = nn.ModuleList([CaloBranch(latent, r, c, rng) for r, c in CALO_LAYERS])

    def forward(self, z: Any) -> Any:
        return join([branch(z) for branch in self.branches])


def calo_features(rows: int, columns: int, rng: Generator) -> nn.Sequential:
    """One layer's image (N, 1, rows, columns) to features (N, F)."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 2, padding="same", generator=rng), nn.LeakyReLU(LEAK)]
    channels, size = 64, (rows, columns)
    for o, kernel, stride in ((16, 3, (1, 2)), (8, 2, (1, 1)), (8, 2, (1, 2))):
        local = nn.LocallyConnected2d(channels, o, size, kernel, stride, padding=1, generator=rng)
        layers += [local, nn.LeakyReLU(LEAK), nn.BatchNorm2d(o, eps=1e-3, momentum=0.01)]
        channels, size = o, local.output_size
    return nn.Sequential(*layers, nn.Flatten())


class CaloDiscriminator(nn.Module):
    """(N, 504) to one logit (N, 1); it also sees the energies of the layers."""

    def __init__(self, rng: Generator) -> None:
        super().__init__()
        self.features = nn.ModuleList([calo_features(r, c, rng) for r, c in CALO_LAYERS])
        self.ends = list(accumulate(map(prod, CALO_LAYERS)))
        image = gk.zeros((1, CALO_CELLS))
        with gk.no_grad():
            width = self._features(image).shape[1]
        self.head = nn.Linear(width, 1, generator=rng)

    def _features(self, images: Any) -> Any:
        found = []
        for features, (rows, columns), end in zip(self.features, CALO_LAYERS, self.ends, strict=True):
            layer = images[:, end - rows * columns : end]
            found += [features(layer.reshape(-1, 1, rows, columns)), layer.sum(1).reshape(-1, 1) * 0.1]
        return join(found)

    def forward(self, images: Any) -> Any:
        return self.head(self._features(images))


class CaloGANLike(GAN):
    """CaloGAN's layers (github.com/hep-lbdl/CaloGAN, architectures.py) without attention and minibatch discrimination;
    the summed energy (GeV) has an MAE of weight 0.05."""

    chunk = 256
    replayable = True

    def __init__(self, seed: int) -> None:
        rng = Generator(seed)
        self.latent = 1024
        self.generator = CaloGenerator(self.latent, rng)
        self.discriminator = CaloDiscriminator(rng)
        self.auxiliary = {"sum": Auxiliary("mae", 0.05, 0.05)}

    def generate(self, noise: gk.Tensor, conditions: Conditions) -> gk.Tensor:
        """The latent vector is noise * energy / 100 GeV."""
        return self.generator(noise * (conditions["energy"].reshape(-1, 1) * 0.01))

    def discriminate(self, images: gk.Tensor, conditions: Conditions) -> Scores:
        """One logit and the summed energy."""
        return Scores(self.discriminator(images), {"sum": image_sum(images)})

    def targets(self, conditions: Conditions) -> dict[str, gk.Tensor]:
        """The energy that was asked for."""
        return {"sum": conditions["energy"]}


class DCGANGenerator(nn.Module):
    """(N, 100) to (N, 3, 64, 64)."""

    def __init__(self, rng: Generator, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 100
        for o, stride, padding in ((8 * width, 1, 0), (4 * width, 2, 1), (2 * width, 2, 1), (width, 2, 1)):
            layers += [
                nn.ConvTranspose2d(channels, o, 4, stride, padding, bias=False, generator=rng),
                nn.BatchNorm2d(o),
                nn.ReLU(),
            ]
            channels = o
        self.body = nn.Sequential(
            *layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False, generator=rng), nn.Tanh()
        )

    def forward(self, z: Any) -> Any:
        return self.body(z.reshape(-1, 100, 1, 1))


class DCGANDiscriminator(nn.Module):
    """(N, 3, 64, 64) to one logit (N, 1)."""

    def __init__(self, rng: Generator, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False, generator=rng), nn.LeakyReLU(0.2)]
        for i, o in ((width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)):
            layers += [
                nn.Conv2d(i, o, 4, 2, 1, bias=False, generator=rng),
                nn.BatchNorm2d(o),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False, generator=rng))

    def forward(self, images: Any) -> Any:
        return self.body(images).reshape(-1, 1)


class DCGAN(GAN):
    """Radford et al. 2016 (arXiv 1511.06434, figure 1): 1024 to 128 channels."""

    replayable = True

    def __init__(self, seed: int, width: int = 128) -> None:
        rng = Generator(seed)
        self.latent = 100
        self.generator = DCGANGenerator(rng, width)
        self.discriminator = DCGANDiscriminator(rng, width)
        for network in (self.generator, self.discriminator):
            for p in network.parameters():
                if p.ndim == 4:
                    nn.init.normal_(p, 0.0, 0.02, rng)

    def generate(self, noise: gk.Tensor, conditions: Conditions) -> gk.Tensor:
        """Images in -1 to 1."""
        return self.generator(noise)

    def discriminate(self, images: gk.Tensor, conditions: Conditions) -> Scores:
        """One logit."""
        return Scores(self.discriminator(images))


def calo_batch(n: int) -> Batch:
    """Sparse cells (N, 504) whose sum is about the energy, and the energies 1 to 100 GeV."""
    rng = np.random.default_rng(1)
    energy = rng.uniform(1.0, 100.0, n).astype(np.float32)
    cells = rng.exponential(1.0, (n, CALO_CELLS)) * (rng.random((n, CALO_CELLS)) < 0.2)
    cells *= energy[:, None] / cells.sum(1, keepdims=True)
    return Batch(gk.from_array(cells.astype(np.float32)), {"energy": gk.from_array(energy)})


def picture_batch(n: int) -> Batch:
    """Pictures (N, 3, 64, 64) in -1 to 1; the condition only counts them."""
    images = np.random.default_rng(1).uniform(-1.0, 1.0, (n, 3, 64, 64)).astype(np.float32)
    return Batch(gk.from_array(images), {"index": gk.from_array(np.zeros(n, np.float32))})
