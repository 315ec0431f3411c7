"""Long work shows how far it is: a bar on a terminal, otherwise lines."""

import contextlib
import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from helpers import ROOT
from PIL import Image

import resnext_keras as rk
from resnext_keras import progress
from resnext_keras.digits import held_out_digits
from resnext_keras.export import formats

pytestmark = pytest.mark.tensorflow

LINE = r"{}: (\d+) of 12 images, \d+\.\d a second, \d\d:\d\d left"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a few digits, in folders of their classes."""
    monkeypatch.chdir(tmp_path)
    images, labels = held_out_digits()
    for number, (image, label) in enumerate(zip(images[:12], labels, strict=False)):
        os.makedirs(f"digits/{label}", exist_ok=True)
        Image.fromarray(image).save(f"digits/{label}/{number}.png")
    return "digits"


@pytest.fixture
def lines(monkeypatch, caplog):
    """The lines that the log gets, one for a tenth of the work."""
    monkeypatch.setattr(progress, "LEAST", 0)
    caplog.set_level(logging.INFO, progress.logger.name)
    return lambda: caplog.messages


@pytest.mark.parametrize(
    ("what", "function", "options"),
    [
        ("predicting", rk.predict_files, {"batch_size": 2}),
        ("evaluating", rk.evaluate, {"batch_size": 2, "engine": "tensorflow"}),
        ("extracting", rk.extract, {"batch_size": 2, "engine": "tensorflow"}),
    ],
)
def test_off_a_terminal_lines_have_count_rate_and_time_left(
    folder, lines, what, function, options
):
    function(folder, weights="digits", **options)
    found = map(re.compile(LINE.format(what)).fullmatch, lines())
    counts = [int(match[1]) for match in found if match]
    assert len(counts) >= 5
    assert counts == sorted(counts)
    assert counts[-1] == 12


def test_an_export_names_each_format_and_its_time(folder, lines, monkeypatch):
    monkeypatch.setattr(formats, "is_installed", lambda *_: False)
    rk.export_model("digits", folder, formats=["saved_model", "litert"])
    shown = [line for line in lines() if "reading" not in line]
    assert shown[0] == "writing saved_model, 1 of 2"
    assert re.fullmatch(r"saved_model written and compared in \d+\.\d s", shown[1])
    assert shown[2] == "writing litert, 2 of 2"


def test_a_terminal_shows_something_before_the_library_is_loaded(folder):
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = ["predict", folder, "--weights", "digits"]
    process = subprocess.Popen(
        [sys.executable, "-m", "resnext_keras_cli", *command],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        text=True,
    )
    os.close(stderr)
    first = os.read(terminal, 100)
    assert process.poll() is None
    printed = process.communicate()[0]
    shown = first
    with contextlib.suppress(OSError):  # the end of what the process wrote
        while block := os.read(terminal, 100_000):
            shown += block
    os.close(terminal)
    assert first.startswith(b"Loading")
    assert b"predicting" in shown
    assert printed.startswith("resnext11_8x4d.digits\n")
