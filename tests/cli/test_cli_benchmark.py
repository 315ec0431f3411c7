"""The command `resnext-keras benchmark` tells what it measured, and bad input."""

import json
import sys
import time

import numpy as np
import pytest
from command import run
from PIL import Image
from test_benchmark import BY_NAME, stand_in

from resnext_keras.benchmark import rounds
from resnext_keras.benchmark.contenders import PEERS
from resnext_keras.benchmark.report import in_seconds
from resnext_keras_cli.benchmark import benchmark

pytestmark = pytest.mark.tensorflow


def test_command_prints_what_it_measured(tmp_path, monkeypatch):
    entrants = (
        BY_NAME["ours"],
        stand_in("sleeper", {"seconds": 0.001}, "torch", kind="torch"),
        stand_in("failure"),
        stand_in("crash", packages=("no_such_package",)),
    )
    monkeypatch.setattr("resnext_keras.benchmark.contenders.CONTENDERS", entrants)
    peers = tuple(e.name for e in entrants[1:])
    monkeypatch.setattr("resnext_keras.benchmark.contenders.PEERS", peers)
    files = {name: tmp_path / name for name in ("times.json", "times.png")}
    files["times.json"].write_text("earlier")
    start = time.perf_counter()
    result = run(
        *("benchmark", "resnext11_8x4d", "--batch", 2, "--rounds", 1, "--calls", 3),
        *("--json", files["times.json"], "--plot", files["times.png"]),
        "--overwrite",
    )
    elapsed = time.perf_counter() - start
    assert "stand-in crash, which needs no_such_package: pip install" in result.stderr
    assert "2 of 4: resnext_keras, oneDNN on, predict 2\n" in result.stderr
    assert ", 1 round, " in result.stdout
    found = json.loads(files["times.json"].read_text())
    assert f"{found['multiply_adds'] / 1e9:.2f}" == "0.15"  # as README's table has it
    calls = [s for r in found["results"] for s in r["seconds"] + r["first_seconds"]]
    assert min(calls) > 0
    assert sum(calls) < elapsed
    ours = next(r for r in found["results"] if r["contender"] == "ours")
    assert ours["peak_bytes"][0] > 1e8  # TensorFlow's at least
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in result.stdout.splitlines()
        if line.startswith("|")
    ]
    columns = dict(zip(lines[0], zip(*lines[2:], strict=True), strict=True))
    assert columns["contender"][:3] == (
        "resnext_keras, oneDNN on",
        "stand-in torch",
        "stand-in failure",
    )
    assert columns["median"][0] == in_seconds(np.median(ours["seconds"]))
    assert columns["ratio"][1] == "1.00"
    assert columns["failed"][2] == "OSError: out of order"
    assert columns["contender"][3].startswith("floor, ")
    assert f"`{found['command']}`" in result.stdout
    assert "--batch 2" in found["command"]
    with Image.open(files["times.png"]) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"batches": (8,), "peers": ("all",), "model": "resnext50_32x4d"}),
        (
            ["--peers", "all", "--batch", "1", "8", "--train"],
            {"batches": (1, 8), "peers": ("all",), "train": True},
        ),
        (
            ["resnext101_32x8d", "--peers", "torch", "keras", "--batch", "4"],
            {"peers": ("torch", "keras"), "batches": (4,), "model": "resnext101_32x8d"},
        ),
        (["--batch", "2", "--batch", "3"], {"batches": (2, 3)}),
        (
            ["--batch", "1", "2", "--size", "64", "--", "resnext11_8x4d"],
            {"batches": (1, 2), "size": 64, "model": "resnext11_8x4d"},
        ),
    ],
)
def test_several_values_follow_one_option(arguments, expected):
    found = benchmark.make_context("benchmark", arguments).params
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--peers", "troch"], 1, "No peer 'troch'. --peers takes all, none, or some"),
        (["--peers", "torch", "resnext11_8x4d"], 1, "MODEL comes before it"),
        (["--peers", "all", "torch"], 1, "No peer 'all'"),
        (["--batch", "0"], 2, "0 is not in the range x>=1"),
        (["--batch"], 2, "requires an argument"),
        (["--batch", "--train"], 2, "'--train' is not a valid integer"),
        (["--size", "31"], 2, "31 is not in the range x>=32"),
        (["--rounds", "0"], 2, "0 is not in the range x>=1"),
        (["--plot", "nowhere/plot.png"], 1, "nowhere/plot.png"),
        (["--json", "nowhere/times.json"], 1, "nowhere/times.json"),
        (["--plot", "notes.txt"], 1, "ends in .png"),
        (["--json", "notes.txt"], 1, "notes.txt"),
        (["--plot", "mine.png"], 1, "mine.png exists; --overwrite"),
        (["--json", "mine.json"], 1, "mine.json exists; --overwrite"),
        (["resnext50"], 1, "Did you mean resnext50_32x4d"),
        (["--plot", "plot.png", "--json", "nowhere/times.json"], 1, "nowhere/times"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    tmp_path, monkeypatch, arguments, code, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "_answer", nothing_may_run)
    mine = ("mine.json", "mine.png", "notes.txt")
    for name in mine:
        (tmp_path / name).write_text("mine")
    result = run("benchmark", *arguments, code=code)
    assert told in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == list(mine)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_a_plot_needs_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "_answer", nothing_may_run)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("benchmark", "--plot", tmp_path / "plot.png", code=1)
    assert 'pip install "resnext-keras[bench]"' in result.stderr
    assert not (tmp_path / "plot.png").exists()


def nothing_may_run(*args):
    pytest.fail("a process was started before the input was checked")


def test_help_names_all_peers():
    text = " ".join(run("benchmark", "--help").stdout.split())
    assert all(name in text.replace("- ", "-") for name in PEERS)
