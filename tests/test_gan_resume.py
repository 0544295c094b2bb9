"""A resumed run is the run that was not interrupted, bit for bit, also after a signal; what does not fit is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gan_toys import python, toy_data, toy_gan

from gankernels.gan import LossConfig, OptimizerConfig, Trainer, TrainerConfig
from gankernels.gan import checkpoint as cp
from gankernels.gan.checkpoint import CheckpointError
from gankernels.gan.signals import StopSignals

SETTINGS = {
    "plain": {},
    "3dgan": {
        "g_steps": 2,
        "separate_updates": True,
        "losses": LossConfig(label_flip=0.05),
        "d_optimizer": OptimizerConfig(name="rmsprop", lr=1e-3),
        "g_optimizer": OptimizerConfig(name="rmsprop", lr=1e-3),
    },
    "wgan-gp": {
        "d_steps": 2,
        "losses": LossConfig("wasserstein-gp", "wasserstein-gp", r1=0.1, r1_interval=3),
        "lr_schedule": "cosine",
        "max_grad_norm": 1.0,
    },
    "sgd": {
        "d_optimizer": OptimizerConfig(name="sgd", lr=1e-2, momentum=0.9),
        "g_optimizer": OptimizerConfig(name="adamw", weight_decay=0.1),
    },
}
N, K = 11, 5  # in the middle of an epoch of 6 batches


def make(directory, name, max_steps=N):
    config = TrainerConfig(
        max_steps=max_steps, batch=16, log_every=1, ema_decay=0.9, keep_last=9, checkpoint_every=K, **SETTINGS[name]
    )
    return Trainer(toy_gan(), toy_data(), config, directory, on_validate=lambda t: {"score": 1.0 / t.step})


def everything(directory):
    """The last checkpoint without what depends on the clock."""
    stored = cp.load(Path(directory) / "checkpoints")
    state = {k: v for k, v in stored.state.items() if k != "seconds"}
    return state, {(g, n): a for g, group in stored.arrays.items() for n, a in group.items()}


def losses(directory):
    lines = (Path(directory) / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same(a, b):
    (state_a, arrays_a), (state_b, arrays_b) = everything(a), everything(b)
    assert state_a == state_b
    assert arrays_a.keys() == arrays_b.keys()
    for name in arrays_a:
        assert np.array_equal(arrays_a[name], arrays_b[name]), name
    assert losses(a) == losses(b)


RESUMING = """
import sys
sys.path.insert(0, sys.argv[1])
import test_gan_resume as t
trainer = t.make(sys.argv[2], sys.argv[3])
trainer.resume(sys.argv[4])
trainer.run()
"""


@pytest.mark.much_work
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_resumed_in_a_new_process_is_the_uninterrupted_run_bit_for_bit(name, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make(whole, name).run()
    shutil.copytree(whole, parts)  # with its logs and checkpoints of later steps, which must leave no trace
    at_k = parts / "checkpoints" / f"checkpoint-{K:06d}"
    command = python(RESUMING, Path(__file__).parent, parts, name, at_k, cwd=tmp_path)
    done = subprocess.run(**command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert cp.load(parts / "checkpoints").path.name == f"checkpoint-{N:06d}.1"
    assert_same(whole, parts)


@pytest.mark.much_work
def test_a_resumed_run_may_be_made_longer(tmp_path):
    make(tmp_path / "whole", "plain").run()
    make(tmp_path / "parts", "plain", max_steps=6).run()
    trainer = make(tmp_path / "parts", "plain")
    trainer.resume()
    assert trainer.run().step == N
    a, b = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    assert all(np.array_equal(a[1][n], b[1][n]) for n in a[1])
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


# ---- signals -------------------------------------------------------------------------------------------------------
STOPPABLE = """
import sys
sys.path.insert(0, sys.argv[1])
import test_gan_resume as t
from gankernels.gan.signals import EXIT_CODE
trainer = t.make(sys.argv[2], "plain", max_steps=1_000_000)
step = trainer.train_step
def told():
    step()
    if trainer.step == 3:
        print("started", flush=True)
