"""The layers with weights of a network, found by running it: what they see, what they cost, and their three passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

import gankernels as gk
from gankernels import nn

PASSES = ("forward", "input gradient", "weight gradient")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """A layer with weights; an Upsample before a convolution belongs to it.

    Attributes
    ----------
    path : str
        As in the state_dict, "generator.body.4".
    modules : tuple of nn.Module
        One, or Upsample and the convolution.
    x, y : tuple of int
        Shapes of one event, without the batch axis.
    flops : float
        Multiplications and additions of the direct forward pass for one event.
    fan_in : int
        Terms of the sum that one output is.
    """

    path: str
    modules: tuple[nn.Module, ...]
    x: Shape
    y: Shape
    flops: float
    fan_in: int

    @property
    def layer(self) -> Any:
        """The module that holds the weights."""
        return self.modules[-1]

    def text(self) -> str:
        """`8 to 6, 3x3x8` and what is before it."""
        m = self.layer
        if isinstance(m, nn.Linear):
            return f"Linear {m.in_features} to {m.out_features}"
        kind = type(m).__name__[:-2]  # without the rank
        kernel = "x".join(map(str, m.kernel_size))
        up = "" if len(self.modules) == 1 else "Upsample, "
        return f"{up}{kind} {m.in_channels} to {m.out_channels}, {kernel}"


def units(network: nn.Module, prefix: str, inputs: Any) -> list[Unit]:
    """Every layer with weights, in the order in which they run."""
    seen: dict[str, tuple[Shape, Shape]] = {}
    order: list[str] = []
    handles = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            seen[path] = (given[0].shape[1:], result.shape[1:])
            order.append(path)

        return hook

    leaves = {p: m for p, m in network.named_modules() if isinstance(m, nn.Upsample) or _has_weights(m)}
    for path, module in leaves.items():
        handles.append(module.register_forward_hook(note(path)))
    network.eval()
    with gk.no_grad():
        network(inputs)
    network.train()
    for handle in handles:
        handle.remove()
    found = []
    for at, path in enumerate(order):
        module = leaves[path]
        if isinstance(module, nn.Upsample):
            continue
        x, y = seen[path]
        modules: tuple[nn.Module, ...] = (module,)
        if at and isinstance(leaves[order[at - 1]], nn.Upsample):
            modules, x = (leaves[order[at - 1]], module), seen[order[at - 1]][0]
        taps = prod(module.weight.shape)
        if "LocallyConnected" in type(module).__name__ or isinstance(module, nn.Linear):
            flops, fan_in = 2.0 * taps, taps // prod(y)
        elif "Transpose" in type(module).__name__:
            flops, fan_in = 2.0 * taps * prod(x[1:]), taps // y[0]
        else:
            flops, fan_in = 2.0 * taps * prod(y[1:]), taps // y[0]
        found.append(Unit(f"{prefix}.{path}", modules, tuple(x), tuple(y), flops, fan_in))
    return found


def _has_weights(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim > 1


def all_units(gan: Any, real: Any) -> tuple[list[Unit], list[Unit]]:
    """Those of the generator and of the discriminator."""
    few = {k: v[:2] for k, v in real.conditions.items()}
    made: list[Any] = []

    def keep(network: nn.Module) -> Callable[..., Any]:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            made.append(given[0])

        return network.register_forward_pre_hook(hook)

    networks = (gan.generator, gan.discriminator)
    handles = [keep(network) for network in networks]
    for network in networks:
        network.eval()  # statistics stay as they are
    with gk.no_grad():
        n = len(next(iter(few.values())))
        gan.discriminate(gan.generate(gan.noise(n, gk.Generator(1)), few), few)
    for handle in handles:
        handle.remove()
    return units(gan.generator, "generator", made[0]), units(gan.discriminator, "discriminator", made[1])


def step_flops(gan: Any, real: Any, g_steps: int) -> float:
    """Of the direct algorithm, for one event, nothing computed twice or in vain: fakes, D on real, D on fake, and G."""
    g, d = all_units(gan, real)
    forward_g, forward_d = sum(u.flops for u in g), sum(u.flops for u in d)
    # D: three passes less the gradient of the image. G: its own three passes, D's forward and gradient of the image
    return forward_g + 2 * (3 * forward_d - d[0].flops) + g_steps * (3 * forward_g - g[0].flops + 2 * forward_d)


# ---- the passes ------------------------------------------------------------------------------------------------------
def our_pass(unit: Unit, which: str, x: Any, ct: Any) -> Callable[[], Any]:
    """One pass of the layer; the graph of a gradient is recorded beforehand."""
    block = nn.Sequential(*unit.modules)
    device = unit.layer.weight.device
    given = gk.from_array(x).to(device)
    if which == "forward":

        def forward() -> Any:
            with gk.no_grad():
                return block(given)

        return forward
    weight = unit.layer.weight
    for p in block.parameters():
        p.requires_grad_(which == "weight gradient" and p is weight)
    wanted = weight if which == "weight gradient" else given.requires_grad_()
    y, cotangent = block(given), gk.from_array(ct).to(device)
    return lambda: gk.grad(y, wanted, cotangent)[0]


def torch_pass(
    unit: Unit, which: str, x: Any, ct: Any, layout: str, bf16: bool, device: str = "cpu"
) -> Callable[[], Any]:
    """The same in PyTorch; the arrays lie in the layout beforehand, on the device."""
    import torch

    from benchmarks import rival

    block = torch.nn.Sequential(*(rival.load(rival.twin(m), m) for m in unit.modules)).to(device)
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d} if layout == "channels_last" else {}

    def laid_out(a: Any) -> Any:
        t = torch.from_numpy(a).to(device)
        return t.contiguous(memory_format=layouts.get(t.ndim, torch.contiguous_format))

    weight = block[-1].weight
    if weight.ndim in layouts and weight.ndim == x.ndim:
        block[-1].to(memory_format=layouts[weight.ndim])
        weight = block[-1].weight
    given, cotangent = laid_out(x), laid_out(ct)

    def run() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            return block(given)

    if which == "forward":

        def forward() -> Any:
            with torch.inference_mode():
                return run()

        return forward
    block.requires_grad_(False)
    wanted = (weight if which == "weight gradient" else given).requires_grad_()
    y = run()
    cotangent = cotangent.to(y.dtype)
    if which == "weight gradient" and hasattr(block[-1], "published"):
        return lambda: _published(block[-1], torch.autograd.grad(y, wanted, cotangent, retain_graph=True)[0])
    return lambda: torch.autograd.grad(y, wanted, cotangent, retain_graph=True)[0]


def _published(module: Any, gradient: Any) -> Any:
    """A gradient of a locally connected layer's stored weights in our layout, as a view."""
    o, c, oh, ow, kh, kw = module.shape
    return gradient.reshape(oh, ow, c, kh, kw, o).permute(5, 2, 0, 1, 3, 4)


def arrays(unit: Unit, batch: int) -> tuple[Any, Any]:
    """Random input and cotangent of a layer."""
    rng = np.random.default_rng(1)
    return tuple(rng.standard_normal((batch, *s), dtype=np.float32) for s in (unit.x, unit.y))  # type: ignore[return-value]
