"""A replayed function gives the same bits as the function, and what cannot be replayed is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

import gankernels as gk
from gankernels import backends, nn, optim
from gankernels.gan import Trainer, TrainerConfig
from gankernels.gan.losses import LossConfig
from gankernels.gan.settings import OptimizerConfig

F32 = np.float32
pytestmark = pytest.mark.skipif(not hasattr(backends.get(), "Recording"), reason="this backend records no kernel calls")


def _x(seed=0, shape=(6, 4)):
    return gk.tensor(np.random.default_rng(seed).normal(size=shape).astype(F32))


def _net(seed=1):
    rng = gk.Generator(seed)
    return nn.Sequential(
        nn.Linear(4, 8, generator=rng), nn.BatchNorm1d(8), nn.LeakyReLU(0.2),
        nn.Dropout(0.3, generator=gk.Generator(5)),
        nn.Linear(8, 8, generator=rng), nn.Tanh(), nn.Linear(8, 1, generator=rng),
    )  # fmt: skip


def _trained(replayed, optimizer=optim.Adam, steps=7, **settings):
    """The losses of a training, all tensors of the network, and where its random stream stands."""
    net, noise = _net(), gk.Generator(9)
    optim.flatten(net.parameters())
    opt = optimizer(net.parameters(), **settings)
    schedule = optim.ExponentialLR(opt, 0.9)

    def step(x):
        opt.zero_grad()
        (net(x + noise.normal(x.shape)) ** 2).mean().backward()
        loss = (net(x) - noise.uniform((6, 1))).abs().mean()
        loss.backward()
        opt.step()
        schedule.step()
        return {"loss": loss.detach()}

    run = gk.Replay(step, [net]) if replayed else step
    losses = [run(_x(i))["loss"].item() for i in range(steps)]
    if replayed:
        assert run.reason is None
    tensors = [t.detach().numpy().copy() for t in (*net.parameters(), *net.buffers())]
    return losses, tensors, noise.state(), net[3].generator.state(), opt.state_dict()


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (optim.Adam, {}),
        (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (optim.RMSprop, {"centered": True}),
        (optim.AdamW, {}),
    ],
)
def test_a_replayed_training_has_the_bits_of_the_training(optimizer, settings):
    replayed, plain = (_trained(r, optimizer, **settings) for r in (True, False))
    assert replayed[0] == plain[0]
    assert all(np.array_equal(a, b) for a, b in zip(replayed[1], plain[1], strict=True))
    assert replayed[2:4] == plain[2:4]
    assert replayed[4]["param_groups"] == plain[4]["param_groups"]
    for a, b in zip(replayed[4]["state"].values(), plain[4]["state"].values(), strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert np.array_equal(value.numpy(), b[key].numpy()) if hasattr(value, "data") else value == b[key]


TRAININGS = {
    "plain": {},
    "schedule": {"lr_schedule": "cosine"},
    "r1": {"losses": LossConfig(r1=0.1, r1_interval=3, label_flip=0.05)},
    "separate": {"separate_updates": True, "g_steps": 2},
    "penalty": {"losses": LossConfig("wasserstein-gp", "wasserstein-gp")},
    "clipped": {"losses": LossConfig("wasserstein", "hinge")},
    "shortened": {"max_grad_norm": 0.5, "d_steps": 2, "d_optimizer": OptimizerConfig("rmsprop")},
}


@pytest.mark.parametrize("settings", TRAININGS.values(), ids=TRAININGS)
def test_a_trainer_that_replays_gives_the_same_bits(settings):
    results = []
    for replay in (True, False):
        gan = toy_gan()
        gan.replayable = True
        trainer = Trainer(gan, toy_data(), TrainerConfig(max_steps=9, batch=16, replay=replay, **settings))
        losses = []
        for _ in range(9):
            trainer.train_step()
            losses.append(dict(trainer.losses))
        networks = (gan.generator.state_dict(), gan.discriminator.state_dict(), trainer.ema.state_dict())
        results.append((losses, {k: g.state() for k, g in trainer._generators().items()}, networks))
        assert all(r.reason is None for r in trainer.updates._replays.values())
        assert bool(trainer.updates._replays) is replay
    assert results[0][:2] == results[1][:2]
    for a, b in zip(results[0][2], results[1][2], strict=True):
        assert all(np.array_equal(a[k].detach().numpy(), b[k].detach().numpy()) for k in b)


def test_a_recipe_that_promises_nothing_is_not_replayed():
    trainer = Trainer(toy_gan(), toy_data(), TrainerConfig(max_steps=2, batch=16))
    trainer.train_step()
    assert not trainer.updates._replays


def test_outputs_are_copies_unless_told_otherwise():
    net = _net().eval()
    for copied in (True, False):
        run = gk.Replay(lambda x: net(x).detach(), [net], copy_outputs=copied)
        outputs = [run(_x(i)) for i in range(5)]
        expected = [net(_x(i)).detach().numpy() for i in range(5)]
        assert run.reason is None
        assert np.array_equal(outputs[4].numpy(), expected[4])
        assert np.array_equal(outputs[3].numpy(), expected[3]) is copied


def test_replays_survive_other_work_in_between_and_its_memory():
    net = _net().eval()
    run = gk.Replay(lambda x: net(x).detach(), [net])
    for i in range(12):
        noise = [gk.rand(50, i + 1) for _ in range(20)]
        assert np.array_equal(run(_x(i)).numpy(), net(_x(i)).detach().numpy())
        del noise
    assert run.reason is None


# ---- what is noticed -----------------------------------------------------------------------------------------------
def _runs(function, modules=(), calls=5, shape=(6, 4)):
    """Run a function by Replay and by itself; the reason of the last call."""
    run = gk.Replay(function, modules)
    for i in range(calls):
        got, expected = run(_x(i, shape)), function(_x(i, shape))
        assert np.array_equal(got.numpy(), expected.numpy())
    return run.reason


def test_reading_a_value_means_running_the_function():
    assert "read" in _runs(lambda x: x * (x.sum().item() + 1.0))
    assert "read" in _runs(lambda x: x * 2.0 if x.sum() > 0 else x * 3.0)
    assert "read" in _runs(lambda x: gk.tensor(x.numpy() + 1.0) * 2.0)


def test_arrays_made_outside_the_kernels_are_noticed():
    streams = {True: np.random.default_rng(1), False: np.random.default_rng(1)}
    noticed = "not filled by a kernel" if gk.get_default_device() == "cpu" else "values of a tensor were read"
    assert noticed in _runs(lambda x: x + gk.tensor(np.ones((6, 4), F32)))
    run = gk.Replay(lambda x: x + gk.from_array(streams[True].normal(size=(6, 4)).astype(F32)))
    for _ in range(4):
        assert np.array_equal(run(_x()).numpy(), _x().numpy() + streams[False].normal(size=(6, 4)).astype(F32))
    assert ("other arrays" if gk.get_default_device() == "cpu" else noticed) in str(run.reason)


def test_numbers_that_change_from_call_to_call_are_noticed():
    counts = {"run": 0}

    def counting(x):
        counts["run"] += 1
        return x * float(counts["run"])

    run = gk.Replay(counting)
    for i in range(1, 5):
        assert np.array_equal(run(gk.ones(3)).numpy(), np.full(3, i, F32))
    assert "numbers" in str(run.reason)


def test_another_number_of_kernels_is_noticed():
    work = [1, 2, 3, 4, 5]

    def growing(x):
        for _ in range(work.pop(0)):
            x = x + 1.0
        return x

    run = gk.Replay(growing)
    assert [run(gk.zeros(1)).item() for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]
    assert run.reason is not None


def test_gradients_that_add_up_from_call_to_call_are_noticed():
    w = nn.Parameter(gk.ones(4))

    def add_up(x):
        (x * w).sum().backward()
        return w.grad * 1.0

    run = gk.Replay(add_up)
    for i in range(1, 5):
        assert np.array_equal(run(gk.ones(6, 4)).numpy(), np.full(4, 6.0 * i, F32))
    assert run.reason is not None


@pytest.mark.parametrize("owner", ["optimizer", "network"])
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_gradients_are_forgotten_where_the_function_forgets_them(first, set_to_none, owner):
    def trained(replayed):
        gk.manual_seed(3)
        net = nn.Linear(2, 3)
        optimizer = optim.SGD(net.parameters(), 0.1)
        zero_grad = optimizer.zero_grad if owner == "optimizer" else net.zero_grad

        def step(x):
            if first:
                zero_grad(set_to_none)
            loss = (net(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            if not first:
                zero_grad(set_to_none)
            return loss.detach()

        run = gk.Replay(step, [net]) if replayed else step
        x = gk.ones(4, 2)
        for _ in range(5):
            run(x)
        assert not replayed or not set_to_none or run.reason is None  # else the second call has other sums: no replay
        return [(p.detach().numpy(), None if p.grad is None else p.grad.numpy()) for p in net.parameters()]

    for (weight, grad), (same_weight, same_grad) in zip(trained(False), trained(True), strict=True):
        np.testing.assert_array_equal(weight, same_weight)
        assert (grad is None) == (same_grad is None) == (set_to_none and not first)
        if grad is not None:
            np.testing.assert_array_equal(grad, same_grad)


def test_other_shapes_modes_and_weights_are_recorded_anew():
    net = _net()
    run = gk.Replay(lambda x: net(x).detach(), [net])
    for _ in range(3):
        run(_x())
    assert run.reason is None
    assert run(_x(1, (9, 4))).shape == (9, 1)
    assert run.reason is not None
    net.eval()
    assert np.array_equal(run(_x(2)).numpy(), net(_x(2)).detach().numpy())
    assert run.reason is not None
    run(_x(2)), run(_x(2))
    assert run.reason is None
    net.load_state_dict(_net(3).state_dict())  # in place: nothing to record
    assert np.array_equal(run(_x(2)).numpy(), net(_x(2)).detach().numpy())
    assert run.reason is None
    net[0].weight.data = (net[0].weight * 2.0).data
    assert np.array_equal(run(_x(2)).numpy(), net(_x(2)).detach().numpy())
    assert run.reason is not None
    handle = net[0].register_forward_hook(lambda module, args, result: result * 0.0)
    for _ in range(3):
        assert np.array_equal(run(_x(2)).numpy(), net(_x(2)).detach().numpy())
    handle.remove()
    assert np.array_equal(run(_x(2)).numpy(), net(_x(2)).detach().numpy())


def test_a_seed_given_later_is_followed():
    stream = gk.Generator(3)
    run = gk.Replay(lambda x: x + stream.normal(x.shape))
    for seed in (3, 3, 3, 7, 7, 7, 3):
        stream.manual_seed(seed)
        expected = _x().numpy() + gk.Generator(seed).normal((6, 4)).numpy()
        assert np.array_equal(run(_x()).numpy(), expected)


def test_streams_given_as_inputs_move_on_as_after_the_function():
    net = _net()

    def draw(x, stream):
        return (net(x + stream.normal(x.shape)) * stream.uniform((6, 1))).detach()

    run = gk.Replay(draw, [net.eval()])
    for seed, offset in ((3, 0), (3, 12), (3, 5), (8, 2**64 - 40), (8, 7), (8, 0), (8, 2)):
        mine, theirs = gk.Generator(seed, offset), gk.Generator(seed, offset)
        assert np.array_equal(run(_x(), theirs).numpy(), draw(_x(), mine).numpy())
        assert theirs.state() == mine.state()
    assert run.reason is None
    with pytest.raises(TypeError, match="Tensors and Generators, got float"):
        run(_x(), 1.0)


def test_a_function_that_sets_the_mode_is_not_recorded_anew_for_it():
    net = _net()

    def evaluated(x):
        with gk.no_grad(), net.evaluating():
            return net(x)

    run = gk.Replay(evaluated, [net], sets_mode=True)
    for i in range(6):
        net.train(i % 2 == 0)
        assert np.array_equal(run(_x(i)).numpy(), evaluated(_x(i)).numpy())
    assert run.reason is None


def test_two_streams_of_one_seed_and_seeds_given_inside_are_refused():
    a, b = gk.Generator(3), gk.Generator(3, 100)
    run = gk.Replay(lambda x: x + a.normal(x.shape) + b.normal(x.shape))
    for i in range(5):
        expected = gk.Generator(3, 12 * i).normal((6, 4)).numpy(), gk.Generator(3, 100 + 12 * i).normal((6, 4)).numpy()
        assert np.array_equal(run(_x()).numpy(), _x().numpy() + expected[0] + expected[1])
    assert "one seed" in str(run.reason)
    run = gk.Replay(lambda x: x + a.manual_seed(4).normal(x.shape))
    assert np.array_equal(run(_x()).numpy(), run(_x()).numpy())
    run(_x())
    assert "seed" in str(run.reason)


def test_too_much_memory_and_wrong_inputs_are_refused_with_a_reason():
    run = gk.Replay(lambda x: x + 1.0, max_bytes=1000)
    for _ in range(3):
        assert run(gk.zeros(1000)).shape == (1000,)
    assert "max_bytes" in str(run.reason)
    with pytest.raises(TypeError, match="Tensors and Generators, got ndarray"):
        run(np.zeros(3))
    with pytest.raises(TypeError, match="returned float"):
        gk.Replay(lambda x: 1.0)(gk.zeros(1))
    run = gk.Replay(lambda x: x * 2.0)
    for _ in range(3):
        (gx,) = gk.grad(run(w := gk.ones(3).requires_grad_()).sum(), w)
    assert run.reason == "an input requires a gradient"
    assert gx.shape == (3,)


def test_a_failing_function_leaves_nothing_recording():
    calls = []

    def fails(x):
        calls.append(1)
        if len(calls) < 3:
            raise KeyError("no")
        return x + 1.0

    run = gk.Replay(fails)
    for _ in range(2):
        with pytest.raises(KeyError):
            run(gk.zeros(2))
    for _ in range(4):
        assert run(gk.zeros(2)).numpy().tolist() == [1.0, 1.0]
    assert run.reason is None


def test_a_replay_inside_a_replay_is_part_of_it():
    inner = gk.Replay(lambda x: x * 3.0)
    outer = gk.Replay(lambda x: inner(x) + 1.0)
    for i in range(4):
        assert outer(gk.full((2,), float(i))).numpy().tolist() == [3.0 * i + 1.0] * 2
    assert outer.reason is None
