"""benchmarks/run.py measures in turn, and names what it could not measure."""

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import run
import keras
import numpy as np
import pytest
from run import CONTENDERS, PEERS, Contender, race, schedule

pytestmark = pytest.mark.tensorflow

HERE = {"PYTHONPATH": str(Path(__file__).parent)}
BY_NAME = {contender.name: contender for contender in CONTENDERS}
FACTS = {
    "device": "cpu",
    "backend": "tensorflow",
    "precision": "float32",
    "model": "resnext50_32x4d",
    "spec": {},
    "classes": 10,
    "size": 8,
    "threads": 3,
    "calls": 2,
    "seconds": 0,
}


def stand_in(function, name=None, kind="other", packages=(), **options):
    maker = f"stand_ins:{function}"
    return Contender(name or function, kind, maker, options, packages, {}, HERE)


def results_of(*contenders, rounds=1, time_limit=300, **facts):
    facts = FACTS | facts
    turns = schedule(contenders, facts, ["predict"], [1], rounds)
    turns = [turn for turn in turns if turn[0].kind != "floor"]
    return {r["contender"]: r for r in race(turns, facts, time_limit)}


def test_contenders_take_turns_each_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # the user's settings do not count
    path = tmp_path / "calls"
    marks = [stand_in("recorder", m, mark=m, path=str(path)) for m in "ab"]
    results = results_of(*marks, rounds=2)
    calls = [line.split() for line in path.read_text().splitlines()]
    turns = [len(list(calls)) for _, calls in itertools.groupby(c[1] for c in calls)]
    assert turns == [3] * 4  # two of three are counted
    assert [call[0] for call in calls[::3]] == ["a", "b"] * 2
    assert all(call[2:] == ["3", "tensorflow"] for call in calls)
    assert len(results["a"]["seconds"]) == 4
    assert len(results["a"]["first_seconds"]) == 2


def test_each_round_begins_with_the_floor_and_has_every_contender_for_a_task():
    pair = [BY_NAME["ours"], BY_NAME["predictor-tensorflow"]]
    turns = schedule(pair, FACTS, ["predict", "train"], [1, 8], 2)
    assert turns[:7] == turns[7:]
    assert [(c.name, task, batch) for c, task, batch in turns[:7]] == [
        ("floor", "floor", 1),
        ("ours", "predict", 1),
        ("predictor-tensorflow", "predict", 1),
        ("ours", "predict", 8),
        ("predictor-tensorflow", "predict", 8),
        ("ours", "train", 1),
        ("ours", "train", 8),
    ]


def test_times_and_memory_are_those_of_the_contender():
    large = b"x" * 400_000_000  # in the parent process, which must not count
    results = results_of(
        stand_in("sleeper", seconds=0.05),
        stand_in("holder", size=100_000_000),
        seconds=0.5,
    )
    sleeper, holder = results["sleeper"], results["holder"]
    assert len(sleeper["seconds"]) > 2  # calls go on until the seconds are over
    assert 0.05 <= min(sleeper["seconds"]) <= np.median(sleeper["seconds"]) < 0.2
    assert sleeper["first_seconds"][0] >= 0.05
    assert 90e6 < holder["peak_bytes"][0] - sleeper["peak_bytes"][0] < 110e6
    assert holder["peak_bytes"][0] < len(large)


def test_a_failure_is_named_and_the_others_go_on():
    start = time.perf_counter()
    results = results_of(
        stand_in("failure"),
        stand_in("crash"),
        stand_in("sleeper", seconds=60),
        Contender("gone", "other", "no_such_module:model"),
        stand_in("holder", size=1),
        rounds=2,
        time_limit=4,
    )
    assert time.perf_counter() - start < 30
    holder = results.pop("holder")
    reasons = {name: result["reason"] for name, result in results.items()}
    assert "no_such_module" in reasons.pop("gone")
    assert reasons == {
        "failure": "OSError: out of order",
        "crash": "ended with code 3",
        "sleeper": "took longer than 4 s",
    }
    assert not any(result["seconds"] for result in results.values())
    assert not holder["reason"]
    assert len(holder["first_seconds"]) == 2


@pytest.mark.parametrize(
    ("facts", "left_out"),
    [
        ({"model": "resnext101_32x8d"}, {"ours-torch-compile", "keras-applications"}),
        (
            {"backend": "jax", "precision": "bfloat16", "device": "gpu"},
            {name for name in BY_NAME if "-" in name and name not in PEERS}
            | {"torch-onnxruntime", "torch-openvino", "keras-applications"},
        ),
    ],
)
def test_who_takes_part_where_all_packages_are_installed(facts, left_out, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    facts = FACTS | facts
    assert {c.name for c in CONTENDERS if c.obstacle(facts)} == left_out


@pytest.mark.long
def test_the_script_prints_what_it_writes(tmp_path, capsys):
    path = tmp_path / "times.json"
    run.main(
        [
            *("resnext11_8x4d", "--size", "32", "--batch", "2", "--rounds", "1"),
            *("--calls", "3", "--json", str(path)),
        ],
        [
            BY_NAME["ours"],
            stand_in("sleeper", kind="torch", seconds=0.001),
            stand_in("failure"),
            stand_in("crash", packages=("no_such_package",)),
        ],
    )
    out, err = capsys.readouterr()
    assert "Left out: crash, which needs no_such_package" in err
    assert "2 of 4: ours, predict 2" in err
    report = json.loads(path.read_text())
    assert report["size"] == 32
    assert f"`{report['command']}`" in out
    assert f"keras {keras.__version__}" in out
    ours = next(r for r in report["results"] if r["contender"] == "ours")
    assert ours["peak_bytes"][0] > 1e8  # at least TensorFlow's
    lines = [line for line in out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    columns = dict(zip(rows[0], zip(*rows[2:], strict=True), strict=True))
    assert columns["contender"][:3] == ("ours", "sleeper", "failure")
    assert columns["contender"][3].startswith("floor, ")
    median = 1000 * np.median(ours["seconds"])
    assert float(columns["median"][0].removesuffix(" ms")) == pytest.approx(
        median, 0.01
    )
    assert columns["ratio"][1] == "1.00"
    assert columns["failed"][2] == "OSError: out of order"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "troch"], "invalid choice: 'troch'"),
        (["--json", "mine.json"], "Received: mine.json"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_timed(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text("mine")
    with pytest.raises(SystemExit) as caught:
        run.main(arguments, [])
    assert message in f"{caught.value} {capsys.readouterr().err}"
    assert Path("mine.json").read_text() == "mine"


def test_stock_keras_is_the_same_network_without_our_layers(relative_error):
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
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], PEERS),
        (
            ["--train", "--precision", "bfloat16", "--backend", "torch"],
            ("ours", "torch"),
        ),
    ],
)
def test_peers_run(tmp_path, arguments, names):
    path = tmp_path / "times.json"
    run.main(
        [
            *("--size", "64", "--batch", "1", "--rounds", "1", "--calls", "1"),
            *("--json", str(path), *arguments),
        ],
        [BY_NAME[name] for name in names],
    )
    report = json.loads(path.read_text())
    assert {r["contender"] for r in report["results"]} == {"floor", *names}
    for result in report["results"]:
        assert not result["reason"]
        assert 0 < result["seconds"][0] < 60
