"""`extract` leaves out a bad file, and stops when a disk or a network fails."""

import errno
import functools
import os
from pathlib import Path

import pytest
from command import run
from PIL import Image

from resnext_keras.features import extraction
from resnext_keras.features.parquet import count_rows

pytestmark = pytest.mark.tensorflow

COUNT = 24

cached_extractor = functools.cache(extraction.Extractor)


@pytest.fixture(autouse=True)
def _small_chunks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extraction, "Extractor", cached_extractor)
    monkeypatch.setattr(extraction, "CHUNK", 8)
    os.mkdir("images")
    for number in range(COUNT):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(f"images/{number:02}.png")


@pytest.fixture
def failing(monkeypatch):
    """A dict: files by name, and the errno with which opening them fails."""
    opened, numbers = open, {}

    def guarded(path, *arguments, **options):
        if number := numbers.get(os.path.basename(str(path))):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", guarded)
    return numbers


COMMAND = ("extract", "images", "--weights", "digits", "--batch", "8")
COMMAND += ("--engine", "tensorflow")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_run_stops_when_a_disk_fails_and_continues(tmp_path, failing, number):
    run(*COMMAND, "-o", "whole.parquet")
    failing["19.png"] = number
    message = run(*COMMAND, code=1).stderr.splitlines()[-1]
    assert "images/19.png" in message
    assert os.strerror(number) in message
    assert "--resume" in message
    assert not os.path.exists("features.parquet")
    assert len(list((tmp_path / "features.parquet.chunks").glob("0*"))) == 2
    run(*COMMAND, "--resume", code=1)
    failing.clear()
    run(*COMMAND, "--resume")
    for end in ("parquet", "errors.csv"):
        found, expected = (tmp_path / f"{name}.{end}" for name in ("features", "whole"))
        assert found.read_bytes() == expected.read_bytes()


def test_a_secret_file_is_left_out_with_the_reason(failing):
    failing["19.png"] = errno.EACCES
    result = run(*COMMAND)
    assert result.stdout.startswith(f"{COUNT - 1} images, 1 skipped")
    assert "19.png,PermissionError" in Path("features.errors.csv").read_text()


def test_a_run_without_one_row_fails_and_is_tried_again(failing):
    failing.update((f"{number:02}.png", errno.EACCES) for number in range(COUNT))
    for more in ((), ("--resume",)):
        assert run(*COMMAND, *more, code=1).stdout.startswith(f"0 images, {COUNT} ")
    failing.clear()
    assert run(*COMMAND, "--resume").stdout.startswith(f"{COUNT} images in ")
    assert count_rows("features.parquet") == COUNT
    assert "finished before" in run(*COMMAND, "--resume").stdout


def test_messages_of_the_command_name_its_options():
    run(*COMMAND)
    other = run(*COMMAND, "--resume", "--dtype", "float16", code=1).stderr
    os.remove("features.parquet")
    errors_alone = run(*COMMAND, code=1).stderr
    for message in (other, errors_alone):
        assert "--overwrite, to start again" in message
        assert "=True" not in message
