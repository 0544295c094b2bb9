"""Recorded calls run as CUDA graphs: here by the emulator, which notes launches and starts them as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

import gankernels as gk
from gankernels import backends, nn, optim
from gankernels.backends import cuda
from gankernels.gan import Trainer, TrainerConfig

F32 = np.float32
pytestmark = pytest.mark.skipif(
    cuda.why_not() is not None or not cuda.native.emulated, reason="the CUDA module is not built for the emulator"
)


@pytest.fixture(autouse=True)
def _compiled_backend() -> Iterator[None]:
    before = gk.get_default_device()
    backends.serve("cuda", cuda)
    gk.set_default_device("cuda")
    yield
    gk.set_default_device(before)
    backends.serve("cuda", None)


def x(seed: int = 0) -> gk.Tensor:
    return gk.tensor(np.random.default_rng(seed).normal(size=(6, 4)).astype(F32), device="cuda")


def bits(t: gk.Tensor) -> Any:
    return t.detach().cpu().numpy()


def recording(run: gk.Replay) -> Any:
    """The backend's recording of the only program."""
    (program,) = run._programs.values()
    assert program.ready is not None
    return program.ready.recording


def network() -> nn.Module:
    rng = gk.Generator(1)
    return nn.Sequential(
        nn.Linear(4, 8, generator=rng), nn.BatchNorm1d(8), nn.LeakyReLU(0.2),
        nn.Dropout(0.3, generator=gk.Generator(5)), nn.Linear(8, 1, generator=rng),
    )  # fmt: skip


def test_a_function_becomes_one_graph_and_its_dropout_and_noise_go_on_counting() -> None:
    results = []
    for replayed in (True, False):
        net, noise = network(), gk.Generator(9)

        def judged(inputs: gk.Tensor, net: Any = net, noise: gk.Generator = noise) -> gk.Tensor:
            return net(inputs + noise.normal(inputs.shape)).detach()

        run = gk.Replay(judged, [net]) if replayed else judged
        results.append([bits(run(x(i))) for i in range(6)])
        if isinstance(run, gk.Replay):
            assert (run.reason, run.refusal) == (None, None)
            assert recording(run).graphs() == 1
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    assert not np.array_equal(results[0][4], results[0][5])


def test_a_step_of_the_optimizer_lies_between_graphs_and_follows_its_learning_rate() -> None:
    results = []
    for replayed in (True, False):
        net = network()
        optim.flatten(net.parameters())
        adam = optim.Adam(net.parameters(), lr=0.1)

        def step(inputs: gk.Tensor, net: Any = net, adam: optim.Adam = adam) -> gk.Tensor:
            adam.zero_grad()
            (net(inputs) ** 2).mean().backward()
            adam.step()
            return net(inputs).detach()

        run = gk.Replay(step, [net]) if replayed else step
        seen = []
        for i in range(6):
            adam.param_groups[0]["lr"] = 0.1 / (i + 1)
            seen.append(bits(run(x(i))))
        results.append(seen)
        assert {s["step"] for s in adam.state.values()} == {6}
        if isinstance(run, gk.Replay):
            assert run.refusal is None
            assert recording(run).graphs() == 2
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_where_graphs_are_refused_the_kernels_are_started_one_by_one_and_the_reason_is_told() -> None:
    cuda.native.emulator_refuse_graphs(True)
    try:
        net = network()
        run = gk.Replay(lambda inputs: net(inputs).detach(), [net])
        for i in range(4):
            found = bits(run(x(i)))
        assert run.reason is None
        assert "one by one: cudaStreamBeginCapture: cudaErrorNotSupported" in str(run.refusal)
        net[3].generator.offset -= 24  # of (48 + 1) // 2: the same mask once more
        assert np.array_equal(bits(net(x(3))), found)
    finally:
        cuda.native.emulator_refuse_graphs(False)


def test_the_memory_of_a_graph_is_its_own_for_its_life_and_free_afterwards() -> None:
    net = network().eval()
    net(x())
    before = gk.memory_stats()["in_use"]
    run = gk.Replay(lambda inputs: (net(inputs) + net(inputs * 2.0)).detach(), [net], copy_outputs=False)
    for i in range(4):
        run(x(i))
    held = gk.memory_stats()["in_use"]
    assert held > before
    gk.empty_cache()  # must not touch what the graph names
    others = [gk.full((6, 4), float("nan"), device="cuda") for _ in range(40)]
    expected = bits(net(x(7)) + net(x(7) * 2.0))
    assert np.array_equal(bits(run(x(7))), expected)
    assert all(np.isnan(bits(t)).all() for t in others)
    del run, others
    assert gk.memory_stats()["in_use"] <= before


def test_a_trainer_gives_the_same_bits_by_graphs_and_reads_its_losses_when_told() -> None:
    results = []
    for changes in ({"replay": False}, {"losses_every": 3, "log_every": 100}):
        gan = toy_gan()
        gan.replayable = True
        trainer = Trainer(gan, toy_data(), TrainerConfig(max_steps=7, batch=8, **changes))
        losses = []
        for _ in range(7):
            trainer.train_step()
            losses.append(dict(trainer.losses))
        weights = [bits(t) for t in (*gan.generator.parameters(), *gan.discriminator.parameters())]
        results.append((losses, weights))
        assert not trainer.updates.refused
    (every, weights), (some, replayed) = results
    assert all(np.array_equal(a, b) for a, b in zip(weights, replayed, strict=True))
    assert some[2] == every[2]
    assert some[3] == some[4] == every[2]
    assert some[5] == some[6] == every[5]


def test_an_update_that_cannot_be_replayed_is_named_once_with_its_reason() -> None:
    gan = toy_gan()
    gan.replayable = True
    reading = gan.discriminator.forward
    gan.discriminator.forward = lambda images, *more: (images.sum().cpu().item(), reading(images, *more))[1]
    trainer = Trainer(gan, toy_data(), TrainerConfig(max_steps=4, batch=16))
    said: list[str] = []
    trainer.say = said.append  # type: ignore[method-assign]
    for _ in range(4):
        trainer.train_step()
    assert len(said) == 2
    assert all("runs from Python: values of a tensor were read" in line for line in said)
