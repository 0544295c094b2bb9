"""The same GAN in PyTorch: layers, losses and optimizers of torch, our weights, a step without waste.

`twin` maps our layers to torch.nn ones of the same names, so that a state_dict fits both. What a careful user of
PyTorch does is done: generated images are detached in D's update, D's weights ask for no gradient in G's update,
activations work in place, optimizers are fused or foreach ones.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gankernels import nn
from gankernels.gan.model import GAN, Batch
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.geometry import padding_pairs

warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")  # the published layers have them

Array = np.ndarray[Any, Any]
GENERATION_CHUNK = 128  # larger batches are generated in pieces of it: one piece of 1024 needs gigabytes


class LocallyConnected2d(torch.nn.Module):
    """Unshared convolution by unfold and one matrix product a position; weights (L, C K, O) lie as bmm wants them."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.out, self.kernel, self.stride = ours.output_size, ours.kernel_size, ours.stride
        pairs = padding_pairs("twin", ours.padding, ours.kernel_size, ours.input_size, ours.stride, ours.dilation)
        self.padding = tuple(low for low, _ in pairs)
        self.shape = ours.weight.shape
        o, c, oh, ow, kh, kw = self.shape
        self.weight = torch.nn.Parameter(torch.empty(oh * ow, c * kh * kw, o))
        self.bias = None if ours.bias is None else torch.nn.Parameter(torch.empty(ours.bias.shape))

    def stored(self, weight: torch.Tensor) -> torch.Tensor:
        """(O, C, *out, *kernel) as it is kept here."""
        return weight.permute(2, 3, 1, 4, 5, 0).reshape(self.weight.shape)

    def published(self) -> torch.Tensor:
        """The weights in our layout."""
        o, c, oh, ow, kh, kw = self.shape
        return self.weight.detach().reshape(oh, ow, c, kh, kw, o).permute(5, 2, 0, 1, 3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)  # N, C K, L
        y = torch.bmm(patches.permute(2, 0, 1), self.weight).permute(1, 2, 0).reshape(-1, self.shape[0], *self.out)
        return y if self.bias is None else y + self.bias


def twin(module: nn.Module) -> torch.nn.Module:
    """The torch module of the same layers and names, weights not yet loaded."""
    kind = type(module).__name__
    if hasattr(torch.nn, kind) or kind == "LocallyConnected2d":
        return _layer(kind, module)
    plain = {
        k: v for k, v in vars(module).items() if not k.startswith("_") and isinstance(v, (int, float, tuple, list))
    }
    methods = {k: v for k, v in vars(type(module)).items() if callable(v) and k != "__init__"}
    made: torch.nn.Module = type(kind, (torch.nn.Module,), methods)()
    for name, value in plain.items():
        setattr(made, name, value)
    for name, child in module.named_children():
        made.add_module(name, twin(child))
    return made


def _layer(kind: str, m: Any) -> torch.nn.Module:
    layer = getattr(torch.nn, kind, None)
    if kind in ("Sequential", "ModuleList"):
        children = [twin(child) for _, child in m.named_children()]
        return layer(*children) if kind == "Sequential" else layer(children)
    if kind.startswith("ConvTranspose"):
        return layer(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, bias=m.bias is not None)
    if kind.startswith("Conv"):
        return layer(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, bias=m.bias is not None)
    if kind.startswith("BatchNorm"):
        return layer(m.num_features, eps=m.eps, momentum=m.momentum)
    makers: dict[str, Callable[[], Any]] = {
        "Linear": lambda: layer(m.in_features, m.out_features, bias=m.bias is not None),
        "LocallyConnected2d": lambda: LocallyConnected2d(m),
        "LeakyReLU": lambda: layer(m.negative_slope, inplace=True),
        "ReLU": lambda: layer(inplace=True),
        "Tanh": lambda: layer(),
        "Dropout": lambda: layer(m.p),
        "Upsample": lambda: layer(scale_factor=m.scale_factor),
        "AvgPool3d": lambda: layer(m.kernel_size),
        "Flatten": lambda: layer(),
    }
    if kind not in makers:
        raise NotImplementedError(f"twin: no torch layer is known for {kind}")
    return makers[kind]()


def load(made: torch.nn.Module, ours: nn.Module) -> torch.nn.Module:
    """Copy the weights and statistics of our module."""
    local = {f"{name}.weight": m for name, m in made.named_modules() if isinstance(m, LocallyConnected2d)}
    local = {key.lstrip("."): m for key, m in local.items()}
    state = {k: torch.from_numpy(np.array(v.numpy())) for k, v in ours.state_dict().items()}
    made.load_state_dict({k: local[k].stored(v) if k in local else v for k, v in state.items()})
    return made


def state(made: torch.nn.Module) -> dict[str, Array]:
    """Weights and statistics by name, as our state_dict has them."""
    values = {k: v for k, v in made.state_dict().items() if v.is_floating_point()}
    for name, m in made.named_modules():
        if isinstance(m, LocallyConnected2d):
            values[f"{name}.weight"] = m.published()
    return {k: v.detach().float().contiguous().numpy().copy() for k, v in values.items()}


