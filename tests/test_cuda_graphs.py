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
from gankernels.gan import LossConfig, OptimizerConfig, Trainer, TrainerConfig
from gankernels.ops import update
from gankernels.ops.replay import again

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


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (optim.Adam, {"weight_decay": 0.01}),
    "adamw": (optim.AdamW, {"weight_decay": 0.1}),
    "sgd": (optim.SGD, {}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (optim.RMSprop, {"momentum": 0.5, "centered": True}),
}


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "one by one"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_the_optimizer_is_part_of_the_graph_and_follows_its_settings(name: str, flat: bool) -> None:
    results = []
    for replayed in (True, False):
        net = network()
        if flat:
            optim.flatten(net.parameters())
        make, settings = OPTIMIZERS[name]
        optimizer = make(net.parameters(), lr=0.1, **settings)
        schedule = optim.ExponentialLR(optimizer, 0.9)

        def step(inputs: gk.Tensor, net: Any = net, optimizer: Any = optimizer, schedule: Any = schedule) -> gk.Tensor:
            optimizer.zero_grad()
            (net(inputs) ** 2).mean().backward()
            optimizer.step()
            schedule.step()
            return net(inputs).detach()

        run = gk.Replay(step, [net]) if replayed else step
        seen = []
        for i in range(7):
            if i == 5:
                optimizer.param_groups[0]["weight_decay"] = 0.2
            seen.append(bits(run(x(i))))
        results.append([*seen, *map(bits, net.parameters())])
        assert {s["step"] for s in optimizer.state.values() if "step" in s} in ({7}, set())
        if isinstance(run, gk.Replay):
            assert (run.reason, run.refusal) == (None, None)
            assert recording(run).graphs() == 1
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def noisy_step(lr: float = 0.1, replayed: bool = True) -> tuple[Any, nn.Module, Any]:
    """An update that draws its own noise, without inputs; its network and its optimizer."""
    net, noise = network(), gk.Generator(9)
    optim.flatten(net.parameters())
    optimizer = optim.Adam(net.parameters(), lr=lr)

    def step() -> None:
        optimizer.zero_grad()
        (net(noise.normal((6, 4))) ** 2).mean().backward()
        optimizer.step()

    return gk.Replay(step, [net]) if replayed else step, net, optimizer


def traffic(run: Any, times: int) -> tuple[int, int, int]:
    """What the host asks of the device meanwhile: works one by one, graphs, waits."""
    before = cuda.native.emulator_traffic()
    for _ in range(times):
        run()
    return tuple(b - a for a, b in zip(before, cuda.native.emulator_traffic(), strict=True))  # type: ignore[return-value]


def test_a_hundred_replays_are_a_hundred_graphs_and_nothing_is_written_to_the_device_for_them() -> None:
    run, net, optimizer = noisy_step()
    for _ in range(4):
        run()
    assert traffic(run, 100) == (0, 100, 0)
    optimizer.param_groups[0]["lr"] = 0.01
    assert traffic(run, 3) == (1, 3, 0)  # once
    assert {s["step"] for s in optimizer.state.values()} == {107}
    itself, same_net, other = noisy_step(replayed=False)
    for i in range(107):
        other.param_groups[0]["lr"] = 0.1 if i < 104 else 0.01
        itself()
    assert all(np.array_equal(bits(a), bits(b)) for a, b in zip(net.parameters(), same_net.parameters(), strict=True))


