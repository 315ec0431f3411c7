"""`resnext-keras benchmark` measures what it says, and tells what it could not."""

import ast
import itertools
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from test_cli import run

from resnext_keras.benchmark import rounds
from resnext_keras.benchmark.contenders import (
    CONTENDERS,
    MATRIX_PRODUCT,
    PEERS,
    Contender,
)
from resnext_keras.benchmark.plot import plot
from resnext_keras.benchmark.report import Report, in_seconds
from resnext_keras.benchmark.rounds import Run, Series, Settings, measure, schedule
from resnext_keras.specs import get_spec
from resnext_keras_cli.benchmark import benchmark

HERE = {"PYTHONPATH": str(Path(__file__).parent)}
BY_NAME = {contender.name: contender for contender in CONTENDERS}


def stand_in(function, options=None, name=None, kind="other", **fields):
    """A contender of stand_ins.py."""
    name = name or function
    maker = f"stand_ins:{function}"
    fields = {"environment": HERE} | fields
    return Contender(name, f"stand-in {name}", kind, maker, options or {}, **fields)


def race(*entrants, turns=1, model="resnext11_8x4d", size=32, **settings):
    """What the entrants give at predicting one image, by name."""
    settings = {"calls": 2, "seconds": 0} | settings
    runs = schedule(entrants, ["predict"], [1], turns)
    found = measure(
        [run for run in runs if run.contender is not MATRIX_PRODUCT],
        Settings(get_spec(model), size, **settings),
    )
    return {series.run.contender.name: series for series in found}


def test_contenders_take_turns_each_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "calls"
    found = race(
        *(stand_in("recorder", {"mark": m, "path": str(path)}, m) for m in "ab"),
        turns=3,
    )
    calls = [line.split() for line in path.read_text().splitlines()]
    turns = [(pid, len(list(g))) for pid, g in itertools.groupby(c[1] for c in calls)]
    assert len({pid for pid, _ in turns}) == 6
    assert [length for _, length in turns] == [3] * 6  # the first is not counted
    assert [mark for mark, _ in calls[::3]] == ["a", "b"] * 3
    assert len(found["a"].calls) == 6
    assert len(found["a"].first) == 3


