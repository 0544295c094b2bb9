"""A GAN generates by its recorded kernel calls: the bits of running it, and never those of weights that are gone."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn, optim
from gankernels.gan import GAN, Scores

pytestmark = pytest.mark.cpu_only  # no other backend records its kernel calls


class Pictures(GAN):
    """(N, 4) and an energy to (N, 2, 8, 8) by a dense layer, transposed convolutions and batch norm."""

    replayable = True
    latent = 4
    gain = 1.0

    def __init__(self, seed=1):
        rng = gk.Generator(seed)
        self.dense = nn.Linear(5, 24, generator=rng)
        self.generator = nn.ModuleList([
            self.dense,
            nn.Sequential(
                nn.ConvTranspose2d(6, 5, 4, 2, 1, generator=rng), nn.BatchNorm2d(5), nn.LeakyReLU(0.1),
                nn.Dropout(0.5), nn.ConvTranspose2d(5, 2, 4, 2, 1, generator=rng), nn.Tanh(),
            ),
        ])  # fmt: skip
        self.discriminator = nn.Linear(128, 1, generator=rng)

    def generate(self, noise, conditions):
        z = gk.cat([noise, conditions["energy"].reshape(-1, 1) * self.gain], 1)
        return self.generator[1](self.generator[0](z).reshape(-1, 6, 2, 2))

    def discriminate(self, images, conditions):
        return Scores(self.discriminator(images.reshape(-1, 128)))


def _energy(n):
    return {"energy": gk.from_array(np.linspace(1.0, 2.0, n, dtype=np.float32))}


def _images(gan, n, seed=3, chunk=64):
    stream = gk.Generator(seed)
    images = gan.sample(_energy(n), stream, chunk).numpy().copy()
    return images, stream.offset


def _run(gan, n, seed=3, chunk=64):
    """The same by running every layer."""
    stream = gk.Generator(seed)
    return _drawn(gan, n, stream, chunk), stream.offset


def _drawn(gan, n, stream, chunk=64):
    with gk.no_grad(), gan.generator.evaluating():
        noise = gk.cat([gan.noise(min(64, n - at), stream) for at in range(0, n, 64)], 0)
        energy = _energy(n)["energy"]
        parts = [gan.generate(noise[i : i + chunk], {"energy": energy[i : i + chunk]}) for i in range(0, n, chunk)]
        return gk.cat(parts, 0).numpy()


def _reason(gan):
    return gan._replays["energy",].reason


@pytest.mark.parametrize(("n", "chunk"), [(1, 64), (7, 64), (64, 64), (150, 64), (150, 1000), (20, 3)])
def test_recorded_generation_has_the_bits_of_the_layers(n, chunk):
    gan = Pictures()
    expected = [_run(gan, n, seed, chunk) for seed in range(5)]
    for seed, (images, offset) in enumerate(expected):
        found = _images(gan, n, seed, chunk)
        assert found[1] == offset
        assert np.array_equal(found[0], images)
    assert _reason(gan) is None
    assert all(m.training for m in gan.generator.modules())


def test_one_stream_draws_on_inside_the_recording_and_others_take_over():
    gan = Pictures()
    mine, theirs, other = gk.Generator(3), gk.Generator(3), gk.Generator(8)
    for call in range(12):
        if call in (2, 7):
            assert np.array_equal(gan.sample(_energy(5), gk.Generator(8)).numpy(), _drawn(gan, 5, other))
            other.offset = 0
        assert np.array_equal(gan.sample(_energy(5), theirs).numpy(), _drawn(gan, 5, mine))
        assert mine.state() == theirs.state()
        assert np.array_equal(gan.sample(_energy(5), theirs).numpy(), _drawn(gan, 5, mine))
    assert _reason(gan) is None


def test_batches_of_other_sizes_may_alternate():
    gan = Pictures()
    for n in (1, 5, 64, 5, 1, 130, 1, 5, 64, 130):
        for _ in range(2):
            assert np.array_equal(_images(gan, n)[0], _run(gan, n)[0])


def _load(gan):
    gan.generator.load_state_dict(Pictures(seed=9).generator.state_dict())


def _train(gan):
    optimizer = optim.SGD(gan.generator.parameters(), lr=0.5)
    gan.generate(gk.randn(3, 4), _energy(3)).sum().backward()
    optimizer.step()


def _write(gan):
    gan.generator[1][0].weight.data[0, 0] = 0.25


def _statistics(gan):
    gan.generator[1][1].running_mean.data[:] = 0.5


def _replace_layer(gan):
    gan.generator[1][2] = nn.ReLU()


def _replace_network(gan):
    gan.generator = Pictures(seed=9).generator


CHANGES = {
    "load_state_dict": _load,
    "optimizer step": _train,
    "write into the array": _write,
    "statistics of batch norm": _statistics,
    "flattened parameters": lambda gan: optim.flatten(gan.generator.parameters()),
    "new array": lambda gan: setattr(gan.generator[0].weight, "data", gan.generator[0].weight.data * 2.0),
    "attribute of a layer": lambda gan: setattr(gan.generator[1][2], "negative_slope", 0.7),
    "attribute of the GAN": lambda gan: setattr(gan, "gain", 5.0),
    "other layer": _replace_layer,
    "deleted layer": lambda gan: gan.generator[1].__delitem__(2),
    "other network": _replace_network,
    "hook": lambda gan: gan.generator[0].register_forward_hook(lambda m, args, y: y * 2.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_is_seen_by_the_next_call(change):
    gan = Pictures()
    for _ in range(4):
        before = _images(gan, 7)[0]
    assert _reason(gan) is None
    change(gan)
    expected = _run(gan, 7)[0]
    if change is not CHANGES["flattened parameters"]:
        assert not np.array_equal(before, expected)
    for _ in range(4):
        assert np.array_equal(_images(gan, 7)[0], expected)


def test_a_hook_is_a_reason_to_run_the_layers_until_it_is_gone():
    gan = Pictures()
    seen = []
    handle = gan.generator[0].register_forward_hook(lambda m, args, y: seen.append(y.shape))
    for _ in range(4):
        _images(gan, 2)
    assert seen == [(2, 24)] * 4
    assert "hooks" in _reason(gan)
    handle.remove()
    for _ in range(4):
        _images(gan, 2)
    assert _reason(gan) is None


def test_modules_that_were_in_evaluation_mode_stay_there():
    gan = Pictures()
    gan.generator[1][1].eval()
    _images(gan, 2)
    assert [m.training for m in gan.generator.modules()].count(False) == 1
    gan.generator.eval()
    _images(gan, 2)
    assert not any(m.training for m in gan.generator.modules())


def test_results_do_not_depend_on_the_threads_of_the_kernels():
    gan = Pictures()
    before = gk.num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            gk.set_num_threads(threads)
            found += [_images(gan, 150)[0] for _ in range(3)]
    finally:
        gk.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found)


def test_threads_may_generate_with_one_gan_at_the_same_time():
    gan = Pictures()
    gan.generator.eval()  # what several threads share must not be switched by each
    expected = {seed: _images(gan, 9, seed)[0] for seed in range(4)}
    wrong = []

    def work(seed):
        for _ in range(40):
            if not np.array_equal(_images(gan, 9, seed)[0], expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_a_gan_that_promises_nothing_records_nothing():
    class Own(Pictures):
        replayable = False

    gan = Own()
    for _ in range(3):
        _images(gan, 2)
    assert gan._replays == {}


def test_recordings_die_with_the_gan_and_use_no_more_memory_by_repetition():
    gan = Pictures()
    for _ in range(3):
        _images(gan, 64)
    live = gk.memory_stats()["live_bytes"]
    for _ in range(20):
        _images(gan, 64)
    assert gk.memory_stats()["live_bytes"] == live
    gone = weakref.ref(gan._replays["energy",])
    del gan
    assert gone() is None


def test_recordings_that_are_too_large_keep_no_memory():
    run = gk.Replay(lambda x: (x + 1.0) * 2.0, max_bytes=1 << 16)
    for _ in range(3):
        assert run(gk.zeros(1 << 16)).shape == (1 << 16,)
    assert "max_bytes" in run.reason
    assert run._memory == {}
    small = [run(gk.ones(8)).numpy().tolist() for _ in range(3)]
    assert small == [[4.0] * 8] * 3
    assert run.reason is None
