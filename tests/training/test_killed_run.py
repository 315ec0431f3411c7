"""A run that is killed, again and again, ends with the bits of an unbroken one."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import h5py
import keras
import numpy as np
import pytest
from helpers import SUPPORT
from run_data import history_rows, image_folder

from resnext_keras.training.callbacks import CHECKPOINT, read_progress

pytestmark = [pytest.mark.long, pytest.mark.tensorflow]

COMMAND = (sys.executable, str(SUPPORT / "tiny_command.py"), "train")

# 24 images in 6 steps an epoch, halves of a batch, with everything that has a state.
OPTIONS = (
    *("--model", "tiny", "--epochs", "4", "--batch", "8", "--accumulate", "2"),
    *("--set", "ema_span=0.2", "--set", "augment=trivial", "--set", "mixup=0.2"),
    *("--set", "drop_path=0.2", "--deterministic", "--checkpoint-every", "0"),
)
STEPS = 6  # of an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("data") / "rooms")


def start(data, folder, *options):
    """The command, in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, str(data), "-o", str(folder), *OPTIONS, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(data, folder, *options):
    process = start(data, folder, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def step(folder):
    """The step of the last checkpoint, 0 without one; each that is there is whole."""
    path = folder / CHECKPOINT
    while path.exists():
        with contextlib.suppress(FileNotFoundError):
            return read_progress(path)["step"]
    return 0


def kill_when(process, is_time):
    """Kills the command while something is so, if it does not end before."""
    while process.poll() is None:
        time.sleep(0.001)
        if is_time():  # which may be over before the process stops
            os.killpg(process.pid, signal.SIGSTOP)
            states = os.WSTOPPED | os.WEXITED | os.WNOWAIT
            os.waitid(os.P_PID, process.pid, states)
            if is_time():
                break
            os.killpg(process.pid, signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=300)


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The folder of an unbroken run, and how many seconds it took."""
    folder, began = tmp_path_factory.mktemp("unbroken") / "run", time.monotonic()
    finish(data, folder)
    return folder, time.monotonic() - began


def arrays(path):
    """All that an HDF5 file holds, by name."""
    contents = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            contents[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(add)
    return contents


def check_same(folder, unbroken):
    """The weights, bit for bit, and the history but for the times."""
    weights, expected = (
        arrays(path / "best.weights.h5") for path in (folder, unbroken)
    )
    assert weights.keys() == expected.keys()
    assert len(weights) > 20
    for name, value in expected.items():
        assert weights[name].tobytes() == value.tobytes(), name
    paths = (folder / "model.keras", unbroken / "model.keras")
    models = map(keras.saving.load_model, paths)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        assert one.tobytes() == other.tobytes()
    assert history_rows(folder) == history_rows(unbroken)
    one, other = (path / "predictions.csv" for path in (folder, unbroken))
    assert one.read_bytes() == other.read_bytes()
    assert not list(folder.glob(".writing-*"))


def test_a_run_killed_three_times_ends_as_an_unbroken_one(data, tmp_path, unbroken):
    """In an epoch, while a file is written in another, and whenever it may be."""
    folder = tmp_path / "run"
    kill_when(start(data, folder), lambda: step(folder) % STEPS > 1)
    first, seen = step(folder), []
    assert 1 < first < STEPS

    def is_written_in_another():
        seen.append(step(folder))
        return seen[-1] > STEPS and list(folder.glob(".writing-*"))

    kill_when(start(data, folder, "--resume"), is_written_in_another)
    assert list(folder.glob(".writing-*"))
    assert min(seen) == first  # it did not begin again
    second = step(folder)
    end = time.monotonic() + unbroken[1] * np.random.default_rng().uniform(0.3, 0.9)
    kill_when(start(data, folder, "--resume"), lambda: time.monotonic() > end)
    assert step(folder) >= second
    finish(data, folder, "--resume")
    check_same(folder, unbroken[0])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB, which takes root to be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        if not subprocess.run(mount, capture_output=True).returncode:
            yield folder
            subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("a small file system cannot be mounted here")


def full_disk(folder):
    """The last line of a run on a full disk."""
    return (
        f"Error: No space left on the disk of '{folder}'. Make room, then continue "
        "with --resume: its files are complete."
    )


def test_a_disk_too_small_for_the_weights_is_an_error_in_one_line(data, small_disk):
    """h5py would crash the process when it ends."""
    (small_disk / "filling").write_bytes(bytes(62 * 2**20))
    folder = small_disk / "run"
    process = start(data, folder, "--model", "resnext11_8x4d", "--epochs", "1")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.splitlines()[-1] == full_disk(folder)


def test_a_full_disk_is_an_error_and_the_run_resumes_when_there_is_room(
    data, small_disk, unbroken
):
    folder, filling = small_disk / "run", small_disk / "filling"
    process = start(data, folder)
    while process.poll() is None and step(folder) < 2:
        time.sleep(0.001)
    with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert output.splitlines()[-1] == full_disk(folder)
    assert step(folder) >= 2
    filling.unlink()
    finish(data, folder, "--resume")
    check_same(folder, unbroken[0])