def test_schedule_begins_each_round_with_the_floor_and_leaves_nobody_idle():
    pair = [BY_NAME["ours"], BY_NAME["predictor-tensorflow"]]
    runs = schedule(pair, ["predict", "train"], [1, 8], 2)
    assert runs[: len(runs) // 2] == runs[len(runs) // 2 :]
    assert [(r.contender.name, r.task, r.batch) for r in runs[1 : len(runs) // 2]] == [
        ("ours", "predict", 1),
        ("predictor-tensorflow", "predict", 1),
        ("ours", "predict", 8),
        ("predictor-tensorflow", "predict", 8),
        ("ours", "train", 1),
        ("ours", "train", 8),
    ]
    assert runs[0].contender is MATRIX_PRODUCT


def test_times_and_memory_are_those_of_the_contender():
    large = b"x" * 400_000_000  # The process that asks is larger than those asked.
    found = race(
        stand_in("sleeper", {"seconds": 0.05}),
        stand_in("holder", {"size": 100_000_000}),
        calls=3,
    )
    assert len(large) > max(found["holder"].memory)
    assert 0.05 <= min(found["sleeper"].calls) <= max(found["sleeper"].calls) < 0.2
    assert found["sleeper"].first[0] >= 0.05
    extra = found["holder"].memory[0] - found["sleeper"].memory[0]
    assert 90e6 < extra < 110e6


def test_fast_ones_go_on_until_two_seconds_are_filled():
    found = race(stand_in("sleeper", {"seconds": 0.01}), calls=2, seconds=0.3)
    assert 10 <= len(found["sleeper"].calls) <= 30


def test_the_slow_have_one_turn():
    paces = {"fast": 0.02, "near": 0.04, "far": 0.2}
    found = race(
        *(stand_in("sleeper", {"seconds": s}, name) for name, s in paces.items()),
        turns=2,
    )
    assert {name: len(found[name].first) for name in paces} == {
        "fast": 2,
        "near": 2,
        "far": 1,
    }


def test_who_fails_says_why_and_the_others_go_on():
    start = time.perf_counter()
    found = race(
        stand_in("failure"),
        stand_in("crash"),
        stand_in("sleeper", {"seconds": 60}),
        Contender("gone", "gone", "other", "no_such_module:model"),
        stand_in("holder", {"size": 1}),
        turns=2,
        time_limit=2,
    )
    assert time.perf_counter() - start < 20
    assert found["failure"].reason == "OSError: out of order"
    assert found["crash"].reason == "ended with code 3"
    assert found["sleeper"].reason == "took longer than 2 s"
    assert "no_such_module" in found["gone"].reason
    assert not any(found[n].calls for n in ("failure", "crash", "sleeper", "gone"))
    assert not found["holder"].reason
    assert len(found["holder"].first) == 2


def test_all_are_asked_the_same_whatever_the_user_has_set(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    paths = [tmp_path / name for name in ("on", "off")]
    entrants = [
        stand_in(
            "settings",
            {"path": str(path)},
            name=path.name,
            environment=HERE | BY_NAME[name].environment,
        )
        for path, name in zip(paths, ("ours", "ours-without-onednn"), strict=True)
    ]
    race(*entrants, threads=3)
    asked = [ast.literal_eval(path.read_text()) for path in paths]
    assert [a.pop("TF_ENABLE_ONEDNN_OPTS") for a in asked] == ["1", "0"]
    assert [a.pop("options") for a in asked] == [{"path": str(p)} for p in paths]
    assert asked[0] == asked[1]
    assert asked[0]["OMP_NUM_THREADS"] == "3"
    assert asked[0]["KERAS_BACKEND"] == "tensorflow"


def series(contender, seconds, task="predict", batch=8, reason=""):
    first = [2.5, 1.5] if seconds else []
    memory = [2**30] if seconds else []
    return Series(Run(contender, task, batch), seconds, first, memory, reason)


def report(*found):
    facts = {
        "model": "resnext50_32x4d",
        "size": 224,
        "multiply_adds": 4_230_479_872,
        "gflops": 400.0,
        "threads": 2,
        "machine": {"processor": "a processor"},
    }
    return Report(facts, found)


def test_rows_hold_quartiles_ratios_and_the_floor():
    seconds = [0.31, 0.25, 0.4, 0.27, 0.29]
    ours, *torchs = (BY_NAME[n] for n in ("ours", "torch", "torch-channels-last"))
    panels = report(
        series(MATRIX_PRODUCT, [0.1]),
        series(ours, seconds),
        series(torchs[0], [0.4, 0.4]),
        series(torchs[1], [0.2]),
        series(BY_NAME["keras"], [], reason="took longer than 300 s"),
        series(ours, [1.0], "train", 1),
    ).panels
    assert [panel.title for panel in panels] == [
        "Prediction, batch of 8",
        "Training step, batch of 1",
    ]
    row, _, fastest, failed, floor = panels[0].rows
    assert [row.low, row.median, row.high] == list(np.percentile(seconds, [25, 50, 75]))
    assert row.ratio == pytest.approx(0.29 / 0.2)
    assert row.images == pytest.approx(8 / 0.29)
    assert (row.memory, row.first) == (2**30, 2.5)
    assert [fastest.low, fastest.ratio] == [0.2, 1]
    assert (failed.median, failed.reason) == (None, "took longer than 300 s")
    # 4.23 G multiply-adds an image, as `resnext-keras summary` has them.
    assert floor.median == pytest.approx(8 * 2 * 4.230479872 / 400)
    alone, floor = panels[1].rows
    assert (alone.ratio, floor.ratio) == (None, None)
    assert floor.median == pytest.approx(3 * 2 * 4.230479872 / 400)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([0.000589], "0.589 ms"),
        ([0.0023], "2.30 ms"),
        ([0.283], "283 ms"),
        ([0.9996], "1.00 s"),
        ([45.26], "45.3 s"),
        ([283.2], "283 s"),
        ([0.98, 1.02], "0.980 to 1.02 s"),
    ],
)
def test_times_have_three_digits(seconds, told):
    assert in_seconds(*seconds) == told


def test_plot_gives_each_table_a_panel_that_no_straggler_squashes(
    tmp_path, monkeypatch
):
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig

    def keep(figure, *args, **options):
        drawn.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    paces = {"ours": 0.2, "torch": 0.25, "torch-compile": 0.22, "keras": 45.0}
    found = [
        series(BY_NAME[name], [0.9 * pace, pace, 1.1 * pace], task, batch)
        for task in ("predict", "train")
        for batch in (1, 8)
        for name, pace in paces.items()
    ]
    found.append(series(BY_NAME["keras-applications"], [], reason="no memory"))
    path = tmp_path / "plot.png"
    plot(report(*found), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size[0] == 1600
        assert 500 < image.size[1] < 2000
    (figure,) = drawn
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_xlim()[1] < 1
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == [BY_NAME[name].label for name in sorted(paces, key=paces.get)]
        assert any(text.get_text() == " 45.0 s" for text in axes.texts)


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
    start = time.perf_counter()
    result = run(
        *("benchmark", "resnext11_8x4d", "--batch", 2, "--rounds", 1, "--calls", 3),
        *("--json", files["times.json"], "--plot", files["times.png"]),
    )
    elapsed = time.perf_counter() - start
    assert "stand-in crash, which needs no_such_package: pip install" in result.stderr
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
        (["resnext50"], 1, "Did you mean resnext50_32x4d"),
    ],
)
def test_bad_input_is_told_before_anything_runs(
    tmp_path, monkeypatch, arguments, code, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "_answer", nothing_may_run)
    result = run("benchmark", *arguments, code=code)
    assert told in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert result.stdout == ""


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


