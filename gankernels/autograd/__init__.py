"""Reverse-mode differentiation, closed under itself."""

from gankernels.autograd.autocast import autocast
from gankernels.autograd.form import Form, fused, pointwise
from gankernels.autograd.tape import (
    Tensor,
    compute_dtype,
    computing,
    enable_grad,
    grad,
    is_differentiating,
    is_recording,
    no_grad,
    record,
    recording,
)

__all__ = [
    "Form",
    "Tensor",
    "autocast",
    "compute_dtype",
    "computing",
    "enable_grad",
    "fused",
    "grad",
    "is_differentiating",
    "is_recording",
    "no_grad",
    "pointwise",
    "record",
    "recording",
]