def test_the_count_on_the_device_follows_a_loaded_state_and_steps_without_a_graph() -> None:
    results = []
    for replayed in (True, False):
        run, net, optimizer = noisy_step(replayed=replayed)
        for _ in range(5):
            run()
        state = optimizer.state_dict()
        for s in state["state"].values():
            s["step"] = 40
        optimizer.load_state_dict(state)
        for _ in range(4):
            run()
        for p in net.parameters():
            p.grad = p.detach() * 2.0
        optimizer.step()  # the 45th
        for _ in range(3):
            run()
        assert {s["step"] for s in optimizer.state.values()} == {48}
        results.append([*map(bits, net.parameters())])
        if replayed:
            assert traffic(run, 5) == (0, 5, 0)
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_graphs_that_take_turns_with_one_optimizer_and_one_noise_share_their_counts() -> None:
    results = []
    for replayed in (True, False):
        net, noise = network(), gk.Generator(9)
        optim.flatten(net.parameters())
        optimizer = optim.Adam(net.parameters(), lr=0.1)

        def step(rows: int, net: Any = net, noise: gk.Generator = noise, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            (net(noise.normal((rows, 4))) ** 2).mean().backward()
            optimizer.step()

        small, large = (lambda step=step: step(6)), (lambda step=step: step(9))
        if replayed:
            small = gk.Replay(small, [net])
            large = gk.Replay(large, [net], beside=small)

        def turn(small: Any = small, large: Any = large) -> None:
            for run in (small, small, large):
                run()

        for _ in range(4):
            turn()
        asked = traffic(turn, 4)
        assert asked == (0, 12, 0) or not replayed
        results.append([*map(bits, net.parameters())])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_graph_that_does_not_start_counts_nothing_and_its_kernels_are_started_one_by_one() -> None:
    results = []
    for replayed in (True, False):
        run, net, optimizer = noisy_step(replayed=replayed)
        for i in range(8):
            cuda.native.emulator_refuse_graphs(replayed and i >= 5)
            try:
                run()
            finally:
                cuda.native.emulator_refuse_graphs(False)
            if isinstance(run, gk.Replay) and i >= 3:
                refused = "one by one: cudaGraphLaunch: cudaErrorMemoryAllocation"
                assert run.refusal is None if i < 5 else refused in str(run.refusal)
        assert {s["step"] for s in optimizer.state.values()} == {8}
        results.append([*map(bits, net.parameters())])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_step_that_does_other_work_than_its_graph_is_done_as_it_says_and_the_graph_follows() -> None:
    results = []
    for replayed in (True, False):
        total, times = gk.zeros(4), {"done": 0}

        def add(total: gk.Tensor = total, times: dict[str, int] = times) -> None:
            times["done"] += 1
            for _ in range(2 if times["done"] >= 6 else 1):
                update.lerp_(total, gk.ones(4), 0.1 * times["done"])

        def step(inputs: gk.Tensor, total: gk.Tensor = total, add: Any = add) -> gk.Tensor:
            before = inputs * total
            again(add, steady=True)
            return before + total

        run = gk.Replay(step) if replayed else step
        seen, graphs = [], []
        for _ in range(9):
            seen.append(bits(run(gk.full((4,), 3.0))))
            if isinstance(run, gk.Replay) and run.reason is None:
                graphs.append(recording(run).graphs())
        results.append(seen)
        if replayed:
            assert graphs == [1, 1, 1, 2, 3, 3, 3]  # the sixth time in two pieces
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_step_that_reads_values_lies_between_graphs_and_one_that_begins_to_is_an_error() -> None:
    weight, seen = gk.ones(4), []

    def look() -> None:
        seen.append(float(bits(weight)[0]))

    def step(inputs: gk.Tensor) -> gk.Tensor:
        update.add_(weight, 1.0)
        again(look, steady=True)
        return inputs * weight

    run = gk.Replay(step)
    for _ in range(4):
        run(x())
    assert seen == [2.0, 3.0, 4.0, 5.0]
    assert recording(run).graphs() == 2
    due = gk.Replay(lambda inputs: (again(lambda: len(seen) > 6 and look(), steady=True), inputs * 2.0)[1])
    for _ in range(3):
        due(x())
    seen += [0.0] * 5
    with pytest.raises(RuntimeError, match="values of a tensor were read in a steady step"):
        due(x())
    assert np.array_equal(bits(run(x())), bits(x()) * 6.0)


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


UNREAD = {"losses_every": 100, "log_every": 100}
TRAININGS: dict[str, dict[str, Any]] = {
    "cosine": {"lr_schedule": "cosine", "max_grad_norm": 0.5},
    "clipped": {"losses": LossConfig("wasserstein", "wasserstein"), "d_steps": 2},
    "3dgan": {"separate_updates": True, "g_steps": 2, "d_optimizer": OptimizerConfig("rmsprop")},
    "penalty": {"losses": LossConfig("wasserstein-gp", "wasserstein-gp"), "g_optimizer": OptimizerConfig("sgd")},
}


def toy_trainer(directory: Any = None, **settings: Any) -> Trainer:
    gan = toy_gan()
    gan.replayable = True
    return Trainer(gan, toy_data(), TrainerConfig(max_steps=12, batch=16, ema_decay=0.9, **settings), directory)


def whole_state(t: Trainer) -> list[Any]:
    optimizers = [o.state_dict()["state"] for o in (t.updates.d_optimizer, t.updates.g_optimizer)]
    states = [value for o in optimizers for s in o.values() for _, value in sorted(s.items())]
    networks = (t.gan.generator.state_dict(), t.gan.discriminator.state_dict(), t.ema.state_dict())
    return [bits(v) if isinstance(v, gk.Tensor) else v for v in (*states, *(p for n in networks for p in n.values()))]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


def graphs(t: Trainer) -> dict[str, int]:
    return {" ".join(key): recording(run).graphs() for key, run in t.updates._replays.items()}


@pytest.mark.parametrize("settings", TRAININGS.values(), ids=TRAININGS)
def test_every_update_of_a_trainer_is_one_graph_from_noise_to_moving_average(settings: dict[str, Any]) -> None:
    states = []
    for replay in (True, False):
        t = toy_trainer(replay=replay, **UNREAD, **settings)
        for _ in range(7):
            t.train_step()
        states.append(whole_state(t))
        assert not t.updates.refused
        assert set(graphs(t).values()) == ({1} if replay else set())
    assert same(*states)


def test_a_resumed_trainer_goes_on_by_graphs_with_the_counts_and_bits_of_one_that_was_not(tmp_path: Any) -> None:
    settings = {"lr_schedule": "linear", **UNREAD}
    t = toy_trainer(tmp_path, **settings)
    for _ in range(5):
        t.train_step()
    t.save()
    for _ in range(5):
        t.train_step()
    whole, later = whole_state(t), {s["step"] for s in t.updates.d_optimizer.state.values()}
    assert later == {10}
    for other in (t, toy_trainer(tmp_path, **settings)):  # with graphs of before, and with none
        other.resume()
        for _ in range(5):
            other.train_step()
        assert same(whole_state(other), whole)
    assert set(graphs(t).values()) == {2}  # that of one step in pieces, which took over the states, and the whole one


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
