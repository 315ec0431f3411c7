"""The HDF5 library can neither hang, crash nor fill the caller's process."""

import os
import re
import struct
import sys
import time
import tracemalloc

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from weight_files import KERAS_APPLICATIONS, assert_same, keras_values, read

from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.formats import hdf5_index, keras_h5
from resnext_keras.weights.tensors import WeightsError

pytestmark = pytest.mark.long

LEGACY = GOLDEN / "keras_applications_4x4d.h5"

on_unix = pytest.mark.skipif(
    hdf5_index.resource is None, reason="Windows has neither signals nor such limits"
)


@pytest.fixture
def good(good_weights):
    return good_weights[".weights.h5"]


@pytest.fixture
def instead(monkeypatch):
    """Has the process do something else than listing a file."""

    def listing(code):
        start = keras_h5.START.replace("hdf5_index.main", f"{code}; hdf5_index.main")
        assert start != keras_h5.START
        monkeypatch.setattr(keras_h5, "START", start)

    return listing


def test_the_callers_process_never_runs_hdf5(good, monkeypatch):
    monkeypatch.setattr(h5py, "File", None)
    assert_same(read(good), keras_values())
    resolve(LEGACY, KERAS_APPLICATIONS)


def endless(path, source):
    """A file at which HDF5 goes round in circles: HDFGroup/hdf5#1707.

    The size of the first text in the heap is such that the next one, 16 bytes of
    header further on, is the same again.
    """
    whole = bytearray(source.read_bytes())
    heap = whole.index(b"GCOL")
    whole[heap + 24 : heap + 32] = struct.pack("<q", -16)
    path.write_bytes(whole)
    return path


def test_a_file_at_which_hdf5_hangs_is_refused_in_time(
    good, refused, tmp_path, monkeypatch
):
    monkeypatch.setattr(hdf5_index, "SECONDS", 1)
    for source, options in ((good, {}), (LEGACY, {"spec": KERAS_APPLICATIONS})):
        start = time.perf_counter()
        path = endless(tmp_path / "endless.h5", source)
        refused(path, "HDF5 library had not finished after 1 s", **options)
        assert 1 <= time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("code", "message"),
    [
        *(
            pytest.param(
                f"import os, signal; os.kill(os.getpid(), signal.{signal})",
                r"failed \(-\d+, crashed\)",
                marks=on_unix,
            )
            for signal in ("SIGSEGV", "SIGKILL", "SIGABRT")
        ),
        (
            "import os; print('[1, 2', flush=True); os._exit(0)",
            r"failed \(0, crashed\)",
        ),
        pytest.param(
            "hdf5_index.index = lambda path: bytearray(4 << 30)",
            r"failed \(1, MemoryError\)",
            marks=on_unix,
        ),
    ],
)
def test_a_crash_is_an_error(good, refused, instead, code, message):
    instead(code)
    refused(good, f"HDF5 library {message}")


@on_unix
def test_the_process_is_under_every_limit(good, instead):
    instead(
        "import resource; hdf5_index.index = lambda path: "
        "{n: resource.getrlimit(getattr(resource, n)) for n in hdf5_index.LIMITS}"
    )
    limits = keras_h5._index(str(good))
    for name, limit in hdf5_index.LIMITS.items():
        assert max(limits[name]) <= limit, name


def test_a_list_without_end_is_not_taken_in(good, refused, instead):
    instead("hdf5_index.index = lambda path: {'tensors': 'x' * 10**8}")
    tracemalloc.start()
    refused(good, "shorter names of tensors")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_list_that_points_behind_the_end_is_refused(good, refused, instead):
    whole = ["conv1_conv", "kernel", [1 << 40], "<f4", 0]
    beyond = ["conv1_conv", "kernel", [1], "<f4", good.stat().st_size - 3]
    for tensor in (whole, beyond):
        listed = {"generation": 3, "tensors": [tensor]}
        instead(f"hdf5_index.index = lambda path: {listed}")
        refused(good, r"at least \d+ bytes in .*, found \d+: .*truncated or damaged")


def test_one_tensor_at_a_time_is_in_memory(good):
    largest = max(value.nbytes for value in keras_values().values())
    with keras_h5.open_keras_h5(good) as tensors:
        tracemalloc.start()
        for tensor in tensors.values():
            tensor.read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < largest + 50_000


def test_neither_the_environment_nor_the_folder_gets_code_in(
    good, tmp_path, monkeypatch
):
    """Modules in the way, start-up files, plug-ins: none of them is run."""
    canary = tmp_path / "canary"
    trap = f"open({str(canary)!r}, 'w').write('x')"
    for name in ("h5py", "numpy", "json", "sitecustomize", "hdf5_index", "start"):
        (tmp_path / f"{name}.py").write_text(trap)
    (tmp_path / "trap.pth").write_text(f"import os; {trap}")
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HDF5_PLUGIN_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    monkeypatch.setenv("HDF5_DRIVER", "no such driver")
    monkeypatch.setenv("HDF5_VOL_CONNECTOR", "no such connector")
    before, environment = {*tmp_path.iterdir()}, dict(os.environ)
    assert len(keras_h5._index(str(good))["tensors"]) == len(keras_values())
    assert {*tmp_path.iterdir()} == before
    assert dict(os.environ) == environment
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("executable", v) for v in ("", None, "/usr/bin/uwsgi", "C:\\app.exe")),
        ("frozen", True),
    ],
)
def test_a_host_other_than_python_reads_without_a_process(
    good, refused, tmp_path, monkeypatch, name, value
):
    monkeypatch.setattr(keras_h5.subprocess, "run", None)
    monkeypatch.setattr(sys, name, value, raising=False)
    assert_same(read(good), keras_values())
    path = tmp_path / "cut.weights.h5"
    path.write_bytes(good.read_bytes()[:5000])
    refused(path, "damaged")


def test_a_python_that_does_not_start_is_named(good, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(
        WeightsError, match=rf"start .*python3 .*{re.escape(str(good))}"
    ):
        read(good)


@pytest.mark.parametrize("name", ["-c.h5", 'a b\'s "c".h5', "grün.h5", "$(x);.h5"])
def test_any_name_of_a_file(good, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(good.read_bytes())
    path = tmp_path.joinpath(name).relative_to(tmp_path)
    with keras_h5.open_keras_h5(path) as tensors:
        assert tensors.keys() == keras_values().keys()


def test_data_are_found_behind_a_user_block(good, tmp_path):
    """HDF5 counts from the end of such a block; it may hold anything."""
    path = tmp_path / "block.weights.h5"
    with h5py.File(good) as source, h5py.File(path, "w", userblock_size=1024) as file:
        for key in source:
            source.copy(key, file)
        for key, value in source.attrs.items():
            file.attrs[key] = value
    assert_same(read(path), keras_values())


def test_a_tensor_without_numbers(tmp_path):
    path = tmp_path / "empty.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/conv/vars/0"] = np.zeros((3, 0), "f4")
        file["layers/conv/vars"].attrs["name"] = "conv"
    with keras_h5.open_keras_h5(path) as tensors:
        assert tensors["conv/kernel"].read().shape == (3, 0)
