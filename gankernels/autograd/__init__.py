"""Reverse-mode differentiation, closed under itself."""

from gankernels.autograd.form import Form, fused, pointwise
from gankernels.autograd.tape import (
    Tensor,
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
