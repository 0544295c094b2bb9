"""Which convolutions of a network nobody sees, so that "auto" may take FFT for their values in training."""

from __future__ import annotations

from collections.abc import Iterable

from gankernels import nn

__all__ = ["mark_hidden", "output_layers"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _has_kernels(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters())


def output_layers(module: nn.Module) -> list[nn.Module]:
    """The layers whose outputs may be the network's: in a Sequential those of its last part with kernels, of any other
    module those of each of its parts, because only its `forward` knows their order."""
    parts = [m for m in module.children() if _has_kernels(m)]
    if not parts:
        return [module]
    return [
        layer for part in (parts[-1:] if isinstance(module, nn.Sequential) else parts) for layer in output_layers(part)
    ]


def mark_hidden(network: nn.Module, seen: Iterable[nn.Module]) -> None:
    """Mark the convolutions of a network as hidden, but for those that are `seen`."""
    kept = {id(m) for m in seen}
    for m in network.modules():
        if isinstance(m, _CONVOLUTIONS):
            m.hidden = id(m) not in kept
