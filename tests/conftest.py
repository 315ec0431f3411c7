"""The fixtures that several tests share."""

import dataclasses
import functools
import gc
import hashlib
import io
import json
import os
import sys
import tarfile

import keras
import numpy as np
import pytest
from helpers import GOLDEN
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_sample_images

import resnext_keras
from resnext_keras import convert_weights, export_saved_model
from resnext_keras.digits import held_out_digits
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.weights.registry import WEIGHT_SETS
from resnext_keras.weights.tensors import WeightsError

# No test downloads published weights, or finds those of the user.
os.environ["RESNEXT_KERAS_OFFLINE"] = "1"
os.environ["RESNEXT_KERAS_HOME"] = os.devnull

# The workers of the tests share the cores, and torch's threads wait for each other. Not
# by OMP_NUM_THREADS, which `Predictor` reads too.
os.environ.setdefault("MKL_NUM_THREADS", "1")

# torch imports triton where it is installed. It and TensorFlow bring an LLVM each,
# and both in one process crash it.
sys.modules.setdefault("triton", None)

# random_state.py, which the scripts that wrote the goldens drew with.
sys.path.insert(0, str(GOLDEN))


def pytest_xdist_auto_num_workers():
    """One worker more than cores, since many tests wait for a process they start."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Skips what needs TensorFlow where Keras runs on another backend."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        return
    skip = pytest.mark.skip(reason=f"for Keras on TensorFlow, it runs on {backend}")
    for item in items:
        if item.get_closest_marker("tensorflow"):
            item.add_marker(skip)


def pytest_collection_finish():
    """Keeps the half a million objects of the imports out of garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def memory_given_back():
    """Frees the networks of a test, up to 600 MB each, before the next is built."""
    yield
    keras.backend.clear_session()  # collects the garbage too


@pytest.fixture(autouse=True)
def _memory_of_parity_tests_given_back(request):
    if request.node.get_closest_marker("parity"):
        request.getfixturevalue("memory_given_back")


@pytest.fixture(autouse=True, scope="module")
def _memory_of_a_module_given_back():
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="session")
def photos():
    """Two photos of 640 x 427 pixels, china.jpg and flower.jpg."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture(scope="session")
def resnext50_state():
    """The state of torchvision's ResNeXt-50 that the goldens were made with."""
    from random_state import draw_state

    return draw_state(json.loads((GOLDEN / "resnext50_state_shapes.json").read_text()))


