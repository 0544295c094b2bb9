"""Parameter: a tensor that a Module owns and an optimizer changes."""

from __future__ import annotations

from typing import Any

from gankernels.autograd import Tensor
from gankernels.ops.common import default_device
from gankernels.ops.creation import from_array

__all__ = ["Parameter"]


class Parameter(Tensor):
    """A leaf tensor that a Module registers as one of its parameters.

    Parameters
    ----------
    data : Tensor or array
        Shared where it is row-major and writable, else copied. An array goes to the default device.
    requires_grad : bool
        False freezes it.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        source = data if isinstance(data, Tensor) else from_array(data).to(default_device())
        owned = source.data.flags.c_contiguous and source.data.flags.writeable
        super().__init__(source.data if owned else source.detach().clone().data, requires_grad)
