"""Training of generative adversarial networks: losses, the trainer, checkpoints. Names no device."""

from __future__ import annotations

from gankernels.gan.auxiliary import Auxiliary, bin_counts, image_sum, mape, measured_angle
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import GAN, ArrayBatches, Batch, Batches, Conditions, MappedBatches, Scores

__all__ = [
    "GAN",
    "ArrayBatches",
    "Auxiliary",
    "Batch",
    "Batches",
    "Conditions",
    "LossConfig",
    "MappedBatches",
    "Scores",
    "bin_counts",
    "image_sum",
    "mape",
    "measured_angle",
]
