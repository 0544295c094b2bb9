"""What kernels make of constant weights is made once and kept: the same bits, never those of weights that changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import _cpu, nn, optim
from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.gan import GAN, Scores
from gankernels.geometry import conv_geometry, upsample_conv_geometry

pytestmark = pytest.mark.cpu_only

ALGORITHMS = ("auto", "direct", "im2col", "channels", "rows", "bf16", "fast", "measured", "bf16_auto")
CONVOLUTIONS = {
    "one image, many channels": ((1, 40, 4, 4), (70, 40, 4, 4), {"stride": 2, "padding": 1}),
    "few channels": ((5, 3, 4, 5, 6), (6, 3, 3, 2, 3), {"padding": 1}),
    "groups": ((18, 8, 7, 6), (6, 4, 3, 3), {"groups": 2}),
    "taps that cost FFT less": ((3, 4, 12, 12), (5, 4, 6, 6), {}),
}
PRODUCTS = [(1, 5, 7), (3, 40, 130), (12, 70, 150), (40, 33, 20), (16, 64, 3), (9, 300, 70)]


def recorded(call: Any, *constants: Any) -> Any:
    """function() that repeats a kernel call with these constants."""
    recording = _cpu.Recording(_cpu.Memory())
    recording.start()
    try:
        call()
    finally:
        recording.stop()
    for array in constants:
        recording.add_constant(array)
    return lambda: recording.run(0, len(recording), [])


def same_bits_again_and_again(call: Any, out: Any, *constants: Any) -> None:
    """With and without constants, the first time and later."""
    call()
    expected = out.copy()
    repeat = recorded(call, *constants)
    for _ in range(3):
        out.fill(np.nan)
        repeat()
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_by_kept_weights_have_the_bits_of_others(name, algorithm, dtype, every_isa):
    x_shape, w_shape, options = CONVOLUTIONS[name]
    g = conv_geometry("test", x_shape, w_shape, **options)
    rng = np.random.default_rng(1)
    x, w, y = (rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.w_shape, g.y_shape))
    a = CONV_ALGORITHMS[algorithm]
    _cpu.conv(x, w, y, g.pod, a)  # measures where that is asked for
    same_bits_again_and_again(lambda: _cpu.conv(x, w, y, g.pod, a), y, w)
    _cpu.conv_transpose(y, w, x, g.pod, a)
    same_bits_again_and_again(lambda: _cpu.conv_transpose(y, w, x, g.pod, a), x, w)


@pytest.mark.parametrize("algorithm", ["auto", "direct", "channels", "im2col"])
def test_convolutions_of_upsampled_images_keep_merged_and_packed_weights(algorithm):
    g = upsample_conv_geometry("test", (3, 4, 4, 5), (6, 4, 3, 3), 2, padding=1)
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in ((3, 4, 4, 5), (6, 4, 3, 3)))
    y = np.empty((3, 6, 8, 10), np.float32)
    a = CONV_ALGORITHMS[algorithm]
    same_bits_again_and_again(lambda: _cpu.upsample_conv(x, w, y, g.pod, a), y, w)
    same_bits_again_and_again(lambda: _cpu.upsample_conv_transpose(y, w, x, g.pod, a), x, w)


@pytest.mark.parametrize("precision", [0, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), PRODUCTS)
def test_products_by_kept_panels_have_the_bits_of_others(m, k, n, transposed, precision, every_isa):
    rng = np.random.default_rng(3)
    a = rng.standard_normal((2, m, k), dtype=np.float32)
    b = rng.standard_normal((2, n, k) if transposed else (2, k, n), dtype=np.float32)
    c = np.empty((2, m, n), np.float32)
    right = b.transpose(0, 2, 1) if transposed else b
    for constants in ((b,), (a,), (a, b)):
        same_bits_again_and_again(lambda: _cpu.matmul(a, right, c, precision), c, *constants)


def test_of_an_array_that_runs_backwards_its_own_memory_is_constant():
    memory = np.arange(30 * 40 + 10 * 30, dtype=np.float32)
    b = memory[: 30 * 40][::-1].reshape(1, 30, 40)
    a = memory[30 * 40 :].reshape(1, 10, 30)
    assert np.shares_memory(b, memory)
    c = np.empty((1, 10, 40), np.float32)
    repeat = recorded(lambda: _cpu.matmul(a, b, c, 0), b)
    repeat()
    sums = b[0].sum(axis=0)
    a[:] = 1
    b[:] = 0  # which is not read again
    repeat()
    np.testing.assert_array_equal(c[0], np.broadcast_to(sums, (10, 40)))


def test_another_instruction_set_prepares_its_own():
    g = conv_geometry("test", (2, 40, 4, 4), (33, 40, 3, 3))
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in (g.x_shape, g.w_shape))
    y = np.empty(g.y_shape, np.float32)
    repeat = recorded(lambda: _cpu.conv(x, w, y, g.pod, CONV_ALGORITHMS["channels"]), w)
    before = cpu.isa()
    try:
        for isa in cpu.isa_present() * 2:
            cpu.set_isa(isa)
            repeat()
            kept = y.copy()
            _cpu.conv(x, w, y, g.pod, CONV_ALGORITHMS["channels"])
            assert np.array_equal(kept, y)
    finally:
        cpu.set_isa(before)


class Pictures(GAN):
    """(N, 40) to (N, 3, 16, 16)."""

    replayable = True
    latent = 40

    def __init__(self, seed: int = 1) -> None:
        rng = gk.Generator(seed)
        self.generator = nn.Sequential(
            nn.Linear(40, 64 * 4, generator=rng), nn.Unflatten(1, (64, 2, 2)), nn.LeakyReLU(0.1),
            nn.ConvTranspose2d(64, 40, 4, 2, 1, generator=rng), nn.BatchNorm2d(40), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(40, 6, 3, padding=1, generator=rng), nn.LeakyReLU(0.1),
            nn.ConvTranspose2d(6, 3, 4, 2, 1, generator=rng), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Linear(3 * 256, 1, generator=rng)

    def generate(self, noise, conditions):
        return self.generator(noise)

    def discriminate(self, images, conditions):
        return Scores(self.discriminator(images.reshape(-1, 3 * 256)))


def _images(gan, n, calls=4):
    rng = gk.Generator(7)
    conditions = {"energy": gk.ones(n)}
    return [gan.sample(conditions, rng).numpy().copy() for _ in range(calls)]


def _gans():
    plain, frozen = Pictures(), Pictures()
    frozen.frozen = True
    return plain, frozen


def _equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_frozen_gan_generates_the_same_images_on_any_number_of_threads():
    plain, frozen = _gans()
    before = gk.num_threads()
    try:
        for threads in (1, 2, 3):
            gk.set_num_threads(threads)
            for n in (1, 4, 17, 70):
                assert _equal(_images(plain, n), _images(frozen, n))
    finally:
        gk.set_num_threads(before)
    assert all(run.reason is None and run.constants for run in frozen._replays.values())


def _train(gan):
    optim.flatten(gan.generator.parameters())
    optimizer = optim.SGD(gan.generator.parameters(), lr=0.5)
    gan.generate(gk.ones(3, 40), {}).sum().backward()
    optimizer.step()


CHANGES = {
    "load_state_dict": lambda gan: gan.generator.load_state_dict(Pictures(9).generator.state_dict()),
    "optimizer step": _train,
    "new array": lambda gan: setattr(gan.generator[0].weight, "data", gan.generator[0].weight.data * 2.0),
    "statistics of batch norm": lambda gan: gan.generator[4].running_mean.data.fill(0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_frozen_gan_sees_what_changes_its_weights(change):
    plain, frozen = _gans()
    before = _images(frozen, 3)
    for gan in (plain, frozen):
        change(gan)
    after = _images(frozen, 3)
    assert _equal(after, _images(plain, 3))
    assert not np.array_equal(before[0], after[0])


def test_what_is_written_into_the_arrays_is_seen_after_a_refresh():
    net = nn.ConvTranspose2d(40, 33, 4, generator=gk.Generator(1))
    run = gk.Replay(lambda x: net(x).detach(), [net], constants=net.parameters())
    x = gk.ones(2, 40, 3, 3)
    for _ in range(4):
        before = run(x).numpy().copy()
    net.weight.data[:] = 0.5
    assert np.array_equal(run(x).numpy(), before)  # which shows that something was kept
    run.refresh()
    for _ in range(4):
        assert np.array_equal(run(x).numpy(), net(x).detach().numpy())


def test_setting_frozen_again_is_a_refresh():
    plain, frozen = _gans()
    _images(frozen, 2)
    for gan in (plain, frozen):
        gan.generator[3].weight.data[:] *= 0.5
    frozen.frozen = True
    assert _equal(_images(frozen, 2), _images(plain, 2))


def test_what_is_kept_is_released_with_the_recording():
    gan = Pictures()
    _images(gan, 2)
    gk.empty_cache()
    plain = gk.memory_stats()["live_bytes"]
    gan.frozen = True
    _images(gan, 2)
    kept = gk.memory_stats()["live_bytes"] - plain
    weights = sum(p.data.nbytes for p in gan.generator.parameters())
    assert 0.3 * weights < kept < 4 * weights
    _images(gan, 2)
    assert gk.memory_stats()["live_bytes"] == plain + kept
    gan.frozen = False
    assert gk.memory_stats()["live_bytes"] <= plain
