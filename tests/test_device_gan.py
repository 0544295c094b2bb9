"""Training, generating and going on with a run on a device: the CPU's bits, and no look at the device beside losses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

import gankernels as gk
from gankernels import backends
from gankernels.cli.entry import main
from gankernels.gan import LossConfig, Trainer, TrainerConfig
from gankernels.gan.auxiliary import bin_counts, measured_angle
from gankernels.gan.losses import labels
from gankernels.gan.trainer import load_generator


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    before = backends._serving.get("cuda")
    backends.serve("cuda", fake_cuda)
    with gk.device("cpu"):
        yield
    backends.serve("cuda", before)


LOSSES = {
    "non-saturating": LossConfig(),
    "wasserstein-gp": LossConfig(discriminator="wasserstein-gp", generator="wasserstein-gp"),
    "flipped labels, r1": LossConfig(label_flip=0.2, real_label=0.9, r1=1.0, r1_interval=2),
    "wasserstein": LossConfig(discriminator="wasserstein", generator="wasserstein"),
}


def trainer(device: str, directory: Path | None = None, losses: str = "non-saturating", steps: int = 5) -> Trainer:
    config = TrainerConfig(max_steps=steps, batch=16, losses=LOSSES[losses], max_grad_norm=1.0)
    return Trainer(toy_gan().to(device), toy_data(), config, directory)


def weights(t: Trainer) -> dict[str, Any]:
    return {name: value.cpu().numpy() for name, value in t.gan.generator.state_dict().items()}


@pytest.mark.parametrize("losses", LOSSES)
def test_training_on_a_device_has_the_losses_and_the_weights_of_the_cpu(losses: str) -> None:
    found = []
    for device in ("cpu", "cuda"):  # one after the other: both draw their dropout from the default stream
        t = trainer(device, losses=losses)
        history = []
        for _ in range(5):
            t.train_step()
            history.append(dict(t.losses))
        assert t.gan.device == device
        found.append((history, weights(t)))
    assert found[0][0] == found[1][0]
    for (name, a), b in zip(found[0][1].items(), found[1][1].values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_step_reads_the_device_once_for_each_update_and_nothing_large() -> None:
    t = trainer("cuda")
    t.train_step()
    sizes: list[int] = []
    to_host = fake_cuda.to_host

    def noted(x: Any) -> Any:
        sizes.append(x.size)
        return to_host(x)

    fake_cuda.to_host = noted
    try:
        t.train_step()
    finally:
        fake_cuda.to_host = to_host
    assert len(sizes) == t.config.d_steps + t.config.g_steps  # the losses of each update
    assert max(sizes) < 16


def test_a_checkpoint_of_one_device_goes_on_on_the_other(tmp_path: Path) -> None:
    whole = trainer("cpu", steps=8)
    whole.run()
    for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
        first = trainer(device, tmp_path / device, steps=4)
        first.run()
        second = trainer(other, tmp_path / device, steps=8)
        second.resume()
        assert second.gan.device == other
        second.run()
        for (name, a), b in zip(weights(whole).items(), weights(second).values(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
        gan = toy_gan().to(device)
        load_generator(gan, tmp_path / device / "checkpoints")
        assert gan.device == device


def test_a_gan_moves_with_the_numbers_beside_its_networks() -> None:
    gan = toy_gan()
    gan.response = gk.ones(3)
    assert gan.to("cuda") is gan
    assert (gan.device, next(gan.discriminator.parameters()).device, gan.response.device) == ("cuda",) * 3
    assert gan.to("cpu").response.device == "cpu"


def test_what_losses_and_estimates_need_is_made_beside_the_images() -> None:
    images = gk.tensor(np.abs(np.random.default_rng(0).normal(size=(3, 1, 4, 5, 6))).astype(np.float32), device="cuda")
    for made in (
        bin_counts(images, [0.1, 1.0]),
        measured_angle(images),
        labels(4, LOSSES["flipped labels, r1"], True, gk.Generator(1), device="cuda"),
    ):
        assert made.device == "cuda"
    reads = fake_cuda.reads
    measured_angle(images)
    assert fake_cuda.reads == reads


SMALL = ["--set", "data.events=160", "--set", "train.batch=16", "--max-steps", "3", "--seed", "3"]


def test_the_command_line_trains_on_a_device_and_says_what_a_change_of_device_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    launched = sum(fake_cuda.launches.values())
    assert main(["train", "toy-gaussian", "--device", "cuda", "--run-dir", str(run), *SMALL]) == 0
    assert sum(fake_cuda.launches.values()) > launched
    assert gk.get_default_device() == "cpu"
    assert '"device": "cuda"' in (run / "run.json").read_text()
    capsys.readouterr()
    assert main(["train", "toy-gaussian", "--resume", str(run), "--max-steps", "5"]) == 0
    assert "on cpu from here, begun on cuda: weights, optimizers and random streams go on" in capsys.readouterr().out
    assert main(["train", "toy-gaussian", "--resume", str(run), "--max-steps", "6", "--device", "cuda"]) == 0
    assert "from here" not in capsys.readouterr().out


def test_a_device_that_cannot_be_used_ends_the_command_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    backends.serve("cuda", None)
    monkeypatch.delenv(backends.CHOICE, raising=False)
    monkeypatch.setattr(backends, "cuda_backend", lambda kind: (None, "there is no GPU here"))
    assert main(["train", "toy-gaussian", "--device", "cuda", "--run-dir", str(tmp_path / "run")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--device cuda cannot be used: compiled: there is no GPU here; numba: there is no GPU here" in said
    assert not (tmp_path / "run").exists()