trainer.train_step = told
outcome = trainer.run()
print(outcome.status, outcome.signal, outcome.step, outcome.checkpoint, flush=True)
sys.exit(EXIT_CODE if outcome.status == "signal" else 0)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_finishes_the_step_saves_says_so_and_ends_with_75(name, tmp_path):
    command = python(STOPPABLE, Path(__file__).parent, tmp_path, cwd=tmp_path)
    with subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == "started\n"
        child.send_signal(getattr(signal, name))
        out, err = child.communicate(timeout=60)
    assert child.returncode == 75, err
    status, received, step, path = out.split()
    assert (status, received, int(step) >= 3) == ("signal", name, True)
    assert f"{name}: stopped after step {step}, saved {path}" in err
    stored = cp.load(tmp_path / "checkpoints")
    assert (stored.step, str(stored.path)) == (int(step), path)
    trainer = make(tmp_path, "plain", max_steps=int(step) + 2)
    trainer.resume()
    assert trainer.run().step == int(step) + 2


SECOND = """
import os, signal, sys, time
from gankernels.gan.signals import StopSignals
with StopSignals() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.received, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    print("still here")
"""


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    began = time.monotonic()
    done = subprocess.run(**python(SECOND, cwd=tmp_path), capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "SIGTERM\n"
    assert time.monotonic() - began < 25


def test_handlers_are_restored_and_other_threads_are_left_alone():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert signal.getsignal(signal.SIGTERM) == stop._handle
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.received == "SIGINT"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    outcomes = []
    config = TrainerConfig(max_steps=2, batch=16)
    thread = threading.Thread(target=lambda: outcomes.append(Trainer(toy_gan(), toy_data(), config).run()))
    thread.start()
    thread.join()
    assert outcomes[0].status == "finished"


# ---- what does not fit ---------------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    trainer = make(tmp_path, "plain", max_steps=2)
    trainer.run()
    return tmp_path, trainer.checkpoint


def rewritten(directory, change):
    """The last checkpoint again with something changed, well sealed."""
    stored = cp.load(directory / "checkpoints")
    state, arrays = json.loads(json.dumps(stored.state)), {g: dict(v) for g, v in stored.arrays.items()}
    change(state, arrays)
    return cp.save(directory / "changed", stored.step, state, arrays)


def transpose(state, arrays):
    arrays["generator"]["dense.weight"] = arrays["generator"]["dense.weight"].T


MISFITS = {
    "a missing tensor": (lambda s, a: a["generator"].pop("out.bias"), r"missing: 'out.bias'"),
    "an unexpected tensor": (lambda s, a: a["discriminator"].update(x=np.zeros(2)), "unexpected: 'x'"),
    "another shape": (transpose, r"'dense.weight' has shape \(5, 16\), expected \(16, 5\)"),
    "another dtype": (lambda s, a: a["generator"].update({"out.bias": np.zeros(8)}), "dtype float64"),
    "no average": (lambda s, a: a.pop("ema"), "ema"),
    "an average without a tensor": (lambda s, a: a["ema"].pop("out.bias"), r"EMA: tensor 'out.bias' is missing"),
    "no state of an optimizer": (lambda s, a: a["optimizers"].clear(), "is missing"),
    "no position in the data": (lambda s, a: s.pop("data"), "data"),
    "other data": (lambda s, a: s["data"].update(events=5), "the state has events=5"),
    "no generators": (lambda s, a: s["generators"].pop("noise"), "noise"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(what, saved):
    directory, _ = saved
    change, message = MISFITS[what]
    path = rewritten(directory, change)
    with pytest.raises(CheckpointError, match=message):
        make(directory, "plain").resume(path)


def test_resuming_from_nothing_says_where_it_looked(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints: there is no complete checkpoint"):
        make(tmp_path, "plain").resume()
    with pytest.raises(CheckpointError, match="has no directory"):
        make(None, "plain").resume()


def test_the_best_pointer_is_completed_if_the_run_died_before_it(tmp_path):
    trainer = make(tmp_path, "plain", max_steps=6)
    trainer.run()
    (tmp_path / "checkpoints" / "best.json").unlink()
    again = make(tmp_path, "plain", max_steps=6)
    again.resume()
    assert cp.best(tmp_path / "checkpoints") == trainer.checkpoint
