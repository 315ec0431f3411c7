"""`resnext-keras`: the demo, the lists, and what holds for every command."""

import inspect
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import click
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from command import error_of, row_of, run
from PIL import Image

import resnext_keras as rk
from resnext_keras_cli.main import group
from resnext_keras_cli.runs import print_files
from resnext_keras_cli.tables import print_table, table


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_demo_draws_predictions_and_replaces_only_its_own_sheet(
    tmp_path, monkeypatch
):
    sheet = tmp_path / "resnext-keras-demo.png"
    sheet.write_text("earlier")
    assert "--overwrite" in error_of("demo", "-o", sheet.name)
    with monkeypatch.context() as patch:
        stop = Mock(side_effect=KeyboardInterrupt)
        patch.setattr(Image.Image, "save", stop)
        run("demo", "-o", sheet.name, "--overwrite", code=1)
    assert sheet.read_text() == "earlier"
    text = run("demo").stdout
    assert float(text.split("top-1 accuracy")[1].split("%")[0]) >= 98
    assert "resnext-keras predict" in text
    assert os.listdir() == [sheet.name]
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert min(image.size) > 500


def test_summary_works_with_channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        text = run("summary", "resnext11_8x4d").stdout
    finally:
        keras.config.set_image_data_format("channels_last")
    assert row_of(text, "conv4")[2:6:2] == ["x", "x"]


def test_summary_has_a_row_for_each_stage():
    text = run("summary", "resnext50_32x4d").stdout
    assert row_of(text, "conv4")[1:6] == ["14", "x", "14", "x", "1024"]
    assert row_of(text, "all")[1:] == ["25,097,128", "4,230,479,872"]
    own = run("summary", "resnext11_8x4d", "--size", 64, "--classes", 3).stdout
    assert row_of(own, "classifier")[1] == "3"


def test_list_has_architectures_and_weight_sets_without_blanks_around_the_lines():
    text = run("list").stdout
    assert row_of(text, "resnext11_8x4d")[-1] == "digits"
    assert row_of(text, "resnext50_32x4d")[1:4] == ["224", "1000", "25,097,128"]
    assert all(line and line == line.strip() for line in text.splitlines())


def commands(command=group, *names):
    """Each command with its names, the groups too."""
    yield names, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *names, name)


@pytest.mark.parametrize("names", [names for names, _ in commands()])
def test_help_has_examples_that_parse_and_nothing_is_cut(names):
    done = CliRunner().invoke(group, [*names, "--help"], terminal_width=60)
    text = done.stdout.partition("\n\n")[2]  # after the usage, which has its own dots
    assert "..." not in text
    lines = [line.strip() for line in text.partition("  Examples:\n")[2].splitlines()]
    assert 2 <= len(lines) <= 4
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "resnext-keras"
        for word in words:
            if word.endswith("/"):
                os.makedirs(word, exist_ok=True)
            elif word.endswith((".jpg", ".png", ".csv")):
                Path(word).touch()
        command, context = group, None
        while isinstance(command, click.Group):
            context = click.Context(command, context)
            name, *words = words
            command = command.commands[name]
        command.make_context(name, words, context)


FUNCTIONS = {"export": "export_model", "predict": "predict_files"}


@pytest.mark.parametrize(
    "name",
    ["explain", "extract", "search", "finetune", "train", "evaluate", *FUNCTIONS],
)
def test_a_default_in_the_help_is_that_of_the_function(name):
    command = group.commands[name]
    arguments = inspect.signature(getattr(rk, FUNCTIONS.get(name, name))).parameters
    compared = 0
    for option in command.params:
        if option.name in arguments and getattr(option, "show_default", None):
            default = option.get_default(click.Context(command))
            assert default == arguments[option.name].default, option.name
            compared += 1
    assert compared


@pytest.mark.parametrize("place", [0, 4])
def test_only_traceback_shows_the_traceback(place):
    arguments = ["weights", "convert", "digits", "nothing.known"]
    assert "Expected" in error_of(*arguments)
    arguments.insert(place, "--traceback")
    result = CliRunner().invoke(group, arguments)
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Expected this."), "Expected this."),
        (OSError(28, "No space left"), "[Errno 28] No space left"),
        (KeyError("x"), "KeyError: 'x' (--traceback shows more)"),
        (ValueError("One\nTwo"), "ValueError: One (--traceback shows more)"),
    ],
)
def test_an_error_that_is_not_meant_for_users_has_its_type(monkeypatch, error, message):
    monkeypatch.setattr(rk, "stage_costs", Mock(side_effect=error))
    assert error_of("summary", "resnext11_8x4d") == f"Error: {message}"


@pytest.mark.tensorflow
def test_of_an_error_in_a_graph_the_cause_is_printed(monkeypatch):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit = Mock(side_effect=lambda *_: model.fit(np.ones((2, 3)), np.array([0, 9])))
    monkeypatch.setattr(rk, "stage_costs", fit)
    line = run("summary", "resnext11_8x4d", code=1).stderr.splitlines()[-1]
    assert line.startswith("Error: InvalidArgumentError: Received a label value of 9")
    assert line.endswith("(--traceback shows more)")


def shell(line, **variables):
    """Runs a line of the shell, in which `R` is the command."""
    command = shlex.join([sys.executable, "-m", "resnext_keras_cli"])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.run(
        ["sh", "-c", line.replace("R ", f"{command} ")],
        capture_output=True,
        env=environment | variables,
    )


@pytest.mark.tensorflow
def test_the_start_is_quiet_and_any_file_name_can_be_printed():
    Image.new("RGB", (40, 40)).save("三.png")
    done = shell("R predict 三.png --weights digits --top 1", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.startswith(b"resnext11_8x4d.digits\n")
    assert b"\n?.png " in done.stdout


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-"])
def test_a_command_works_without_its_streams(closed):
    Image.new("RGB", (40, 40)).save("one.png")
    done = shell(f"R explain one.png --weights digits -o out.png {closed}")
    assert done.returncode == 0
    assert bool(done.stdout) == (closed == "2>&-")
    with Image.open("out.png") as sheet:
        assert sheet.format == "PNG"
    assert shell(f"R summary {closed}").returncode == 2


def test_names_cannot_control_the_terminal(capsys):
    rows = table("a\x9bname", title="\x1b]0;title\x07")
    rows.add_row("red \x1b[31m\r\n\x7f\x85 é三")
    print_table(rows)
    assert capsys.readouterr().out.splitlines() == [
        r"\x1b]0;title\x07",
        r"a\x9bname",
        r"red \x1b[31m\r\n\x7f\x85 é三",
    ]


def test_names_in_a_command_to_paste_are_quoted(capsys, tmp_path):
    files = {"best.weights.h5": None}
    print_files(SimpleNamespace(folder=tmp_path / "my run; ls", files=files))
    quoted = shlex.quote(click.format_filename(tmp_path / "my run; ls"))
    assert f"--weights {quoted}`" in capsys.readouterr().out
