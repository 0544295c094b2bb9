"""Training of generative adversarial networks: losses, the trainer, checkpoints. Names no device."""

from __future__ import annotations

from gankernels.gan.auxiliary import Auxiliary, bin_counts, image_sum, mape, measured_angle
from gankernels.gan.checkpoint import CheckpointError
from gankernels.gan.config import ConfigError, configure, explain, option, to_dict, to_toml
from gankernels.gan.health import HealthConfig, TrainingStopped
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import GAN, ArrayBatches, Batch, Batches, Conditions, MappedBatches, Scores
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.gan.trainer import Outcome, Trainer, load_generator

__all__ = [
    "GAN",
    "ArrayBatches",
    "Auxiliary",
    "Batch",
    "Batches",
    "CheckpointError",
    "Conditions",
    "ConfigError",
    "HealthConfig",
    "LossConfig",
    "MappedBatches",
    "OptimizerConfig",
    "Outcome",
    "Scores",
    "Trainer",
    "TrainerConfig",
    "TrainingStopped",
    "bin_counts",
    "configure",
    "explain",
    "image_sum",
    "load_generator",
    "mape",
    "measured_angle",
    "option",
    "to_dict",
    "to_toml",
]
