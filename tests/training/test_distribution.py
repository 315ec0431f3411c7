"""Training on several devices and machines is training on one."""

import json
import re
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from clusters import (
    PATIENCE,
    cluster_of_jax,
    cluster_of_tensorflow,
    finished,
    launched,
)
from helpers import SUPPORT

from resnext_keras import ResNeXtSpec
from resnext_keras.training import determinism, run
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.distribution import Devices, find_devices
from resnext_keras.training.recipes import RECIPES, adjusted
from resnext_keras.training.run import open_run
from resnext_keras.training.settings import Phase, Settings

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")
PROGRAM = SUPPORT / "training_program.py"


def start(folder, name, environment=None, **options):
    return launched([PROGRAM, folder, name, json.dumps(options)], environment)


# Of the largest of a variable. In float32 a shift, some 0.001 after so few steps,
# differs by what a ReLU makes of rounding, while the logs agree to 1e-5.
ROUNDED = 0.1


def check_same(found, expected, rtol, epochs=3, near=None):
    """The last epochs' logs agree, and the weights by their largest, or nearly."""
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert len(found[name]) == epochs
        np.testing.assert_allclose(found[name], expected[name][-epochs:], rtol=rtol)
    assert weights(found).keys() == weights(expected).keys()
    for name, weight in weights(expected).items():
        largest = np.abs(weight).max()
        atol = (near or rtol) * largest
        np.testing.assert_allclose(weights(found)[name], weight, rtol=rtol, atol=atol)


def weights(run):
    return {name: run[name] for name in run.files if name.startswith("arr_")}


