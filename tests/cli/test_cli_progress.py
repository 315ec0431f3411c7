"""Long work shows how far it is: a bar on a terminal, otherwise lines."""

import contextlib
import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import types
from pathlib import Path

import pytest
from helpers import ROOT
from image_files import digit_folder
from run_data import image_folder
from weight_files import SMALLEST

import resnext_keras as rk
from resnext_keras import progress
from resnext_keras.export import formats
from resnext_keras.progress import Progress

pytestmark = pytest.mark.tensorflow

LINE = r"{}: (\d+) of 12 images, \d+\.\d a second, \d\d:\d\d left"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a few digits, in folders of their classes."""
    monkeypatch.chdir(tmp_path)
    return digit_folder(Path("digits"), 12)


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


def test_training_prints_lines_within_epochs_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LEAST", 0)
    data = image_folder(tmp_path / "data", 15)
    options = {"epochs": 2, "batch_size": 8, "accumulate": 2}
    rk.train(data, tmp_path / "run", SMALLEST, **options, verbose=2)
    printed = capsys.readouterr().out
    for epoch in (1, 2):
        line = rf"Epoch {epoch}/2: (\d+) of 24 images, [\d.]+ a second, 00:\d\d left"
        assert re.findall(line, printed) == ["8", "12", "16", "20", "24"]
    rk.train(data, tmp_path / "other", SMALLEST, **options, verbose=0)
    assert "Epoch" not in capsys.readouterr().out


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, which the test sets."""
    now = [0.0]
    fake = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress, "time", fake)
    return now


def test_lines_are_ten_seconds_or_a_tenth_of_the_work_and_two_seconds_apart(now):
    lines = []
    for total, per_second, expected in (
        (2000, 2, range(10, 1001, 10)),
        (90, 3, range(3, 31, 3)),
        (900, 100, range(3, 10, 2)),
    ):
        now[0], seconds = 0, []
        with Progress("reading", total, log=lines.append) as shown:
            for second in range(1, total // per_second + 1):
                now[0], before = float(second), len(lines)
                shown.update(per_second)
                seconds += [second] * (len(lines) - before)
        assert seconds == [*expected]
    assert lines[1] == "reading: 40 of 2,000 images, 2.0 a second, 16:20 left"


@pytest.mark.parametrize(
    ("total", "counts", "expected"),
    [
        # The rate is without the time until the first images.
        (100, {60: [10], 70: [20]}, "30 of 100 images, 2.0 a second, 00:35 left"),
        # Images of a batch are counted at once.
        (100, {5: [1] * 20, 10: [1] * 20}, "21 of 100 images, 4.0 a second, 00:19"),
        # Nothing is done since the last line.
        (1, {60: [1], 120: [0]}, None),
    ],
)
def test_a_line_has_the_rate_since_the_first_images(now, total, counts, expected):
    lines = []
    with Progress("reading", total, log=lines.append) as shown:
        for seconds, some in counts.items():
            now[0] = float(seconds)
            for count in some:
                shown.update(count)
    assert len(lines) == (expected is not None)
    assert all(f"reading: {expected}" in line for line in lines)


def test_a_terminal_gets_a_bar_and_no_lines(now, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    lines = []
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("reading", 100, log=lines.append) as shown:
        for _ in range(10):
            now[0] += 60
            shown.update(10)
    assert lines == []
    assert "reading" in sys.stderr.getvalue()


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
