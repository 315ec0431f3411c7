"""What is printed, wherever it goes and whatever the names in it."""

import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import click
import pytest
from command import run
from PIL import Image

from resnext_keras_cli.runs import print_files
from resnext_keras_cli.tables import print_table, table

pytestmark = pytest.mark.tensorflow


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shell(line, **variables):
    """What a shell makes of `R`, the command, in a process of its own."""
    command = shlex.join([sys.executable, "-m", "resnext_keras_cli"])
    return subprocess.run(
        ["sh", "-c", line.replace("R ", f"{command} ")],
        capture_output=True,
        env=os.environ | variables,
    )


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_works_without_its_streams(tmp_path, closed):
    Image.new("RGB", (40, 40)).save("one.png")
    done = shell(f"R explain one.png --weights digits -o out.png {closed}")
    assert done.returncode == 0
    assert bool(done.stdout) == (closed == "2>&-")
    with Image.open("out.png") as sheet:
        assert sheet.format == "PNG"


def test_without_stderr_errors_are_still_told_by_the_code():
    assert shell("R summary nothing 2>&-").returncode == 1
    assert shell("R summary 2>&-").returncode == 2


def test_a_letter_that_the_encoding_lacks_is_no_failure():
    Image.new("RGB", (40, 40)).save("one.png")
    done = shell(
        "R extract one.png --weights digits -o 三.parquet", PYTHONIOENCODING="cp1252"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b": ?.parquet\n")
    assert os.path.exists("三.parquet")


def test_names_command_no_terminal(capsys):
    rows = table("a\x9bname", title="\x1b]0;title\x07")
    rows.add_row("red \x1b[31m\r\n\x7f\x85 é三")
    print_table(rows)
    assert capsys.readouterr().out.splitlines() == [
        r"\x1b]0;title\x07",
        r"a\x9bname",
        r"red \x1b[31m\r\n\x7f\x85 é三",
    ]


def test_a_image_has_a_row_of_its_own_whatever_its_name():
    name = "a\n\x1b[2Jb.png"
    Image.new("RGB", (40, 40)).save(name)
    told = run("predict", "--weights", "digits", "--top", 1, name).stdout
    assert r"a\n\x1b[2Jb.png" in told
    assert len(told.splitlines()) == 3


def test_what_is_to_be_pasted_is_quoted(capsys, tmp_path):
    files = {"best.weights.h5": None}
    print_files(SimpleNamespace(folder=tmp_path / "my run; ls", files=files))
    quoted = shlex.quote(click.format_filename(tmp_path / "my run; ls"))
    assert f"--weights {quoted}`" in capsys.readouterr().out
