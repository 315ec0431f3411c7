"""`extract` with `engine="ray"`: a real cluster of two workers on this machine."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from helpers import ROOT
from PIL import Image

import resnext_keras as rk
from resnext_keras.features import extraction
from resnext_keras.features.chunks import Chunks
from resnext_keras.features.extraction import chunks_folder, errors_file
from resnext_keras.features.ray import _Worker, share_cores

pytestmark = pytest.mark.tensorflow

COUNT, CHUNK, CHUNKS = 300, 64, 5
BROKEN = range(5, COUNT, 37)


@pytest.fixture(scope="module")
def collection(tmp_path_factory, photos):
    """Small images, some of them cut off or empty."""
    folder = tmp_path_factory.mktemp("collection")
    for number in range(COUNT):
        path = folder / f"{number:03d}.{'png' if number % 3 else 'jpg'}"
        photo = photos[number % 2].crop((number, 0, number + 200, 150))
        photo.resize((64, 48)).save(path)
        if number in BROKEN:
            path.write_bytes(path.read_bytes()[:-300] * (number % 2))
    return folder


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(extraction, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def whole(collection, tmp_path_factory):
    """The file of a run without Ray."""
    target = tmp_path_factory.mktemp("whole") / "features.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "CHUNK", CHUNK)
        run(collection, target, "auto")
    return target


def run(folder, target, engine, **options):
    options |= {"weights": "digits", "engine": engine, "batch_size": 4}
    return rk.extract([folder], target, **options)


def run_with_ray(folder, target, **options):
    pytest.importorskip("ray")
    return run(folder, target, "ray", workers=2, **options)


def assert_same(target, whole):
    found, expected = map(pyarrow.parquet.read_table, (target, whole))
    assert len(found) == COUNT - len(BROKEN)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.drop(["features"]).equals(expected.drop(["features"]))
    vectors = [np.stack(t["features"].to_numpy()) for t in (found, expected)]
    np.testing.assert_allclose(*vectors, rtol=0, atol=1e-5 * np.abs(vectors[1]).max())
    assert errors_file(target).read_bytes() == errors_file(whole).read_bytes()
    assert not chunks_folder(target).exists()


def workers_of(process):
    """Ids of the workers among a process's descendants, and their titles."""
    parents, found = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat, title = ((entry / name).read_text() for name in ("stat", "cmdline"))
        except OSError:  # ended meanwhile
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        if title.startswith("ray::_Worker"):
            found[int(entry.name)] = title

    def descends(number):
        while number in parents and number != process:
            number = parents[number]
        return number == process

    return {number: title for number, title in found.items() if descends(number)}


@pytest.mark.parity
def test_a_worker_that_is_killed_is_replaced_and_its_work_done_again(
    collection, whole, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    killed, write, is_over = [], Chunks.write, threading.Event()

    def kill_one_that_reads():
        while not (killed or is_over.wait(0.01)):
            reading = (w for w, t in workers_of(os.getpid()).items() if "read" in t)
            for worker in itertools.islice(reading, 1):
                with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)

    def written(self, number, *rest):
        write(self, number, *rest)
        if number == CHUNKS - 1:
            workers = workers_of(os.getpid())
            assert len(workers) == 2
            assert killed[0] not in workers

    monkeypatch.setattr(Chunks, "write", written)
    target = tmp_path / "features.parquet"
    # From the start, as workers may have read everything when a chunk is written.
    killer = threading.Thread(target=kill_one_that_reads, daemon=True)
    killer.start()
    try:
        assert run_with_ray(collection, target).read == COUNT
    finally:
        is_over.set()
        killer.join()
    assert killed
    assert_same(target, whole)


PROGRAM = f"""
import sys, time
import resnext_keras as rk
from resnext_keras.features import extraction
from resnext_keras.features.chunks import Chunks
extraction.CHUNK = {CHUNK}
write = Chunks.write
def written(self, number, *rest):
    if number == 2:
        time.sleep(600)
    write(self, number, *rest)
Chunks.write = written
folder, target = sys.argv[1:]
rk.extract(
    [folder], target, weights="digits", engine="ray", batch_size=4, workers=2
)
"""


@pytest.mark.parity
def test_a_killed_run_continues_without_ray_and_with_it(
    collection, whole, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    target = tmp_path / "features.parquet"
    driver = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, collection, target],
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    deadline = time.monotonic() + 400
    while not (chunks_folder(target) / "00000001.parquet").exists():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = workers_of(driver.pid)
    assert len(workers) == 2
    driver.kill()
    driver.wait()
    write = Chunks.write

    def stopped(self, number, *rest):
        if number == 3:
            raise KeyboardInterrupt
        write(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(collection, target, "auto", resume=True)
    assert run_with_ray(collection, target, resume=True).read == COUNT - 3 * CHUNK
    assert_same(target, whole)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


@pytest.mark.parity
def test_too_many_workers_are_refused_before_anything_is_written(collection, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=r"at most .* cores"):
        run(collection, tmp_path / "features.parquet", "ray", workers=1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("machines", "workers", "expected"),
    [
        ([2], None, (1, 2)),
        ([16, 7, 3], None, (5, 4)),
        ([8, 8], 5, (5, 2)),
        ([64], 3, (3, 4)),
    ],
)
def test_workers_by_number_or_one_on_each_four_cores(machines, workers, expected):
    assert share_cores(machines, workers) == expected


def test_a_missing_ray_is_named_and_workers_need_it(collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"resnext-keras\[ray\]"):
        run(collection, tmp_path / "f.parquet", "ray")
    with pytest.raises(ValueError, match="engine='ray'"):
        run(collection, tmp_path / "f.parquet", "auto", workers=2)
    assert not list(tmp_path.iterdir())


def test_a_worker_without_the_shared_folder_names_it(collection, tmp_path):
    place = str(tmp_path), [str(collection), "/not/mounted"]
    worker = _Worker(1, (), place, Image.MAX_IMAGE_PIXELS)
    with pytest.raises(ValueError, match=r"all machines .*'/not/mounted'"):
        worker.start()
