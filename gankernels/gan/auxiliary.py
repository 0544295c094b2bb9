"""Losses on what the discriminator estimates beside validity, and the physical quantities it can measure on images.

3DGAN: MAPE on the particle's energy and on the summed energy, MAE on the angle (svalleco/3Dgan, Anglegan), MAPE on
counts of cells in bins of energy. Each is `weight * kind(estimate, target)`, with a weight for either network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from gankernels.autograd import Tensor
from gankernels.ops import (
    abs,
    arange,
    atan2,
    cat,
    log_softmax,
    maximum,
    mean,
    sigmoid,
    softplus,
    sqrt,
    square,
    tensor,
    where,
)
from gankernels.ops import sum as total
from gankernels.ops.replay import unrecorded

__all__ = ["Auxiliary", "AuxiliaryKind", "bin_counts", "constant", "image_sum", "mape", "measured_angle"]

AuxiliaryKind = Literal["mape", "mae", "mse", "bce", "cross_entropy"]
KERAS_EPSILON = 1e-7
EMPTY_ANGLE = 100.0  # what 3DGAN gives an empty event


def constant(values: tuple[float, ...], beside: Tensor) -> Tensor:
    """Numbers (K,) of the dtype and on the device of another tensor; made once, so that a step copies nothing."""
    return _constant(values, beside.dtype, beside.device)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: object, device: str) -> Tensor:
    with unrecorded():
        return tensor(values, dtype=dtype, device=device)


def mape(estimate: Tensor, target: Tensor, epsilon: float = KERAS_EPSILON) -> Tensor:
    """Mean absolute percentage error, as Keras: mean of 100 |t - p| / max(|t|, epsilon)."""
    return mean(abs(target - estimate) / maximum(abs(target), epsilon)) * 100.0


@dataclass(frozen=True)
class Auxiliary:
    """The loss of one estimate.

    Parameters
    ----------
    kind : str
        "mape" (Keras), "mae", "mse", "bce" (estimate is a logit, target 0 to 1), "cross_entropy" (estimate (N, K) of
        logits, target (N,) int64).
    weight_d, weight_g : float
        Factor in the discriminator's and in the generator's loss.

    Raises
    ------
    ValueError
        If kind is unknown or a weight is negative or not finite.
    """

    kind: AuxiliaryKind
    weight_d: float = 1.0
    weight_g: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(AuxiliaryKind):
            raise ValueError(f"Auxiliary: kind {self.kind!r}, expected one of {', '.join(get_args(AuxiliaryKind))}")
        for name, weight in (("weight_d", self.weight_d), ("weight_g", self.weight_g)):
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"Auxiliary: {name} must be finite and at least 0, got {weight}")

    def __call__(self, estimate: Tensor, target: Tensor) -> Tensor:
        """The unweighted loss, a scalar, of an estimate (N,), (N, 1) or (N, K)."""
        if self.kind == "cross_entropy":
            classes = arange(estimate.shape[1], device=estimate.device)
            rows = classes.reshape(1, -1) == target.reshape(-1, 1)
            return mean(total(where(rows, log_softmax(estimate, 1), estimate * 0.0), 1)) * -1.0
        if estimate.shape != target.shape:
            if estimate.numel() != target.numel():
                raise ValueError(f"Auxiliary: the estimate has shape {estimate.shape}, its target {target.shape}")
            estimate = estimate.reshape(target.shape)
        if self.kind == "mape":
            return mape(estimate, target)
        if self.kind == "mae":
            return mean(abs(estimate - target))
        if self.kind == "mse":
            return mean(square(estimate - target))
        return mean(softplus(estimate, 1.0, 40.0) - estimate * target)


def image_sum(images: Tensor) -> Tensor:
    """Sum over cells and channels of images (N, C, *X); (N,)."""
    return total(images, tuple(range(1, images.ndim)))


def bin_counts(images: Tensor, edges: Sequence[float], softness: float = 0.05) -> Tensor:
    """Cells with a value in each bin, counted softly so that the counts have a gradient.

    A cell is above edge e by sigmoid((x - e) / (softness * e)); 3DGAN's hard counts are the limit softness -> 0.

    Parameters
    ----------
    images : Tensor (N, C, *X)
    edges : increasing positive numbers, K of them
        In the units of the images.

    Returns
    -------
    Tensor (N, K)
        Cells between edges i and i+1; the last bin has no upper edge.
    """
    if not edges or any(e <= 0 for e in edges) or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"bin_counts: expected increasing positive edges, got {list(edges)}")
    column = constant(tuple(edges), images).reshape(-1, 1)
    flat = images.reshape(images.shape[0], 1, -1)
    above = total(sigmoid((flat - column) / (column * softness)), 2)
    zero = above[:, :1] * 0.0
    return above - cat([above[:, 1:], zero], 1)


def measured_angle(images: Tensor) -> Tensor:
    """Polar angle of each shower from its energy-weighted layers, as 3DGAN measures it (Anglegan, `ecal_angle`).

    For every layer along the last axis: m = (y_mid - y_ref) / sqrt((x_mid - x_ref)^2 + (z - z_ref)^2) against the
    barycentre, sign flipped before it; the angle is the mean of pi/2 - atan(m) over non-empty layers, weighted by z.

    Parameters
    ----------
    images : Tensor (N, 1, X, Y, Z)
        Energies, linear.

    Returns
    -------
    Tensor (N,), rad
        100 for an empty event.
    """
    if images.ndim != 5 or images.shape[1] != 1:
        raise ValueError(f"measured_angle: expected images of shape (N, 1, X, Y, Z), got {images.shape}")
    n, _, nx, ny, nz = images.shape
    cells = images.reshape(n, nx, ny, nz)
    x, y, z = (constant(tuple(i + 0.5 for i in range(k)), images) for k in (nx, ny, nz))
    layer = total(cells, (1, 2))
    safe_layer = where(layer > 0, layer, layer * 0.0 + 1.0)
    x_mid = total(total(cells, 2) * x.reshape(1, nx, 1), 1) / safe_layer
    y_mid = total(total(cells, 1) * y.reshape(1, ny, 1), 1) / safe_layer
    whole = total(layer, 1, True)
    safe = where(whole > 0, whole, whole * 0.0 + 1.0)
    x_ref, y_ref, z_ref = (total(layer * mid, 1, True) / safe for mid in (x_mid, y_mid, z.reshape(1, nz)))
    dz = z.reshape(1, nz) - z_ref
    m = atan2(y_mid - y_ref, sqrt(square(x_mid - x_ref) + square(dz) + 1e-12))
    signed = where(dz < 0, m * -1.0, m)
    weight = z.reshape(1, nz) * (layer > 0).to(images.dtype)
    angle = total((signed * -1.0 + math.pi / 2) * weight, 1) / (total(weight, 1) + 1e-12)
    return where(whole.reshape(n) > 0, angle, angle * 0.0 + EMPTY_ANGLE)
