"""Optimizers and learning-rate schedules with PyTorch's names."""

from gankernels.optim.algorithms import SGD, Adam, AdamW, RMSprop
from gankernels.optim.flat import flatten
from gankernels.optim.optimizer import Optimizer
from gankernels.optim.schedules import CosineAnnealingLR, ExponentialLR, LambdaLR, LRScheduler, StepLR

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "Optimizer",
    "RMSprop",
    "StepLR",
    "flatten",
]
