"""Training on several devices and machines is training on one."""

import json
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from clusters import finished, launched
from helpers import SUPPORT

from resnext_keras import ResNeXtSpec
from resnext_keras.training import distribution, run
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.distribution import XLA_FLAG, Devices, find_devices
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


def check_same(found, expected, rtol, near=None):
    """The logs agree, and the weights by their largest, or nearly."""
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol)
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
    return np.load(folder / "one.npz")


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The run on one device; precise, so that rounding hides no mistake."""
    return run_alone(tmp_path_factory, floatx="float64")


@pytest.mark.long
def test_two_devices_train_as_one(tmp_path, one_device):
    options = {"virtual_devices": 2, "floatx": "float64"}
    finished(start(tmp_path, "two", **options))
    found = np.load(tmp_path / "two.npz")
    assert found["replicas"] == 2
    check_same(found, one_device, rtol=1e-7)


@pytest.mark.long
def test_replicas_drop_different_paths(tmp_path):
    finished(start(tmp_path, "drop", virtual_devices=2, drop_path_rate=0.2))
    seeds = np.load(tmp_path / "drop.npz")["seeds"]
    first, second = seeds[0::2], seeds[1::2]
    assert len(first) > 0
    assert (first[:, 0] != second[:, 0]).all()
    np.testing.assert_array_equal(first[:, 1], second[:, 1])


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
    found = np.load(tmp_path / "compiled.npz")
    assert found["replicas"] == 2
    check_same(found, one_device_of_jax, rtol=1e-4, near=ROUNDED)

    # Gradients are summed; no image and no feature map goes to another device.
    compiled = output[output.index("HloModule") :]
    moved = set(
        re.findall(r"(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", compiled)
    )
    assert moved == {"all-reduce"}
    assert not re.search(rf"= \w+\[{8},\d+,\d+,\d+\]\S* convolution\(", compiled)


@pytest.mark.parametrize("config", ["", "{}", '{"cluster": {"worker": ["a:1"]}}'])
def test_one_device_needs_no_strategy(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    assert find_devices() == Devices(0, 1, 1, None)
    assert find_devices().is_chief


@pytest.mark.parametrize("backend", ["tensorflow", "torch", "jax"])
def test_several_workers_of_tensorflow_are_refused(monkeypatch, backend):
    # Each would train alone, all into one folder.
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    cluster = {"cluster": {"chief": ["c:1"], "worker": ["a:1", "b:1"]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=jax.*TF_CONFIG of 3 workers"):
        find_devices()


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_several_processes_need_jax(monkeypatch, backend):
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match=r"_NUM_PROCESSES in .*KERAS_BACKEND=jax"):
        find_devices()


@pytest.mark.tensorflow
@pytest.mark.parametrize("option", ["accumulate", "steps_per_execution"])
def test_what_several_devices_of_tensorflow_cannot_do_is_refused_first(
    monkeypatch, tmp_path, option
):
    monkeypatch.setattr(run, "find_devices", lambda: Devices(0, 1, 2, "any"))
    phases = (Phase(adjusted(RECIPES["cifar"], batch_size=12)),)
    settings = Settings("none", TINY, None, phases, **{option: 3})
    with pytest.raises(ValueError, match=rf"`{option}` of 1 on 2 .*KERAS_BACKEND=jax"):
        open_run(settings, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_batch_that_replicas_cannot_share_is_refused_before_anything_is_made(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(run, "find_devices", lambda: Devices(0, 1, 3, "any"))
    recipe = adjusted(RECIPES["cifar"], batch_size=4)
    settings = Settings("none", TINY, None, (Phase(recipe),))
    with pytest.raises(ValueError, match=r"such as 3 or 6\. Received: batch_size=4"):
        open_run(settings, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_jax_on_a_gpu_needs_a_flag_to_be_deterministic(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    gpu = types.SimpleNamespace(default_backend=lambda: "gpu")
    monkeypatch.setattr(distribution, "jax", gpu, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    with pytest.raises(ValueError, match=rf"^Expected {XLA_FLAG} in"):
        distribution.check_deterministic()
    monkeypatch.setenv("XLA_FLAGS", XLA_FLAG)
    distribution.check_deterministic()


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
        shares.append(devices.pad_last_batch(data.batch(2), count, 2))
    assert {len(share) for share in shares} == {-(-count // 6)}
    assert {share.element_spec[0].shape for share in shares} == {(2, 6)}

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    together = shares[0].concatenate(shares[1]).concatenate(shares[2])
    found = model.evaluate(together, verbose=0)
    expected = model.evaluate(images, labels, batch_size=count, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