def test_with_a_gpu_what_runs_on_processors_alone_is_left_out():
    left_out = {c.name for c in CONTENDERS if c.obstacle("resnext50_32x4d", "gpu")}
    assert {"predictor-openvino", "torch-openvino", "ours-without-onednn"} <= left_out
    assert not {"ours", "ours-jit-compile", "predictor-tensorflow"} & left_out


def test_keras_applications_has_but_two_networks():
    contender = BY_NAME["keras-applications"]
    if not contender.obstacle("resnext50_32x4d", "cpu"):
        assert "has no" in contender.obstacle("resnext101_32x8d", "cpu")


def test_stock_keras_is_the_same_network_without_our_layers(
    monkeypatch, relative_error
):
    monkeypatch.syspath_prepend(str(Path(rounds.__file__).with_name("worker")))
    import ours

    work = SimpleNamespace(
        spec={"name": "tiny", "depths": [1], "cardinality": 4, "group_width": 4},
        size=32,
        classes=5,
    )
    network = ours.build(work)
    stock = keras.models.clone_model(network, clone_function=ours.stock_layer)
    assert any(type(x).__module__.startswith("resnext_keras") for x in network.layers)
    assert all(type(x).__module__.startswith("keras.") for x in stock.layers)
    stock.set_weights(network.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    assert relative_error(stock(images), network(images)) <= 1e-5


@pytest.mark.parity
def test_all_peers_run():
    peers = [c for c in CONTENDERS if c.name in PEERS]
    found = race(*peers, model="resnext50_32x4d", size=64, calls=1)
    assert set(found) == set(PEERS)
    for series in found.values():
        assert not series.reason
        assert 0 < series.calls[0] < 10
