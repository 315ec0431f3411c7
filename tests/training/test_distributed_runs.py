"""The command on several devices ends as on one, even if a process is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import SUPPORT
from PIL import Image
from run_data import history_rows
from safetensors import SafetensorError, safe_open
from sklearn.datasets import load_digits

PATIENCE = 900  # seconds; each process takes some 30 where nothing else runs

ALONE = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
JAX, TORCH = ({"KERAS_BACKEND": name} for name in ("jax", "torch"))

COMMAND = ("-m", "resnext_keras_cli")
# On other backends as where TensorFlow is not installed.
WITHOUT_TENSORFLOW = (
    "-c",
    "import sys; sys.modules['tensorflow'] = None; import resnext_keras_cli; "
    "resnext_keras_cli.main()",
)
TWO_VIRTUAL_DEVICES = (SUPPORT / "device_program.py", 2)
WHOLE = ("--accumulate", 1)  # as several devices of TensorFlow need it

STEPS = 6  # in each of the two epochs


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


def start(images, run, environment=None, *more, program=COMMAND):
    """The command with everything that a run may have; two phases of one epoch."""
    fixed = ("--weights", "resnext11_8x4d.digits", "--checkpoint-every", 0)
    changed = ("--epochs", 2, "--batch", 8, "--accumulate", 2, "--set", "ema_span=0.3")
    if environment:
        program = WITHOUT_TENSORFLOW
    command = ("finetune", images, "-o", run, "--resume", *fixed, *changed, *more)
    return python(environment or {}, *program, *command)


def python(environment, *arguments):
    """A process that sees no GPU."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | ALONE | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(*processes, code=0):
    """What each process printed; none is left running."""
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output[-3000:]
    return outputs


def cluster_of_jax(workers=2):
    """The environment of each process of a cluster on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for index in range(workers):
        yield JAX | {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(workers),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
        }


def states(run):
    """The weights and their averages.

    Not the momenta: where a ReLU's input is nearly 0, they differ with the rounding.
    """
    others = ("total", "count", "momentum", "accumulator")
    with safe_open(run / "checkpoint.safetensors", "numpy") as file:
        keys = [k for k in sorted(file.keys()) if not any(o in k for o in others)]
        return [file.get_tensor(key) for key in keys]


def check_same(run, expected, rtol, broken=()):
    """All files are there and agree, by the largest value of a variable.

    In an epoch that was broken the training loss is that of the steps after the break.
    """
    files = {"best.weights.h5", "model.keras", "report.html"}
    assert files <= {path.name for path in run.iterdir()}
    for state, wanted in zip(states(run), states(expected), strict=True):
        largest = np.abs(wanted).max()
        np.testing.assert_allclose(state, wanted, atol=rtol * largest, rtol=rtol)
    for row, wanted in zip(history_rows(run), history_rows(expected), strict=True):
        for name, value in wanted.items():
            if int(row["epoch"]) not in broken or name not in ("loss", "accuracy"):
                assert float(row[name]) == pytest.approx(float(value), rel=rtol), name


def steps_done(run):
    try:
        with safe_open(run / "checkpoint.safetensors", "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
    except (FileNotFoundError, SafetensorError):
        return 0
    return progress["phase"] * STEPS + progress["step"]


def kill_last_at(step, workers, run):
    """Kills the last worker in the middle of a step, then, as schedulers do, all."""
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
def test_a_run_on_two_devices_is_that_on_one(images, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finished(start(images, one, None, *WHOLE))
    finished(start(images, two, None, *WHOLE, program=TWO_VIRTUAL_DEVICES))
    check_same(two, one, rtol=1e-3)


# A callback that asks to end training: in the second process after the first epoch,
# in the first process after the second.
STOPPING = """
import os, sys, keras, resnext_keras as rk

def stop(epoch, logs):
    if epoch == 1 - int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"]):
        callback.model.stop_training = True

callback = keras.callbacks.LambdaCallback(on_epoch_end=stop)
smallest = rk.ResNeXtSpec("smallest", (1,), 2, 4, stem="cifar")
rk.train(*sys.argv[1:], smallest, epochs=4, batch_size=8, callbacks=callback)
"""


@pytest.mark.parity
def test_the_first_process_alone_decides_when_a_phase_ends(images, tmp_path):
    pytest.importorskip("jax")
    command = ("-c", STOPPING, images, tmp_path / "run")
    finished(*(python(environment, *command) for environment in cluster_of_jax()))
    assert len(history_rows(tmp_path / "run")) == 2


@pytest.mark.parity
def test_a_run_of_two_processes_of_jax_is_that_on_one_though_one_is_killed(
    images, tmp_path
):
    """And with folders of their own, one with that run and one without, no run."""
    pytest.importorskip("jax")
    one, run, other = (tmp_path / name for name in ("one", "run", "other"))

    def cluster(*folders):
        pairs = zip(folders, cluster_of_jax(), strict=True)
        return [start(images, folder, worker) for folder, worker in pairs]

    finished(start(images, one, JAX))
    kill_last_at(2, cluster(run, run), run)
    at_rest = steps_done(run)
    outputs = finished(*cluster(run, run))
    assert "2 devices, in 2 processes" in outputs[0]
    for text in ("val_accuracy", "to train on", "top-1"):
        assert text in outputs[0]
        assert text not in outputs[1]
    check_same(run, one, rtol=1e-3, broken=[at_rest // STEPS + 1])
    for output in finished(*cluster(run, other), code=1):
        assert "of (0, 0) and (1, 6)" in output
    assert not other.exists()


# The unbroken run is the second, so that the third finds nothing of the first in
# memory.
ON_TORCH = """
import contextlib, sys
sys.modules["tensorflow"] = None
import keras, resnext_keras as rk

images, stopped, unbroken = sys.argv[1:]
options = {"weights": "digits", "epochs": 2, "batch_size": 8, "accumulate": 2}
options |= {"recipe_changes": {"ema_span": 0.3}, "checkpoint_seconds": 0}
options |= {"deterministic": True, "resume": True}

def stop(batch, logs):
    if batch == 3:
        raise KeyboardInterrupt

callback = keras.callbacks.LambdaCallback(on_train_batch_begin=stop)
with contextlib.suppress(KeyboardInterrupt):
    rk.finetune(images, stopped, callbacks=callback, **options)
    sys.exit("It was not stopped.")
rk.finetune(images, unbroken, **options)
batches = []
callback = keras.callbacks.LambdaCallback(
    on_train_batch_begin=lambda batch, logs: batches.append(batch)
)
rk.finetune(images, stopped, callbacks=callback, **options)
assert len(batches) == 9, batches  # two epochs of 6, less the 3 before the stop
"""


@pytest.mark.parity
def test_a_stopped_run_on_torch_ends_with_the_bits_of_an_unbroken_one(images, tmp_path):
    pytest.importorskip("torch")
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    finished(python(TORCH, "-c", ON_TORCH, images, run, unbroken))
    check_same(run, unbroken, rtol=0)
