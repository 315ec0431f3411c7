"""The command on several devices ends as on one, whatever dies meanwhile."""

import csv
import json
import shutil
import signal
import time

import numpy as np
import pytest
from clusters import PATIENCE, cluster_of_jax, finished, launched
from helpers import SUPPORT
from PIL import Image
from safetensors import SafetensorError, safe_open
from sklearn.datasets import load_digits

from resnext_keras.training.callbacks import CHECKPOINT, HISTORY
from resnext_keras.training.report import REPORT
from resnext_keras.training.trainer import MODEL
from resnext_keras.weights.checkpoint import BEST

VIRTUAL = SUPPORT / "device_program.py"
JAX, TORCH = ({"KERAS_BACKEND": name} for name in ("jax", "torch"))
TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}

WHOLE = ("--accumulate", 1)  # as several devices of TensorFlow need it

STEPS = 6  # of each of the two epochs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """24 digits to learn from, and 13 to validate, which nothing divides."""
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits(n_class=3)
    for number in range(37):
        split, name = ("val", "train")[number < 24], str(digits.target[number])
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        pixels = np.uint8(digits.images[number] * 15.9)
        image = Image.fromarray(pixels).resize((32, 32))
        image.save(folder / split / name / f"{number}.png")
    return folder


def start(images, run, environment=None, *more, program=("-m", "resnext_keras_cli")):
    """The command with all that a run may have; two phases, of an epoch each."""
    fixed = ("--weights", "resnext11_8x4d.digits", "--checkpoint-every", 0)
    changed = ("--epochs", 2, "--batch", 8, "--accumulate", 2, "--set", "ema_span=0.3")
    command = ("finetune", images, "-o", run, "--resume", *fixed, *changed)
    return launched([*program, *command, *more], environment)


def alone(images, tmp_path_factory, environment=None, *more):
    run = tmp_path_factory.mktemp("runs") / "run"
    finished(start(images, run, environment, *more))
    return run


@pytest.fixture(scope="module")
def one_device(images, tmp_path_factory):
    return alone(images, tmp_path_factory, None, *WHOLE)


@pytest.fixture(scope="module")
def one_device_of_jax(images, tmp_path_factory):
    pytest.importorskip("jax")
    return alone(images, tmp_path_factory, JAX)


def states(run):
    """The weights and their averages.

    Not the momenta: where a ReLU's input is nearly 0, they differ with the rounding.
    """
    others = ("total", "count", "momentum", "accumulator")
    with safe_open(run / CHECKPOINT, "numpy") as file:
        keys = [k for k in sorted(file.keys()) if not any(o in k for o in others)]
        return [file.get_tensor(key) for key in keys]


def rows(run):
    with (run / HISTORY).open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def check_same(run, expected, rtol, broken=()):
    """All files are there, and what they hold agrees, by the largest of a variable.

    Of the epochs that were broken the losses are those of what came after.
    """
    assert {BEST, MODEL, REPORT} <= {path.name for path in run.iterdir()}
    for found, wanted in zip(states(run), states(expected), strict=True):
        largest = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, atol=rtol * largest, rtol=rtol)
    for found, wanted in zip(rows(run), rows(expected), strict=True):
        for name, value in wanted.items():
            if found["epoch"] not in broken or name not in ("loss", "accuracy"):
                assert found[name] == pytest.approx(value, rel=rtol), name


def steps_done(run):
    try:
        with safe_open(run / CHECKPOINT, "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
    except (FileNotFoundError, SafetensorError):
        return 0
    return progress["phase"] * STEPS + progress["step"]


def kill_last_at(step, workers, run):
    """Ends the last worker in the middle of a step, and then, as schedulers do, all."""
    end = time.monotonic() + PATIENCE
    while steps_done(run) < step:
        assert time.monotonic() < end
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.01)
    workers[-1].kill()
    assert workers[-1].wait() == -signal.SIGKILL
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert steps_done(run) < 2 * STEPS


@pytest.mark.long
@pytest.mark.tensorflow
def test_a_run_on_two_devices_is_that_on_one(images, tmp_path, one_device):
    run = tmp_path / "run"
    finished(start(images, run, None, *WHOLE, program=(VIRTUAL, 2)))
    check_same(run, one_device, rtol=1e-3)


@pytest.mark.parity
def test_processes_of_jax_with_folders_of_their_own_are_refused(
    images, tmp_path, one_device_of_jax
):
    """The first process has a run that is done, the second has none of it."""
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(one_device_of_jax, first)
    workers = [
        start(images, run, worker)
        for run, worker in zip((first, second), cluster_of_jax(), strict=True)
    ]
    for worker in workers:
        output, _ = worker.communicate(timeout=PATIENCE)
        assert "of (0, 0) and (1, 6)" in output
        assert worker.returncode == 1
    assert not second.exists()


@pytest.mark.parity
def test_a_run_on_two_devices_of_jax_is_that_on_one(
    images, tmp_path, one_device_of_jax
):
    run = tmp_path / "run"
    finished(start(images, run, JAX | TWO))
    check_same(run, one_device_of_jax, rtol=1e-3)


@pytest.mark.parity
def test_a_run_of_two_processes_of_jax_of_which_one_is_killed_is_that_on_one(
    images, tmp_path, one_device_of_jax
):
    run, launch = tmp_path / "run", lambda worker: start(images, run, worker)
    kill_last_at(2, [launch(worker) for worker in cluster_of_jax()], run)
    at_rest = steps_done(run)
    outputs = finished(*[launch(worker) for worker in cluster_of_jax()])
    assert "2 devices, in 2 processes" in outputs[0]
    for text in ("val_accuracy", "to train on", "top-1"):
        assert text in outputs[0]
        assert text not in outputs[1]
    check_same(run, one_device_of_jax, rtol=1e-3, broken=[at_rest // STEPS + 1])


@pytest.mark.parity
def test_a_run_on_torch_that_is_killed_ends_with_the_bits_of_one_that_is_not(
    images, tmp_path, tmp_path_factory
):
    pytest.importorskip("torch")
    how = (TORCH, "--deterministic")
    run, unbroken = tmp_path / "run", alone(images, tmp_path_factory, *how)
    kill_last_at(2, [start(images, run, *how)], run)
    finished(start(images, run, *how))
    check_same(run, unbroken, rtol=0)
