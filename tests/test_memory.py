"""Arrays live in aligned blocks that are used again; a training step in its steady state makes no fresh ones."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

import gankernels as gk
from gankernels.backends import cpu
from gankernels.gan import Trainer, TrainerConfig
from gankernels.gan.losses import LossConfig

pytestmark = pytest.mark.cpu_only


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_arrays_are_aligned_to_cache_lines_writable_and_of_the_asked_shape(dtype):
    for shape in [(300, 7), (3, 5, 7, 11, 13), (1 << 22,)]:
        a = cpu.empty(shape, dtype)
        assert a.shape == shape
        assert a.dtype == dtype
        assert a.flags.c_contiguous
        assert a.flags.writeable
        assert a.nbytes <= 1024 or a.ctypes.data % 64 == 0


def test_empty_arrays_and_arrays_without_axes_can_be_made():
    assert cpu.empty((0, 3), np.float32).shape == (0, 3)
    assert cpu.empty((), np.float64).shape == ()
    assert cpu.native.empty((0, 3), np.dtype(np.float32)).size == 0


def test_a_block_is_used_again_only_after_every_view_of_its_array_died():
    a = cpu.empty((1000,), np.float64)
    address, view = a.ctypes.data, a[10:20].reshape(2, 5)
    a[...] = 3.0
    del a
    others = [cpu.empty((1000,), np.float64) for _ in range(3)]
    assert address not in [o.ctypes.data for o in others]
    assert (view == 3.0).all()
    del view, others
    assert address in [o.ctypes.data for o in [cpu.empty((1000,), np.float64) for _ in range(4)]]


def test_the_cache_can_be_given_back_and_is_counted():
    big = cpu.empty((3 << 20,), np.float32)
    before = gk.memory_stats()
    del big
    after = gk.memory_stats()
    assert before["live_bytes"] - after["live_bytes"] == after["cached_bytes"] - before["cached_bytes"] >= 12 << 20
    gk.empty_cache()
    assert gk.memory_stats()["cached_bytes"] <= after["cached_bytes"] - (12 << 20)


def test_large_arrays_of_different_sizes_share_memory_and_never_overlap():
    rng, alive = np.random.default_rng(0), []
    gk.empty_cache()
    for i in range(600):
        if alive and rng.random() < 0.5:
            array, value = alive.pop(int(rng.integers(len(alive))))
            assert (array == value).all()
        elif len(alive) < 8:
            array = cpu.empty((int(rng.integers(1 << 17, 1 << 20)),), np.float64)
            array[...] = i
            alive.append((array, i))
    assert all((array == value).all() for array, value in alive)
    fresh = gk.memory_stats()["fresh_blocks"]
    alive.clear()
    del array
    pieces = [cpu.empty((1 << 17,), np.float64) for _ in range(8)]  # cut from what was larger
    assert gk.memory_stats()["fresh_blocks"] == fresh
    del pieces
    gk.empty_cache()


def test_the_cache_stays_below_the_largest_memory_in_use_plus_a_margin():
    gk.empty_cache()
    for size in range(1 << 20, 24 << 20, 1 << 20):  # every size once: nothing fits again
        cpu.empty((size,), np.float32)
    stats = gk.memory_stats()
    assert stats["live_bytes"] + stats["cached_bytes"] <= 1.25 * stats["peak_live_bytes"] + (64 << 20)


def test_gradients_of_leaves_own_their_memory_and_are_not_copied():
    x = gk.tensor(np.ones((400, 3), np.float32), requires_grad=True)
    (x * 2.0).sum().backward()
    first = x.grad.data
    (x * 2.0).sum().backward()
    assert x.grad.data is not first
    assert (first == 2.0).all()
    assert (x.grad.data == 4.0).all()


def test_a_training_step_in_its_steady_state_makes_no_fresh_blocks():
    trainer = Trainer(toy_gan(), toy_data(), TrainerConfig(max_steps=9, batch=16, losses=LossConfig(r1=0.1)))
    for _ in range(4):
        trainer.train_step()
    gc.collect()
    trainer.train_step()
    before = gk.memory_stats()["fresh_blocks"]
    trainer.train_step()
    assert gk.memory_stats()["fresh_blocks"] == before
