"""Checkpoints are there whole or not at all, damage is named, and old ones make room for new."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gan_toys import python

import gankernels as gk
from gankernels.gan import checkpoint as cp
from gankernels.gan.checkpoint import CheckpointError


def arrays(step, n=300):
    rng = np.random.default_rng(step)
    return {
        "generator": {"w": rng.normal(size=(n, 3)).astype(np.float32), "count": np.array(step)},
        "optimizers": {"m": rng.normal(size=n), "mask": np.array([True, False])},
    }


def same(loaded, step):
    expected = arrays(step)
    return loaded.keys() == expected.keys() and all(
        np.array_equal(loaded[g][n], a) and loaded[g][n].dtype == a.dtype and loaded[g][n].shape == a.shape
        for g, group in expected.items()
        for n, a in group.items()
    )


def names(root):
    return sorted(p.name for p in Path(root).iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = cp.save(tmp_path, 7, {"note": [1, 2.5, None, "x"], "pi": 0.1 + 0.2}, arrays(7))
    loaded = cp.load(tmp_path)
    assert (loaded.path, loaded.step, path.name) == (path, 7, "checkpoint-000007")
    assert loaded.state == {"note": [1, 2.5, None, "x"], "pi": 0.1 + 0.2}
    assert same(loaded.arrays, 7)


def test_strided_arrays_and_tensors_are_stored_by_value(tmp_path):
    a = np.arange(12.0).reshape(3, 4)
    cp.save(tmp_path, 1, {}, {"generator": {"t": a.T, "strided": a[:, ::2], "tensor": gk.tensor(a), "zero": a[:0]}})
    stored = cp.load(tmp_path).arrays["generator"]
    assert np.array_equal(stored["t"], a.T)
    assert np.array_equal(stored["strided"], a[:, ::2])
    assert np.array_equal(stored["tensor"], a)
    assert stored["zero"].shape == (0, 4)


def test_a_tree_with_tensors_and_whole_number_keys_comes_back():
    tree = {"state": {0: {"step": 3, "m": gk.tensor([1.0, 2.0])}, 11: {}}, "groups": [{"lr": 0.1, "betas": (0.5, 0.9)}]}
    flat = {}
    back = cp.unpack(json.loads(json.dumps(cp.pack(tree, "d", flat))), flat)
    assert back["state"].keys() == {0, 11}
    assert back["state"][0]["step"] == 3
    assert np.array_equal(back["state"][0]["m"].numpy(), [1.0, 2.0])
    assert back["groups"] == [{"lr": 0.1, "betas": [0.5, 0.9]}]
    with pytest.raises(CheckpointError, match=r"tensor 'd\.state\.0\.m' is missing"):
        cp.unpack(cp.pack(tree, "d", flat), {})


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        path = cp.save(tmp_path, step, {}, arrays(step), keep_last=2)
        if step == 2:
            cp.mark_best(tmp_path, path, 0.5)
    assert names(tmp_path) == ["best.json", "checkpoint-000002", "checkpoint-000005", "checkpoint-000006"]
    assert cp.load(tmp_path, "best").step == 2
    assert cp.load(tmp_path, "latest").step == 6
    assert cp.load(tmp_path / "checkpoint-000005").step == 5


def test_a_checkpoint_of_the_same_step_replaces_nothing_before_it_is_complete(tmp_path):
    first = cp.save(tmp_path, 3, {"run": 1}, arrays(3))
    second = cp.save(tmp_path, 3, {"run": 2}, arrays(3))
    assert first != second
    assert cp.load(tmp_path).state == {"run": 2}
    assert cp.load(first).state == {"run": 1}


def test_what_an_earlier_process_left_half_done_is_ignored_and_removed(tmp_path):
    cp.save(tmp_path, 1, {}, arrays(1))
    (tmp_path / ".tmp-000002-77").mkdir()
    (tmp_path / ".old-checkpoint-000000").mkdir()
    (tmp_path / "checkpoint-000009").mkdir()  # no COMPLETE.json
    assert cp.load(tmp_path).step == 1
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        cp.load(tmp_path / "checkpoint-000009")
    cp.save(tmp_path, 2, {}, arrays(2))
    assert names(tmp_path) == ["checkpoint-000001", "checkpoint-000002", "checkpoint-000009"]


def test_no_checkpoint_is_an_error_that_says_where(tmp_path):
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="there is no complete checkpoint"):
            cp.load(place)
    (tmp_path / "best.json").write_text('{"checkpoint": "../../etc"}')
    assert cp.best(tmp_path) is None


# ---- damage --------------------------------------------------------------------------------------------------------
def test_every_flipped_bit_is_detected(tmp_path):
    path = cp.save(tmp_path, 1, {"a": 1}, arrays(1, n=20))
    rng = random.Random(1)
    files = sorted(p for p in path.iterdir())
    assert [p.name for p in files] == ["COMPLETE.json", "generator.safetensors", "optimizers.safetensors", "state.json"]
    for i in range(200):
        file = files[i % len(files)]
        raw = file.read_bytes()
        at, bit = rng.randrange(len(raw)), 1 << rng.randrange(8)
        file.write_bytes(raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            cp.load(path)
        file.write_bytes(raw)
    assert cp.load(path).step == 1


def test_truncated_missing_and_foreign_files_are_named(tmp_path):
    path = cp.save(tmp_path, 1, {}, arrays(1))
    weights = path / "generator.safetensors"
    raw = weights.read_bytes()
    for n in (0, 1, 8, len(raw) // 2, len(raw) - 1):
        weights.write_bytes(raw[:n])
        with pytest.raises(CheckpointError, match=rf"generator\.safetensors: has {n} bytes, {len(raw)} were written"):
            cp.load(path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: is missing"):
        cp.load(path)
    weights.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is missing"):
        cp.load(path)


def reseal(path, **changes):
    seal = json.loads((path / "COMPLETE.json").read_text())
    del seal["digest"]
    seal.update(changes)
    (path / "COMPLETE.json").write_text(json.dumps({**seal, "digest": cp._digest(seal)}))


def test_another_format_is_refused_by_number(tmp_path):
    path = cp.save(tmp_path, 1, {}, arrays(1))
    reseal(path, format=2)
    with pytest.raises(CheckpointError, match="has checkpoint format 2, this version of gankernels reads format 1"):
        cp.load(path)


@pytest.mark.parametrize("name", ["../state.json", "/etc/passwd", "a.pkl", "state.json\n"])
def test_a_checkpoint_that_names_other_files_is_refused(name, tmp_path):
    path = cp.save(tmp_path, 1, {}, arrays(1))
    reseal(path, files={name: {"bytes": 1, "sha256": ""}})
    with pytest.raises(CheckpointError, match="names files that no checkpoint has"):
        cp.load(path)


@pytest.mark.parametrize("changes", [{"files": None}, {"files": {"state.json": 3}}, {"step": "1"}])
def test_a_marker_with_other_contents_is_refused(changes, tmp_path):
    path = cp.save(tmp_path, 1, {}, arrays(1))
    reseal(path, **changes)
    with pytest.raises(CheckpointError, match="is damaged"):
        cp.load(path)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '{"digest": 1}', "[" * 100_000])
def test_a_marker_that_is_none_is_refused(content, tmp_path):
    path = cp.save(tmp_path, 1, {}, arrays(1))
    (path / "COMPLETE.json").write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        cp.load(path)


# ---- disks ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_disk_leaves_the_earlier_checkpoints_untouched(number, call, tmp_path, monkeypatch):
    cp.save(tmp_path, 1, {}, arrays(1))

    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(CheckpointError, match=f"{os.strerror(number)}; earlier checkpoints are untouched"):
        cp.save(tmp_path, 2, {}, arrays(2))
    monkeypatch.undo()
    assert names(tmp_path) == ["checkpoint-000001"]
    assert same(cp.load(tmp_path).arrays, 1)


def test_a_file_where_the_directory_should_be_is_reported(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        cp.save(tmp_path / "checkpoints", 1, {}, arrays(1))


LIMITED = """
import resource, signal, sys
import numpy as np
from gankernels.gan import checkpoint as cp
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cp.save(sys.argv[1], 1, {}, {"generator": {"w": np.zeros(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    cp.save(sys.argv[1], 2, {}, {"generator": {"w": np.zeros(10000)}})
except cp.CheckpointError as error:
    print(error)
print(cp.load(sys.argv[1]).step)
"""


def test_a_write_that_the_system_cuts_short_is_reported(tmp_path):
    done = subprocess.run(**python(LIMITED, tmp_path, cwd=tmp_path), capture_output=True, timeout=60)
    assert "could not be written" in done.stdout
    assert done.stdout.splitlines()[-1] == "1"


# ---- kill -9 -------------------------------------------------------------------------------------------------------
# One process imports the package and forks a child for every kill, so that a kill costs milliseconds.
KILLING = """
import os, random, signal, sys, time
import numpy as np
from pathlib import Path
from gankernels.gan import checkpoint as cp

root, kills, rng, while_writing = Path(sys.argv[1]), int(sys.argv[2]), random.Random(2), 0
cp.save(root, 0, {"step": 0}, {"generator": {"w": np.zeros(1)}, "ema": {"w": np.ones(1)}})

def save_for_ever(step, told):
    while True:
        step += 1
        a = np.full((200, 50), step, np.float32)
        path = cp.save(root, step, {"step": step}, {"generator": {"w": a}, "ema": {"w": a + 1}}, keep_last=2)
        cp.mark_best(root, path, -step)
        os.write(told, b"%d " % step)

for _ in range(kills):
    before = cp.load(root).step
    listen, told = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(before, told)
    os.close(told)
    time.sleep(rng.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(listen, "rb") as pipe:
        said = [before, *map(int, pipe.read().split())]
    while_writing += any(root.glob(".tmp-*"))
    found = cp.load(root)
    assert found.step - said[-1] in (0, 1), (found.step, said[-1])
    assert found.state == {"step": found.step}
    assert (found.arrays["generator"]["w"] == found.step).all() and (found.arrays["ema"]["w"] == found.step + 1).all()
    best = cp.load(root, "best") if said[-1] > 0 else found  # the pointer may lag behind, never point at nothing
    assert best.step <= found.step and (best.arrays["generator"]["w"] == best.step).all()
print(while_writing, found.step)
"""


@pytest.mark.much_work
def test_a_kill_at_any_moment_leaves_the_previous_or_the_new_checkpoint(tmp_path):
    done = subprocess.run(**python(KILLING, tmp_path, 100, cwd=tmp_path), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    killed_while_writing, last_step = map(int, done.stdout.split())
    assert killed_while_writing >= 10
    assert last_step >= 10
