"""Streams of showers: order, split, reading ahead, resuming, and what happens when one fails or is closed early."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time

import numpy as np
import pytest

from gankernels.calo import Grid, Showers, ShowerStream, load_split, open_showers, validation_mask, write_showers

GRID = Grid((3, 2, 4))
# The buffer of SMALL holds a fifth of the events below, so that the path for files larger than memory runs.
SMALL = {"cache_bytes": 0, "buffer_bytes": 4 * 24 * 60}


def numbered(first, n, grid=GRID, **conditions):
    """Showers that carry their number as their energy and in every cell."""
    energy = np.arange(first + 1, first + n + 1, dtype=np.float32)
    cells = np.broadcast_to(energy[:, None, None, None], (n, *grid.shape)).copy()
    return Showers(cells, energy, grid, {k: np.full(n, v, np.float32) for k, v in conditions.items()})


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, (first, n) in enumerate([(0, 170), (170, 31), (201, 100)]):
        paths.append(tmp_path / f"{i}.h5")
        write_showers(paths[-1], numbered(first, n, theta_rad=1.0))
    return paths


def one_epoch(stream):
    return [next(stream) for _ in range(stream.steps_per_epoch)]


def events_of(batches):
    return (np.concatenate([b.energy_gev for b in batches]) - 1).astype(int)


@pytest.mark.parametrize("memory", [{}, SMALL], ids=["cached", "buffered"])
def test_an_epoch_delivers_every_event_of_its_split_once(files, memory):
    seen = []
    for split in ("train", "validation"):
        with ShowerStream(files, 7, 1, split=split, drop_last=False, **memory) as stream:
            batches = one_epoch(stream)
            assert all(len(b) == 7 for b in batches[:-1])
            for b in batches:
                assert np.array_equal(
                    b.cells_gev, np.broadcast_to(b.energy_gev[:, None, None, None], b.cells_gev.shape)
                )
                assert b.cells_gev.dtype == np.float32
                assert set(b.conditions) == {"theta_rad"}
            events = events_of(batches)
            assert sorted(events) == sorted(stream.event_numbers)
            assert stream.epoch == 1
            seen.append(set(events))
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(301))


@pytest.mark.parametrize("memory", [{}, SMALL], ids=["cached", "buffered"])
def test_the_order_is_a_function_of_seed_and_epoch(files, memory):
    orders = []
    for seed in (1, 1, 2):
        with ShowerStream(files, 8, seed, **memory) as stream:
            orders.append([events_of(one_epoch(stream)).tolist() for _ in range(2)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != orders[0][1]


def test_the_buffered_order_mixes_events_from_far_apart(tmp_path):
    paths = [tmp_path / f"{i}.h5" for i in range(6)]
    for i, path in enumerate(paths):
        write_showers(path, numbered(50 * i, 50))
    with ShowerStream(paths, 10, 3, split="all", cache_bytes=0, buffer_bytes=4 * 24 * 150) as stream:
        files_in_batch = [len(set(events_of([b]) // 50)) for b in one_epoch(stream)]
    assert np.mean(files_in_batch) >= 2.5, files_in_batch


def test_without_shuffle_the_events_come_in_the_order_of_the_files(files):
    for memory in ({}, SMALL):
        with ShowerStream(files, 7, 0, split="all", shuffle=False, drop_last=False, **memory) as stream:
            assert np.array_equal(events_of(one_epoch(stream)), np.arange(301))


@pytest.mark.parametrize("memory", [{}, SMALL], ids=["cached", "buffered"])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_restored_stream_delivers_exactly_the_batches_that_were_to_come(files, memory, prefetch):
    with ShowerStream(files, 8, 5, prefetch=prefetch, **memory) as stream:
        states, delivered = [], []
        for _ in range(2 * stream.steps_per_epoch + 3):
            states.append(json.loads(json.dumps(stream.state())))
            delivered.append(events_of([next(stream)]).tolist())
        for k in (0, 1, 7, stream.steps_per_epoch - 1, stream.steps_per_epoch, stream.steps_per_epoch + 2):
            with ShowerStream(files, 8, 5, prefetch=2 - prefetch // 2, **memory) as again:
                again.restore(states[k])
                assert [events_of([b]).tolist() for b in itertools.islice(again, len(delivered) - k)] == delivered[k:]
        stream.restore(states[3])
        assert events_of([next(stream)]).tolist() == delivered[3]


@pytest.mark.parametrize("change", [{"seed": 6}, {"batch": 4}, {"split": "all"}, {"max_events": 200}, SMALL])
def test_a_state_of_another_stream_is_refused(files, change):
    with ShowerStream(files, 8, 5) as stream:
        state = stream.state()
    with (
        ShowerStream(files, **{"batch": 8, "seed": 5, **change}) as other,
        pytest.raises(ValueError, match="the state has"),
    ):
        other.restore(state)


@pytest.mark.parametrize("wrong", [{"cursor": 10**6}, {"cursor": -1}, {"epoch": "1"}, {"epoch": -1}, {"cursor": None}])
def test_a_damaged_state_is_refused(files, wrong):
    with ShowerStream(files, 8, 5) as stream, pytest.raises(ValueError, match="the state has"):
        stream.restore({**stream.state(), **wrong})


def test_the_split_depends_on_the_event_number_alone(files):
    with ShowerStream(files, 4, 1, split="validation") as one, ShowerStream(files, 9, 2, split="validation") as other:
        assert np.array_equal(one.event_numbers, other.event_numbers)
    with ShowerStream(files, 4, 1, split="validation", max_events=150) as fewer:
        assert np.array_equal(fewer.event_numbers, one.event_numbers[one.event_numbers < 150])


def test_the_split_has_the_fraction_asked_for():
    n, fraction = 100_000, 0.1
    share = validation_mask(np.arange(n), fraction).mean()
    assert abs(share - fraction) <= 5 * np.sqrt(fraction * (1 - fraction) / n)
    assert not validation_mask(np.arange(1000), 0.0).any()


def test_load_split_gives_the_events_that_training_does_not_see(files):
    held_out = load_split(files, validation_fraction=0.2)
    with ShowerStream(files, 8, 5, validation_fraction=0.2) as stream:
        assert not set(events_of([held_out])) & set(stream.event_numbers)
        assert len(held_out) + stream.n_events == 301


def test_one_pass_does_not_move_the_stream(files):
    with ShowerStream(files, 8, 5) as stream, ShowerStream(files, 8, 5) as alone:
        first = next(stream)
        assert len(events_of(list(stream.one_pass()))) == stream.n_events
        assert np.array_equal(first.energy_gev, next(alone).energy_gev)
        assert np.array_equal(next(stream).energy_gev, next(alone).energy_gev)


def test_an_error_in_the_thread_reaches_the_caller_with_file_and_event(tmp_path):
    showers = numbered(0, 60)
    showers.cells_gev[37, 0, 0, 0] = np.nan
    write_showers(tmp_path / "bad.h5", showers)
    with ShowerStream(tmp_path / "bad.h5", 4, 1, split="all") as stream:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"bad\.h5: event 37 has a cell that is NaN"):
                next(stream)


def test_bad_events_are_left_out_on_request(tmp_path):
    showers = numbered(0, 60)
    showers.cells_gev[37, 0, 0, 0] = np.nan
    showers.energy_gev[5] = -1
    write_showers(tmp_path / "bad.h5", showers)
    for memory in ({}, SMALL):
        with (
            open_showers(tmp_path / "bad.h5", on_bad="drop") as file,
            ShowerStream(file, 4, 1, split="all", drop_last=False, **memory) as stream,
        ):
            assert sorted(events_of(one_epoch(stream))) == [i for i in range(60) if i not in (5, 37)]


def test_closing_early_ends_the_thread_at_once(files):
    before = threading.active_count()
    for taken in (0, 1, 3):
        stream = ShowerStream(files, 2, 1, prefetch=2, **SMALL)
        for _ in range(taken):
            next(stream)
        start = time.perf_counter()
        stream.close()
        stream.close()
        assert time.perf_counter() - start < 2.0
    abandoned = ShowerStream(files, 2, 1, prefetch=1)
    next(abandoned)
    del abandoned
    assert threading.active_count() == before


def test_a_stream_from_an_open_file_leaves_it_open(files):
    with open_showers(files[0]) as file:
        with ShowerStream(file, 8, 1) as stream:
            next(stream)
        assert len(file.read(0, 3)) == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"split": "test"}, "split"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"validation_fraction": float("nan")}, "validation_fraction"),
        ({"batch": 0}, "batch"),
        ({"seed": -1}, "seed"),
        ({"prefetch": -1}, "prefetch"),
        ({"max_events": 0}, "max_events"),
        ({"batch": 1000}, "at least one batch of 1000"),
        ({"files": []}, "at least one file"),
    ],
)
def test_a_wrong_argument_is_named(files, wrong, said):
    with pytest.raises(ValueError, match=said):
        ShowerStream(**{"files": files, "batch": 8, "seed": 1, **wrong})


def test_files_on_different_grids_or_with_different_conditions_are_refused(files, tmp_path):
    write_showers(tmp_path / "grid.h5", numbered(0, 5, Grid((3, 2, 5)), theta_rad=1.0))
    write_showers(tmp_path / "label.h5", numbered(0, 5))
    with pytest.raises(ValueError, match=r"grid\.h5: grid \(3, 2, 5\)"):
        ShowerStream([files[0], tmp_path / "grid.h5"], 4, 1)
    with pytest.raises(ValueError, match=r"label\.h5: conditions"):
        ShowerStream([files[0], tmp_path / "label.h5"], 4, 1)


def test_a_file_given_twice_is_refused_by_name(files, tmp_path):
    link = tmp_path / "link.h5"
    link.symlink_to(files[0])
    for again in (files[0], link):
        with pytest.raises(ValueError, match=f"{again.name} is the same file as .*{files[0].name}"):
            ShowerStream([*files, again], 8, 1)


def test_a_wrong_argument_is_a_type_error_and_nothing_else(files):
    with pytest.raises(TypeError, match="unknown"):
        ShowerStream(files, 8, 1, unknown=3)  # a __del__ that fails would be a warning, which is an error here
    gc.collect()
