"""Exponential moving average of a network: what is sampled and kept, because GAN weights themselves oscillate.

Parameters are averaged, buffers (batch-norm statistics) are copied. The first updates forget faster, with decay
min(decay, (1 + n) / (10 + n)) after n updates, so that the initial weights do not linger (TensorFlow's rule).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gankernels import nn
from gankernels.autograd import Tensor
from gankernels.ops import tensor
from gankernels.ops.replay import again
from gankernels.ops.update import copy_, lerp_
from gankernels.optim.flat import flatten, shared_buffer

__all__ = ["EMA"]


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in state.items()}


class EMA:
    """The average of a module's weights.

    Parameters
    ----------
    module : nn.Module
        Not changed, and not kept unless decay is 0.
    decay : float
        0 (the last weights: the module's own, without a copy) to below 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA: decay must be at least 0 and below 1, got {decay}")
        self.decay = decay
        self.updates = 0
        self._last = None if decay else module
        self._averaged = [name for name, _ in module.named_parameters()] if decay else []
        self._state = _copies(module.state_dict()) if decay else {}
        if self._averaged:
            flatten([self._state[name] for name in self._averaged])

    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights."""
        if self._last is None:
            again(lambda: self._update(module), steady=True)

    def _update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        state = module.state_dict()
        own, theirs = ([tensors[name] for name in self._averaged] for tensors in (self._state, state))
        buffers = [shared_buffer(tensors) if tensors else None for tensors in (own, theirs)]
        if None not in [b if b is None else 0 for b in buffers]:  # all of them at once, as the optimizer's step
            lerp_(Tensor(buffers[0]), Tensor(buffers[1]), 1.0 - decay)
            for t in own:
                t.version += 1
        else:
            for a, b in zip(own, theirs, strict=True):
                lerp_(a, b, 1.0 - decay)
        for name in state.keys() - set(self._averaged):
            copy_(self._state[name], state[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module has the averaged weights inside, its own again afterwards."""
        if module is self._last:
            yield
            return
        own = _copies(module.state_dict())
        module.load_state_dict(self.state_dict())
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights by name, as `module.state_dict()`."""
        return dict(self._state) if self._last is None else self._last.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], updates: int) -> None:
        """Go on from stored weights, or without a decay from the module's own.

        Raises
        ------
        KeyError, ValueError
            If names or shapes differ.
        """
        known = self.state_dict()
        for name in known.keys() ^ state.keys():
            raise KeyError(f"EMA: tensor {name!r} is {'missing' if name in known else 'unexpected'}")
        for name, own in known.items():
            if tuple(state[name].shape) != own.shape or state[name].dtype != own.dtype:
                raise ValueError(f"EMA: {name!r} has shape {tuple(state[name].shape)}, expected {own.shape}")
        for name, own in self._state.items():
            copy_(own, tensor(state[name], device=own.device))
        self.updates = int(updates)