@pytest.fixture(scope="session")
def resnext50_file(resnext50_state, tmp_path_factory):
    """That state as a safetensors file, as torch users save it."""
    path = tmp_path_factory.mktemp("weights") / "resnext50.safetensors"
    save_file(resnext50_state, path)
    return path


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Makes a file of this folder the file of a weight set, with its true hash."""
    monkeypatch.setenv("RESNEXT_KERAS_HOME", str(tmp_path))

    def published(name, path):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        row = dataclasses.replace(
            WEIGHT_SETS[name], file=path.name, hash=f"sha256:{sha256[:8]}"
        )
        monkeypatch.setitem(WEIGHT_SETS, name, row)

    return published


@pytest.fixture
def short_resnext50(tmp_path, monkeypatch, publish):
    """Makes the default network one of a block a stage, with published weights.

    What the pages do with it takes a quarter of the time.
    """
    spec = dataclasses.replace(ARCHITECTURES["resnext50_32x4d"], depths=(1, 1, 1, 1))
    monkeypatch.setitem(ARCHITECTURES, spec.name, spec)
    build = functools.partial(resnext_keras.ResNeXt, spec)
    monkeypatch.setattr(resnext_keras, "ResNeXt50", build)
    network = build(weights=None, classifier_activation=None)
    network.save_weights(tmp_path / "random.weights.h5")
    path = tmp_path / "resnext50.safetensors"
    convert_weights(tmp_path / "random.weights.h5", path, spec)
    publish("resnext50_32x4d.tv2_in1k", path)


@pytest.fixture
def digit(tmp_path, monkeypatch):
    """A held-out digit as `digit.png` in the working folder; gives its class."""
    monkeypatch.chdir(tmp_path)
    images, labels = held_out_digits()
    Image.fromarray(images[0]).save("digit.png")
    return str(labels[0])


@pytest.fixture(scope="module")
def tiny_network():
    """The commands know a network named tiny."""
    from tiny_command import TINY

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", TINY)
        yield


@pytest.fixture
def reloaded(tmp_path):
    """Exports a model and loads it with TensorFlow."""

    def export(model, **options):
        import tensorflow as tf

        export_saved_model(model, tmp_path / "model", **options)
        return tf.saved_model.load(tmp_path / "model" / "1")

    return export


@pytest.fixture
def relative_error():
    """Largest difference of two arrays, by the largest value of the second."""

    def error(found, expected):
        found, expected = map(keras.ops.convert_to_numpy, (found, expected))
        assert found.shape == expected.shape
        return np.abs(found - expected).max() / np.abs(expected).max()

    return error


@pytest.fixture(scope="session")
def good_weights(tmp_path_factory):
    """A good file of each format, by suffix."""
    from weight_files import drawn_model, torch_state

    folder = tmp_path_factory.mktemp("good")
    files = {s: folder / f"good{s}" for s in (".weights.h5", ".safetensors")}
    drawn_model().save_weights(files[".weights.h5"])
    save_file(torch_state(), files[".safetensors"])
    return files


@pytest.fixture(scope="session")
def torch_files(tmp_path_factory):
    """Files that torch wrote, by name; make_torch_files.py has their contents."""
    folder = tmp_path_factory.mktemp("torch")
    with tarfile.open(GOLDEN / "torch_files.tar.xz") as archive:
        for member in archive:
            (folder / member.name).write_bytes(archive.extractfile(member).read())
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def refused(monkeypatch):
    """Checks that a file gives one error before a model is built, and stays."""
    from weight_files import build

    def check(path, message, **options):
        before = path.read_bytes() if path.is_file() else None
        with monkeypatch.context() as patch:
            patch.setattr(keras.layers.Conv2D, "__init__", no_model_may_be_built)
            with pytest.raises(WeightsError, match=message) as error:
                build(path, **options)
        assert str(path) in str(error.value)
        assert "Expected" in str(error.value) or "does not fit" in str(error.value)
        assert len(str(error.value).encode()) < 1000
        assert before == (path.read_bytes() if path.is_file() else None)

    return check


def no_model_may_be_built(*args, **options):
    pytest.fail("a layer was built before the arguments were checked")


@pytest.fixture
def no_model(monkeypatch):
    """No network of the package may be built."""
    monkeypatch.setattr(keras.layers.Conv2D, "__init__", no_model_may_be_built)


@pytest.fixture
def hdf5_in_this_process(monkeypatch):
    """HDF5 lists tensors here, as in a frozen program; a process takes 0.3 s."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The folder of version 1 of a small exported classifier."""
    from weight_files import drawn_model

    folder = tmp_path_factory.mktemp("served") / "tiny"
    names = ["tench", "cock", "Käfer", "貓", "a b"]
    export_saved_model(drawn_model(), folder, class_names=names, top=3)
    return folder / "1"


@pytest.fixture(scope="session")
def images(photos):
    """Encoded images by name, good ones of both formats and broken ones."""
    images = {"nothing.broken": b"", "text.broken": b"no image\0at all"}
    for index, photo in enumerate(photos):
        for suffix, options in (("jpg", {"quality": 80}), ("png", {})):
            small = photo.resize((96, 64 + 8 * index))
            file = io.BytesIO()
            small.save(file, {"jpg": "JPEG", "png": "PNG"}[suffix], **options)
            images[f"{index}.{suffix}"] = file.getvalue()
    images["cut.broken.jpg"] = images["0.jpg"][:300]
    images["cut.broken.png"] = images["0.png"][:-100]
    return images
