"""benchmarks/run.py measures in turn, and names what it could not measure."""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import run
from PIL import Image
from run import CONTENDERS, PEERS, Contender, race, schedule

import resnext_keras as rk

pytestmark = pytest.mark.tensorflow

HERE = {"PYTHONPATH": str(Path(__file__).parent)}
BY_NAME = {contender.name: contender for contender in CONTENDERS}
FACTS = {
    "device": "cpu",
    "backend": "tensorflow",
    "model": "resnext50_32x4d",
    "spec": {},
    "classes": 10,
    "size": 8,
    "threads": 3,
    "calls": 2,
    "seconds": 0,
}


TINY = SimpleNamespace(
    spec={"name": "tiny", "depths": [1], "cardinality": 4, "group_width": 4},
    size=32,
    classes=5,
)


def stand_in(function, name=None, kind="other", packages=(), **options):
    maker = f"stand_ins:{function}"
    return Contender(name or function, kind, maker, options, packages, {}, HERE)


def results_of(*contenders, rounds=1, time_limit=300, **facts):
    facts = FACTS | facts
    turns = schedule(contenders, facts, ["predict"], [1], ["float32"], rounds)
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


def test_each_round_begins_with_the_floors_and_has_every_contender_for_a_task():
    only = {"task": ("predict",), "precision": ("float32",)}
    pair = [BY_NAME["ours"], Contender("exact", "other", "module:function", only=only)]
    precisions = ["float32", "bfloat16"]
    turns = schedule(pair, FACTS, ["predict", "train"], [1, 8], precisions, 2)
    assert turns[:12] == turns[12:]
    assert [(c.name, *case) for c, *case in turns[:12]] == [
        ("floor", "floor", 1, "float32"),
        ("floor", "floor", 1, "bfloat16"),
        ("ours", "predict", 1, "float32"),
        ("exact", "predict", 1, "float32"),
        ("ours", "predict", 1, "bfloat16"),
        ("ours", "predict", 8, "float32"),
        ("exact", "predict", 8, "float32"),
        ("ours", "predict", 8, "bfloat16"),
        ("ours", "train", 1, "float32"),
        ("ours", "train", 1, "bfloat16"),
        ("ours", "train", 8, "float32"),
        ("ours", "train", 8, "bfloat16"),
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


OF_OTHER_BACKENDS = {n for n in BY_NAME if "-" in n and n not in PEERS}
OF_FLOAT32_OR_CPU = {"torch-onnxruntime", "torch-openvino", "keras-applications"}


@pytest.mark.parametrize(
    ("facts", "left_out"),
    [
        ({"model": "resnext101_32x8d"}, {"ours-torch-compile", "keras-applications"}),
        (
            {"precision": "bfloat16"},
            {"ours-without-onednn", "ours-jit-compile", "ours-torch-compile"}
            | {"predictor-onnxruntime", "torch-onnxruntime", "keras-applications"},
        ),
        (
            {"backend": "jax", "precision": "bfloat16", "device": "gpu"},
            OF_OTHER_BACKENDS | OF_FLOAT32_OR_CPU,
        ),
        (
            {"backend": "torch", "precision": "tf32", "device": "gpu"},
            (OF_OTHER_BACKENDS | OF_FLOAT32_OR_CPU) - {"ours-torch-compile"},
        ),
    ],
)
def test_who_takes_part_where_all_packages_are_installed(facts, left_out, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    facts = FACTS | facts
    assert {c.name for c in CONTENDERS if c.obstacle(facts)} == left_out


@pytest.mark.long
def test_the_script_prints_what_it_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run.main(
        [
            *("resnext11_8x4d", "--size", "32", "--batch", "2", "--rounds", "1"),
            *("--calls", "3", "--precision", "float32", "bfloat16", "tf32", "--cpu"),
        ],
        [
            BY_NAME["ours"],
            stand_in("sleeper", kind="torch", seconds=0.001),
            stand_in("failure"),
            stand_in("crash", packages=("no_such_package",)),
        ],
    )
    out, err = capsys.readouterr()
    assert "Left out: tf32, which is for a GPU" in err
    assert "Left out: crash in bfloat16, which needs no_such_package" in err
    assert "3 of 8: ours, predict, 2, float32" in err
    [path] = tmp_path.glob("*-resnext11_8x4d-tensorflow-cpu.json")
    report = json.loads(path.read_text())
    assert report["size"] == 32
    assert f"`{report['command']}`" in out
    assert f"keras {keras.__version__}" in out
    assert f"Not compared with torch: {report['agreement']['reason']}" in out
    with Image.open(path.with_suffix(".png")) as plot:
        assert plot.width == 1600
    ours = next(r for r in report["results"] if r["contender"] == "ours")
    assert ours["precision"] == "float32"
    assert ours["peak_bytes"][0] > 1e8  # at least TensorFlow's
    table, others = out.split("Prediction, batch of 2, ")[1:]
    assert table.startswith("float32:")
    assert others.startswith("bfloat16:")
    lines = [line for line in table.splitlines() if line.startswith("|")]
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


def test_no_file_is_overwritten_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"date": "2026-11-30", "model": "resnext50_32x4d", "backend": "jax"}
    report = {**names, "device": "gpu", "device_name": "NVIDIA H200 (MIG 1g.18gb)"}
    stem = "2026-11-30-resnext50_32x4d-jax-nvidia-h200-mig-1g-18gb"
    assert run.new_file(report) == Path(f"{stem}.json")
    Path(f"{stem}.json").touch()
    Path(f"{stem}-1.png").touch()
    assert run.new_file(report) == Path(f"{stem}-2.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "troch"], "invalid choice: 'troch'"),
        (["--json", "mine.json"], "Received: mine.json"),
        (["--precision", "float64"], "invalid choice: 'float64'"),
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_floor_is_measured_in_each_precision(tmp_path, precision):
    floor = dataclasses.replace(run.floor("cpu"), options={"side": 64})
    facts = FACTS | {"task": "floor", "batch": 1, "precision": precision}
    assert run.ask_worker(floor, facts, str(tmp_path))["seconds"][0] > 0


def test_a_network_is_timed_with_all_that_a_trained_one_adds():
    """TensorFlow drops the addition of zeros, as after a new network's kernels."""
    import ours

    network = ours.build(TINY)
    folded = rk.fold_batch_norm(network)
    biases = [x.bias for x in folded.layers if isinstance(x, keras.layers.Conv2D)]
    assert len(biases) == 1 + 4  # the stem, and a block with a projection
    assert all(np.abs(bias).min() > 0 for bias in biases)


def test_stock_keras_is_the_same_network_without_our_layers(relative_error):
    import ours

    network = ours.build(TINY)
    stock = keras.models.clone_model(network, clone_function=ours.stock_layer)
    assert any(type(x).__module__.startswith("resnext_keras") for x in network.layers)
    assert all(type(x).__module__.startswith("keras.") for x in stock.layers)
    stock.set_weights(network.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    assert relative_error(stock(images), network(images)) <= 1e-5


@pytest.fixture
def as_torch(monkeypatch):
    """Compares a network with torch's at 32 x 32 pixels, on a backend's CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def compare(backend, name="resnext50_32x4d", **options):
        network = run.ask(["ours.py", name, "32"], {"KERAS_BACKEND": backend})
        return run.compare({**network, "backend": backend, "threads": 1}, **options)

    return compare


def assert_agrees(found, library):
    assert found["library"] == library
    assert 0 < found["logits"] < run.TOLERANCES["logits"]
    assert 0 < found["gradients"] < run.TOLERANCES["gradients"]


@pytest.mark.parity
def test_the_network_that_is_timed_on_jax_is_torchs(as_torch):
    assert_agrees(as_torch("jax"), "torchvision")


@pytest.mark.parity
@pytest.mark.parametrize("mistake", ["one_other_weight", "other_labels"])
def test_nothing_is_timed_of_a_network_that_is_not_torchs(as_torch, mistake):
    with pytest.raises(RuntimeError, match="expected at most"):
        as_torch("tensorflow", ours=f"stand_ins:{mistake}")


def test_a_network_that_torch_lacks_is_not_compared(as_torch):
    reason = as_torch("tensorflow", "resnext29_8x64d")["reason"]
    assert "neither torchvision nor timm has" in reason or "needs torch" in reason


@pytest.mark.parity
@pytest.mark.parametrize(
    ("model", "arguments", "names", "library"),
    [
        # torch-channels-last-compile does what torch-compile does, and more.
        (
            "resnext50_32x4d",
            [],
            [name for name in PEERS if name != "torch-compile"],
            "torchvision",
        ),
        (
            "seresnext50_32x4d",
            ["--train", "--precision", "bfloat16", "--backend", "torch"],
            ["ours", "torch"],
            "timm",
        ),
    ],
)
def test_peers_run_beside_a_network_that_is_torchs(
    tmp_path, monkeypatch, model, arguments, names, library
):
    monkeypatch.setattr(run, "count_processors", lambda: 1)  # as many as a worker has
    path = tmp_path / "times.json"
    run.main(
        [
            *(model, "--size", "64", "--batch", "1", "--rounds", "1", "--calls", "1"),
            *("--json", str(path), *arguments),
        ],
        [BY_NAME[name] for name in names],
    )
    report = json.loads(path.read_text())
    assert_agrees(report["agreement"], library)
    assert {r["contender"] for r in report["results"]} == {"floor", *names}
    for result in report["results"]:
        assert not result["reason"]
        assert 0 < result["seconds"][0] < 60