def run_alone(tmp_path_factory, environment=None, **options):
    folder = tmp_path_factory.mktemp("one")
    finished(start(folder, "one", environment, **options))
    return np.load(folder / "one-0.npz")


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The run on one device; precise, so that rounding hides no mistake."""
    return run_alone(tmp_path_factory, floatx="float64")


@pytest.mark.long
def test_two_devices_train_as_one(tmp_path, one_device):
    options = {"virtual_devices": 2, "steps_per_execution": 3, "floatx": "float64"}
    finished(start(tmp_path, "two", **options))
    found = np.load(tmp_path / "two-0.npz")
    assert found["replicas"] == 2
    check_same(found, one_device, rtol=1e-7)


@pytest.mark.long
def test_replicas_drop_different_paths(tmp_path):
    workers = cluster_of_tensorflow()
    finished(*[start(tmp_path, "drop", w, drop_path_rate=0.2) for w in workers])
    first, second = (np.load(tmp_path / f"drop-{worker}.npz") for worker in (0, 1))
    assert (first["seeds"][0::2] != second["seeds"][0::2]).all()
    np.testing.assert_array_equal(first["seeds"][1::2], second["seeds"][1::2])
    for name, weight in weights(first).items():
        np.testing.assert_array_equal(weight, weights(second)[name])


@pytest.mark.long
def test_two_workers_train_as_one_also_after_one_is_killed(tmp_path, one_device):
    # The second worker is killed in the second epoch; the scheduler ends the first.
    dying = [
        start(tmp_path, "two", worker, dies_in=[1, 1], floatx="float64")
        for worker in cluster_of_tensorflow()
    ]
    check_ends(dying, tmp_path)
    restarted = [
        start(tmp_path, "two", worker, floatx="float64")
        for worker in cluster_of_tensorflow()
    ]
    check_goes_on(restarted, tmp_path, one_device, rtol=1e-7)


def check_ends(workers, folder):
    """The second worker dies in its second epoch; a scheduler ends the first."""
    assert workers[1].wait(timeout=PATIENCE) == -signal.SIGKILL
    workers[0].kill()
    for worker in workers:
        worker.communicate()
    assert [path.name for path in folder.iterdir()] == ["0.weights.h5"]


def check_goes_on(workers, folder, expected, rtol, near=None):
    """Both end as if nothing had been; the chief alone tells of it."""
    outputs = finished(*workers)
    assert "Epoch 3/3" in outputs[0]
    assert "Epoch" not in outputs[1]
    first, second = (np.load(folder / f"two-{worker}.npz") for worker in (0, 1))
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name])
    assert first["replicas"] == 2
    check_same(first, expected, rtol, epochs=2, near=near)


@pytest.fixture(scope="module")
def one_device_of_jax(tmp_path_factory):
    pytest.importorskip("jax")
    return run_alone(tmp_path_factory, {"KERAS_BACKEND": "jax"})


@pytest.mark.parity
def test_jax_trains_on_two_devices_as_on_one(tmp_path, one_device_of_jax):
    two = {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    (output,) = finished(start(tmp_path, "compiled", two))
    found = np.load(tmp_path / "compiled-0.npz")
    assert found["replicas"] == 2
    check_same(found, one_device_of_jax, rtol=1e-4, near=ROUNDED)

    # Gradients are summed; no image and no feature map goes to another device.
    compiled = output[output.index("HloModule") :]
    moved = set(
        re.findall(r"(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", compiled)
    )
    assert moved == {"all-reduce"}
    assert not re.search(rf"= \w+\[{8},\d+,\d+,\d+\]\S* convolution\(", compiled)


@pytest.mark.parity
def test_two_processes_of_jax_train_as_one_also_after_one_is_killed(
    tmp_path, one_device_of_jax
):
    dying = [start(tmp_path, "two", w, dies_in=[1, 1]) for w in cluster_of_jax()]
    check_ends(dying, tmp_path)
    restarted = [start(tmp_path, "two", worker) for worker in cluster_of_jax()]
    check_goes_on(restarted, tmp_path, one_device_of_jax, rtol=1e-4, near=ROUNDED)


NO_CLUSTERS = {
    "{": "Expecting property name",
    "[]": "no attribute",
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 2}}': "not in list",
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "ps"}}': "not in list",
    '{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 0}}': "len",
}


@pytest.mark.parametrize("config", NO_CLUSTERS)
def test_an_environment_that_is_no_cluster_is_refused(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=NO_CLUSTERS[config]) as caught:
        find_devices()
    assert f"Received: TF_CONFIG={config!r}" in str(caught.value)
    assert "Expected" in str(caught.value)


@pytest.mark.parametrize("config", ["", "{}", '{"cluster": {"worker": ["a:1"]}}'])
def test_one_device_needs_no_strategy(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    assert find_devices() == Devices(0, 1, 1, None)
    assert find_devices().is_chief


CLUSTER = {"TF_CONFIG": json.dumps({"cluster": {"worker": ["a:1", "b:1"]}})}
PROCESSES = {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}


@pytest.mark.parametrize(
    ("backend", "told", "remedy"),
    [
        ("tensorflow", PROCESSES, "jax"),
        ("torch", PROCESSES, "jax"),
        ("torch", CLUSTER, "tensorflow"),
        ("jax", CLUSTER, "tensorflow"),
    ],
)
def test_processes_that_this_backend_is_not_told_of_are_refused(
    monkeypatch, backend, told, remedy
):
    # Each would train alone, all into one folder.
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    ((name, value),) = told.items()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}.* take KERAS_BACKEND={remedy} or"):
        find_devices()


def test_a_batch_that_replicas_cannot_share_is_refused_before_anything_is_made(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(run, "find_devices", lambda: Devices(0, 1, 3, "any"))
    recipe = adjusted(RECIPES["cifar"], batch_size=12)
    settings = Settings("none", TINY, None, (Phase(recipe),), accumulate=3)
    with pytest.raises(ValueError, match=r"such as 3 or 6\. Received: batch_size=4"):
        open_run(settings, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_jax_on_a_gpu_is_to_be_told_as_it_starts_to_be_deterministic(monkeypatch):
    monkeypatch.setattr(determinism, "backend", "jax")
    gpu = types.SimpleNamespace(default_backend=lambda: "gpu")
    monkeypatch.setattr(determinism, "jax", gpu, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    with pytest.raises(ValueError, match=rf"^Expected {determinism.XLA_FLAG} in"):
        determinism.check_deterministic()
    monkeypatch.setenv("XLA_FLAGS", determinism.XLA_FLAG)
    determinism.check_deterministic()


def test_a_batch_that_replicas_cannot_share_is_refused():
    devices = Devices(worker=1, workers=2, replicas=4)
    assert not devices.is_chief
    devices.check_batch_size(8)
    with pytest.raises(ValueError, match=r"such as 8 or 12\. Received: batch_size=10"):
        devices.check_batch_size(10)
    with pytest.raises(ValueError, match=r"such as 4 or 8\. Received: batch_size=3"):
        devices.check_batch_size(3)


@pytest.mark.parametrize("count", [11, 12, 1])
def test_held_out_images_are_shared_evenly_and_count_once(count):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 6)).astype("float32")
    labels = rng.integers(0, 5, count).astype("int32")
    everything = ImageDataset(
        class_names=tuple("abcde"),
        labels=labels,
        names=[str(number) for number in range(count)],
        read=lambda number: tf.gather(images, number),
    )
    shares = []
    for worker in range(3):
        devices = Devices(worker, 3, 6, strategy="any")
        own = devices.share(everything)
        assert own.names == everything.names[worker::3]
        np.testing.assert_array_equal(own.labels, labels[worker::3])
        numbers = tf.data.Dataset.range(len(own))
        data = numbers.map(lambda n, own=own: (own.read(n), tf.gather(own.labels, n)))
        shares.append(devices.evenly(data.batch(2), count, 2))
    assert {len(share) for share in shares} == {-(-count // 6)}
    assert {share.element_spec[0].shape for share in shares} == {(2, 6)}

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    together = shares[0].concatenate(shares[1]).concatenate(shares[2])
    found = model.evaluate(together, verbose=0)
    expected = model.evaluate(images, labels, batch_size=count, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
