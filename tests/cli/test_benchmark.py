"""The rounds of a benchmark measure what they say, and tell what they could not."""

import ast
import dataclasses
import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import SUPPORT

from resnext_keras.benchmark import rounds
from resnext_keras.benchmark.contenders import (
    CONTENDERS,
    MATRIX_PRODUCT,
    PEERS,
    Contender,
)
from resnext_keras.benchmark.rounds import Settings, measure, schedule
from resnext_keras.models.specs import get_spec

pytestmark = pytest.mark.tensorflow

HERE = {"PYTHONPATH": str(SUPPORT)}
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


@pytest.mark.parametrize(
    ("device", "model", "left_out"),
    [
        ("cpu", "resnext50_32x4d", set()),
        ("cpu", "resnext101_32x8d", {"keras-applications"}),
        (
            "gpu",
            "resnext50_32x4d",
            {
                *("ours-without-onednn", "predictor-onnxruntime", "predictor-openvino"),
                *("torch-onnxruntime", "torch-openvino"),
            },
        ),
    ],
)
def test_who_is_left_out_where_all_is_installed(device, model, left_out):
    installed = [dataclasses.replace(c, packages=(), programs=()) for c in CONTENDERS]
    assert {c.name for c in installed if c.obstacle(model, device)} == left_out


def test_what_is_missing_is_told():
    contender = dataclasses.replace(BY_NAME["torch"], packages=("numpy", "no_such"))
    assert contender.obstacle("resnext50_32x4d", "cpu") == (
        'needs no_such: pip install "resnext-keras[bench]"'
    )
    contender = dataclasses.replace(contender, packages=(), programs=("no-such-g++",))
    told = contender.obstacle("resnext50_32x4d", "cpu")
    assert told == "needs the program no-such-g++"


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