# ---- what the GANs tell their networks, and what they ask of images -------------------------------------------------
def mape(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """As gan.auxiliary.mape."""
    return ((target - estimate).abs() / target.abs().clamp_min(1e-7)).mean() * 100.0


def measured_angle(images: torch.Tensor) -> torch.Tensor:
    """As gan.auxiliary.measured_angle."""
    n, _, nx, ny, nz = images.shape
    cells = images.reshape(n, nx, ny, nz)
    x, y, z = (torch.arange(k, dtype=images.dtype, device=images.device) + 0.5 for k in (nx, ny, nz))
    layer = cells.sum((1, 2))
    safe_layer = torch.where(layer > 0, layer, torch.ones_like(layer))
    x_mid = (cells.sum(2) * x.reshape(1, nx, 1)).sum(1) / safe_layer
    y_mid = (cells.sum(1) * y.reshape(1, ny, 1)).sum(1) / safe_layer
    whole = layer.sum(1, keepdim=True)
    safe = torch.where(whole > 0, whole, torch.ones_like(whole))
    x_ref, y_ref, z_ref = ((layer * mid).sum(1, keepdim=True) / safe for mid in (x_mid, y_mid, z.reshape(1, nz)))
    dz = z.reshape(1, nz) - z_ref
    m = torch.atan2(y_mid - y_ref, ((x_mid - x_ref).square() + dz.square() + 1e-12).sqrt())
    weight = z.reshape(1, nz) * (layer > 0)
    angle = ((torch.pi / 2 - torch.where(dz < 0, -m, m)) * weight).sum(1) / (weight.sum(1) + 1e-12)
    return torch.where(whole.reshape(n) > 0, angle, torch.full_like(angle, 100.0))


def _latent(name: str, noise: torch.Tensor, c: dict[str, torch.Tensor]) -> torch.Tensor:
    if name in ("3dgan", "calogan-like"):
        return noise * (c["energy"].reshape(-1, 1) * 0.01)
    if name == "3dgan-angle":
        return torch.cat([c["energy"].reshape(-1, 1) * 0.01, c["theta_rad"].reshape(-1, 1), noise], 1)
    return torch.cat([noise, c["label"].reshape(-1, 1) * 2.0 - 1.0], 1) if name == "toy" else noise


def _wide(t: torch.Tensor) -> torch.Tensor:
    """At least float32."""
    return t if t.dtype == torch.float64 else t.float()


def _double(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is not an integer in float64."""
    return {k: v.double() if v.is_floating_point() else v for k, v in values.items()}


class Rival:
    """A workload in PyTorch.

    Parameters
    ----------
    name : str
        Of the workload.
    gan : GAN
        Gives layers and weights.
    layout : "contiguous" or "channels_last"
    compiled : bool
        Networks go through torch.compile.
    dtype : "float32", "bfloat16" or "float64"
        The second is torch.autocast; the third is slow, and tells how exact the others are.
    device : "cpu" or "cuda"
    """

    def __init__(
        self, name: str, gan: GAN, config: TrainerConfig, real: Batch, *,
        layout: str = "contiguous", compiled: bool = False, dtype: str = "float32", device: str = "cpu",
    ) -> None:  # fmt: skip
        self.device = device
        self.name, self.config, self.dtype, self.latent = name, config, dtype, gan.latent
        self.auxiliary, self.power = gan.auxiliary, getattr(gan, "power", 1.0)
        self.generator, self.discriminator = (load(twin(n), n).to(device) for n in (gan.generator, gan.discriminator))
        images = torch.from_numpy(real.images.numpy().copy()).to(device)
        rank = images.ndim - 2
        self.memory = {("channels_last", 2): torch.channels_last, ("channels_last", 3): torch.channels_last_3d}.get(
            (layout, rank), torch.contiguous_format
        )
        for network in (self.generator, self.discriminator):
            for m in network.modules():
                if any(p.ndim == rank + 2 for p in m.parameters(recurse=False)):
                    m.to(memory_format=self.memory)
        self.real = images.contiguous(memory_format=self.memory)
        self.conditions = {k: torch.from_numpy(v.numpy().copy()).to(device) for k, v in real.conditions.items()}
        self.targets = {
            side: {k: torch.from_numpy(np.array(v.numpy())).to(device) for k, v in found.items()}
            for side, found in (("real", gan.real_targets(real)), ("fake", gan.targets(real.conditions)))
        }
        self.g, self.d = self.generator, self.discriminator
        if compiled:
            torch._dynamo.reset()
            self.g, self.d = (torch.compile(n, dynamic=False) for n in (self.generator, self.discriminator))
        self.g_optimizer = optimizer(self.generator.parameters(), config.g_optimizer)
        self.d_optimizer = optimizer(self.discriminator.parameters(), config.d_optimizer)
        if dtype == "float64":
            self.generator.double(), self.discriminator.double()
            self.real = self.real.double()
            self.conditions = _double(self.conditions)
            self.targets = {side: _double(found) for side, found in self.targets.items()}
        self.fixed: torch.Tensor | None = None

    def cast(self) -> AbstractContextManager[Any]:
        """The precision of networks."""
        return torch.autocast(self.device, torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()

    def noise(self, n: int) -> torch.Tensor:
        """New noise, or that which `fixed` holds."""
        if self.fixed is not None:
            return self.fixed[:n].to(self.real.dtype)
        return torch.randn(n, self.latent, device=self.device, dtype=self.real.dtype)

    def generate(self, n: int, c: dict[str, torch.Tensor]) -> torch.Tensor:
        """Images for conditions."""
        with self.cast():
            images = self.g(_latent(self.name, self.noise(n), c)).reshape(n, *self.real.shape[1:])
        if images.ndim == self.real.ndim > 3:
            images = images.contiguous(memory_format=self.memory)
        return images

    def discriminate(self, images: torch.Tensor, side: str, weight: str, target: float) -> torch.Tensor:
        """The loss of images that should be judged `target`."""
        label = self.conditions["label"].reshape(-1, 1) * 2.0 - 1.0 if self.name == "toy" else None
        with self.cast():
            shown = images if label is None else torch.cat([images.reshape(len(images), -1), label], 1)
            said = self.d(shown)
        logits, estimates = said if isinstance(said, tuple) else (said, None)
        logits = _wide(logits)
        loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
        linear = _wide(images)
        if self.power != 1.0:
            linear = (linear + 1e-12) ** (1.0 / self.power)
        for name, auxiliary in self.auxiliary.items():
            if name == "energy":
                estimate = _wide(estimates).reshape(-1)
            else:
                estimate = measured_angle(linear) if name == "angle" else linear.flatten(1).sum(1)
            wanted = self.targets[side][name]
            part = mape(estimate, wanted) if auxiliary.kind == "mape" else (estimate - wanted).abs().mean()
            loss = loss + part * getattr(auxiliary, weight)
        return loss

    def step(self) -> None:
        """One training step."""
        n = len(self.real)
        with torch.no_grad():
            fake = self.generate(n, self.conditions)
        self.d_optimizer.zero_grad(set_to_none=True)
        for images, side, target in ((self.real, "real", 1.0), (fake, "fake", 0.0)):
            self.discriminate(images, side, "weight_d", target).backward()
            if self.config.separate_updates or side == "fake":
                self.d_optimizer.step()
                self.d_optimizer.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(False)
        for _ in range(self.config.g_steps):
            self.discriminate(self.generate(n, self.conditions), "fake", "weight_g", 1.0).backward()
            self.g_optimizer.step()
            self.g_optimizer.zero_grad(set_to_none=True)
        self.discriminator.requires_grad_(True)

    def pieces(self) -> Iterator[dict[str, torch.Tensor]]:
        """The conditions in pieces that are generated at a time."""
        n = len(next(iter(self.conditions.values())))
        for at in range(0, n, GENERATION_CHUNK):
            yield {k: v[at : at + GENERATION_CHUNK] for k, v in self.conditions.items()}

    def sample(self) -> torch.Tensor:
        """Images of the whole batch in evaluation mode."""
        self.generator.eval()
        with torch.inference_mode():
            parts = [self.generate(len(next(iter(c.values()))), c) for c in self.pieces()]
        self.generator.train()
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def optimizer(parameters: Any, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The torch optimizer of the same rule."""
    p = list(parameters)
    if config.name == "sgd":
        return torch.optim.SGD(p, config.lr, fused=True)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(p, config.lr, alpha=config.rho, eps=config.eps, foreach=True)
    return torch.optim.Adam(p, config.lr, (config.beta1, config.beta2), config.eps, fused=True)


class OnnxGenerator:
    """The rival's generator in ONNX Runtime.

    Raises
    ------
    ImportError
        If onnx or onnxruntime is not installed.
    """

    def __init__(self, rival: Rival, threads: int) -> None:
        import onnx  # noqa: F401  the exporter needs it
        import onnxruntime as ort

        self.rival = rival
        z = _latent(rival.name, torch.randn(2, rival.latent), {k: v[:1].repeat(2) for k, v in rival.conditions.items()})
        file = io.BytesIO()
        rival.generator.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter that needs no further package is called legacy
            torch.onnx.export(
                rival.generator, (z,), file, input_names=["z"], output_names=["images"],
                dynamic_axes={"z": {0: "n"}, "images": {0: "n"}}, dynamo=False,
            )  # fmt: skip
        rival.generator.train()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # its threads spin inside a run as ever, but not for 50 ms after it, on the cores that ours has by then
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def sample(self) -> Array:
        """Images of the whole batch."""
        parts = []
        for c in self.rival.pieces():
            z = _latent(self.rival.name, self.rival.noise(len(next(iter(c.values())))), c)
            images = self.session.run(None, {"z": z.numpy()})[0]
            parts.append(images.reshape(len(z), *self.rival.real.shape[1:]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
