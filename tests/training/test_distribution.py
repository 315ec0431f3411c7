"""Training on several devices is training on one; what they cannot do is refused."""

import json
import os
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from helpers import SUPPORT
from weight_files import TINY

import resnext_keras as rk
from resnext_keras.training import distribution
from resnext_keras.training.distribution import XLA_FLAG, Devices, find_devices
from resnext_keras.training.recipes import get_recipe
from resnext_keras.training.settings import Phase, Settings


def train_on_two(folder, epochs, virtual, rtol, **environment):
    """Trains on one device and on two; checks that both end the same.

    The difference of each variable is relative to what training changed in it.
    """
    program = SUPPORT / "training_program.py"
    done = subprocess.run(
        [sys.executable, program, folder, str(epochs), str(virtual)],
        env=os.environ
        | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": os.pathsep.join(sys.path)}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replicas: 2" in done.stdout
    start, one, two = (
        np.load(folder / f"{name}.npz") for name in ("start", "one", "all")
    )
    assert one.files == two.files
    assert "arr_20" in start.files
    for name in start.files:
        changed = np.linalg.norm(one[name] - start[name])
        assert changed > 0
        assert np.linalg.norm(two[name] - one[name]) < rtol * changed, name
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert len(one[name]) == epochs
        np.testing.assert_allclose(two[name], one[name], rtol=rtol)
    return done.stdout


@pytest.mark.long
@pytest.mark.tensorflow
def test_two_devices_train_as_one_and_drop_different_paths(tmp_path):
    train_on_two(tmp_path, 3, 2, rtol=1e-7)
    seeds = np.load(tmp_path / "seeds.npy")
    first, second = seeds[0::2], seeds[1::2]
    assert len(first) > 0
    assert (first[:, 0] != second[:, 0]).all()
    np.testing.assert_array_equal(first[:, 1], second[:, 1])


@pytest.mark.parity
def test_two_devices_of_jax_train_as_one_and_exchange_only_gradients(tmp_path):
    pytest.importorskip("jax")
    jax = {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    # On JAX Keras computes batch norm in float32, so that rounding may switch a ReLU.
    # Eight seeds differed by up to 6e-3; wrong gradients would differ by far more.
    output = train_on_two(tmp_path, 1, 0, rtol=0.02, **jax, **two)
    # Gradients are summed; no image and no feature map goes to another device.
    compiled = output[output.index("HloModule") :]
    moved = re.findall(
        r"(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", compiled
    )
    assert set(moved) == {"all-reduce"}
    # No map of all eight images; the gradient of a kernel is [8, 1, 1, 256].
    maps = r"= \w+\[8,(?!1,1,)\d+,\d+,\d+\]\S* convolution\("
    assert not re.search(maps, compiled)


@pytest.mark.parametrize("config", ["", "{}", '{"cluster": {"worker": ["a:1"]}}'])
def test_one_device_needs_no_strategy(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    assert find_devices() == Devices(0, 1, 1, None)


THREE = json.dumps({"cluster": {"chief": ["c:1"], "worker": ["a:1", "b:1"]}})


@pytest.mark.parametrize(
    ("backend", "variable", "value", "message"),
    [
        # Each would train alone, all into one folder.
        ("tensorflow", "TF_CONFIG", THREE, "KERAS_BACKEND=jax.*TF_CONFIG of 3 workers"),
        ("jax", "TF_CONFIG", THREE, "KERAS_BACKEND=jax.*TF_CONFIG of 3 workers"),
        ("torch", "KERAS_DISTRIBUTION_NUM_PROCESSES", "2", "KERAS_BACKEND=jax"),
    ],
)
def test_several_processes_need_jax_and_its_variables(
    monkeypatch, backend, variable, value, message
):
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        find_devices()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("replicas", "batch_size", "options", "message"),
    [
        (2, 12, {"accumulate": 3}, "`accumulate` of 1 on 2 .*KERAS_BACKEND=jax"),
        (2, 12, {"steps_per_execution": 3}, "`steps_per_execution` of 1 on 2 "),
        (3, 4, {}, r"such as 3 or 6\. Received: batch_size=4"),
        (4, 10, {}, r"such as 8 or 12\. Received: batch_size=10"),
        (4, 3, {}, r"such as 4 or 8\. Received: batch_size=3"),
    ],
)
def test_what_several_devices_cannot_do_is_refused_before_anything_is_made(
    monkeypatch, tmp_path, replicas, batch_size, options, message
):
    devices = [types.SimpleNamespace(name=f"GPU:{n}") for n in range(replicas)]
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda _: devices)
    monkeypatch.setattr("tensorflow.distribute.MirroredStrategy", lambda _: "any")
    options |= {"recipe": "cifar", "batch_size": batch_size}
    with pytest.raises(ValueError, match=message):
        rk.train("none", tmp_path / "run", TINY, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorflow
@pytest.mark.parametrize("is_fast", [True, False])
def test_bfloat16_on_a_processor_without_it_gets_a_warning(
    monkeypatch, caplog, is_fast
):
    monkeypatch.setattr(distribution, "has_fast_bfloat16", lambda: is_fast)
    phases = (Phase(get_recipe("paper")),)
    Devices().check(Settings("none", TINY, None, phases))
    assert not caplog.messages
    Devices().check(Settings("none", TINY, None, phases, precision="mixed_bfloat16"))
    assert ("No fast bfloat16 was found here" in caplog.text) == (not is_fast)


def test_parts_of_a_batch_are_shared_evenly_too(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    settings = Settings("none", TINY, None, (Phase(get_recipe("paper")),), accumulate=2)
    Devices(replicas=64).check(settings)  # a batch of 256
    message = r"in 2 parts, such as 192 or 288\. .*batch_size=256, accumulate=2"
    with pytest.raises(ValueError, match=message):
        Devices(replicas=48).check(settings)


def test_jax_on_a_gpu_needs_a_flag_to_be_deterministic(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    gpu = types.SimpleNamespace(default_backend=lambda: "gpu")
    monkeypatch.setattr(distribution, "jax", gpu, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    with pytest.raises(ValueError, match=rf"^Expected {XLA_FLAG} in"):
        distribution.check_deterministic()
    monkeypatch.setenv("XLA_FLAGS", XLA_FLAG)
    distribution.check_deterministic()
