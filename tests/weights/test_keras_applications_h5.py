"""A file of keras-applications gives the numbers that keras-applications gives."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import GOLDEN
from random_state import draw_images
from weight_files import (
    CLASSES,
    KERAS_APPLICATIONS,
    assert_same,
    build,
    edited_copy,
    numbers,
    read,
    without_classifier,
)

import resnext_keras
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.tensors import WeightsError

FILE = GOLDEN / "keras_applications_4x4d.h5"
SIZE = (65, 97)


@pytest.fixture(scope="module")
def expected():
    """The numbers of the good file."""
    return read(FILE, KERAS_APPLICATIONS)


@pytest.fixture
def edited(tmp_path):
    """Edits a copy of the good file; gives its path."""
    return lambda edit, name="edited.h5": edited_copy(FILE, tmp_path / name, edit)


def logits(path):
    """Our network with a file's weights, and its logits for the golden's images."""
    model = resnext_keras.ResNeXt(
        KERAS_APPLICATIONS,
        weights=path,
        classes=CLASSES,
        input_shape=(*SIZE, 3),
        classifier_activation=None,
    )
    return model, model.predict(draw_images(0, (2, *SIZE, 3)), verbose=0)


def test_the_logits_are_those_of_keras_applications(tmp_path, relative_error):
    golden = np.load(GOLDEN / "keras_applications_4x4d_logits.npy")
    model, ours = logits(FILE)
    assert relative_error(ours, golden) <= 1e-4
    # Saved again it needs no other epsilon.
    model.save_weights(tmp_path / "ours.weights.h5")
    assert np.array_equal(logits(tmp_path / "ours.weights.h5")[1], ours)


def test_the_variance_takes_up_the_difference_of_the_epsilons(expected, edited):
    def edit(file):
        file["conv1_bn/conv1_bn/moving_variance:0"][:2] = [0, 1e-7]

    values = read(edited(edit), KERAS_APPLICATIONS)
    variance = values.pop("conv1_bn/moving_variance")
    np.testing.assert_allclose(variance[:2], [1e-8, 1.1e-7], rtol=1e-6)
    assert_same(values, {name: expected[name] for name in values})


def test_a_file_with_or_without_classifier_serves_a_network_without(expected, edited):
    def edit(file):
        del file["probs"]
        file.attrs["layer_names"] = list(file.attrs["layer_names"])[:-1]

    without = edited(edit)
    features = without_classifier(expected)
    options = {"spec": KERAS_APPLICATIONS, "include_top": False}
    for path in (FILE, without):
        assert_same(numbers(build(path, **options)), features)
    with pytest.raises(WeightsError, match="or include_top=False"):
        build(without, KERAS_APPLICATIONS)


def test_the_network_is_identified():
    checkpoint = resolve(FILE, KERAS_APPLICATIONS)
    assert (checkpoint.channels, checkpoint.classes) == (3, CLASSES)


def sum_of_groups(filters, channels):
    """The constant 1x1 kernel, as keras-applications' repository makes it."""
    kernel = np.zeros((1, 1, filters * channels, filters), "float32")
    for i in range(filters):
        start = i // channels * channels**2 + i % channels
        kernel[:, :, start : start + channels**2 : channels, i] = 1
    return kernel


def add_sums(file, kernel):
    """Gives each block the layer that sums up the groups."""
    names = list(file.attrs["layer_names"])
    for block in (1, 2):
        layer = f"conv2_block{block}_2_gconv"
        names.insert(5, layer)
        file[f"{layer}/{layer}/kernel:0"] = kernel
        file[layer].attrs["weight_names"] = [f"{layer}/kernel:0"]
    file.attrs["layer_names"] = names


def whole_model(file):
    """As `model.save` wrote it."""
    whole = file.create_group("model_weights")
    for name, value in file.attrs.items():
        whole.attrs[name] = value
    del file.attrs["layer_names"]
    for key in set(file) - {"model_weights"}:
        file.move(key, f"model_weights/{key}")
    file.create_group("optimizer_weights")


def split_tables(file):
    """Long tables of names are split, and may be bytes."""
    tables = ((file, "layer_names"), *((file[n], "weight_names") for n in SPLIT))
    for item, attribute in tables:
        names = [name.encode() for name in item.attrs[attribute]]
        del item.attrs[attribute]
        for number, start in enumerate(range(0, len(names), 3)):
            part = np.array(names[start : start + 3], "S")
            item.attrs[f"{attribute}{number}"] = part


SPLIT = ("conv1_bn", "probs")


def later_head(file):
    """The head has had two names."""
    file.move("probs", "predictions")
    names = list(file.attrs["layer_names"])
    file.attrs["layer_names"] = [*names[:-1], "predictions"]


def constant_sums(file):
    """The layers that sum up the groups are left out."""
    add_sums(file, sum_of_groups(16, 4))


def double_precision(file):
    for place in ("probs/probs/bias:0", "conv1_bn/conv1_bn/moving_variance:0"):
        data = file[place][...]
        del file[place]
        file[place] = data.astype(">f8")


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (whole_model, "model.hdf5"),
        (split_tables, "model.h5"),
        (later_head, "model.h5"),
        (constant_sums, "model.h5"),
        (double_precision, "model.h5"),
    ],
)
def test_the_same_numbers_in_other_forms(expected, edited, edit, name):
    values = read(edited(edit, name), KERAS_APPLICATIONS)
    assert_same({k: v.astype("float32") for k, v in values.items()}, expected)


@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize("place", [(0, 0), (63, 15), (17, 3)])
def test_sums_that_are_not_the_constant_are_refused(edited, place):
    for value in (0, 2, -1, np.nan, np.inf, 1e-30):
        kernel = sum_of_groups(16, 4)
        kernel[0, 0][place] = value if kernel[0, 0][place] != value else 1
        path = edited(lambda file, kernel=kernel: add_sums(file, kernel))
        with pytest.raises(WeightsError, match=r"sums the groups.*conv2_block.*edited"):
            read(path, KERAS_APPLICATIONS)


WRITER = f"""
import sys; sys.path.insert(0, {str(GOLDEN)!r}); sys.modules["triton"] = None
import numpy as np, tf_keras
from keras_applications import resnet, resnext
from make_keras_applications import KERAS, draw_weights
from random_state import draw_images

for name, top in (("top", True), ("notop", False)):
    model = resnext.ResNeXt50(
        include_top=top, weights=None, input_shape=(97, 66, 3), classes=1000, **KERAS
    )
    draw_weights(model, np.random.default_rng(1))
    model.save_weights(name + ".h5")
    if top:
        model.save("model.h5")
        model.get_layer("probs").activation = tf_keras.activations.linear
    np.save(name, model.predict(draw_images(1, (2, 97, 66, 3)), verbose=0))
resnet.ResNet50(weights=None, include_top=False, **KERAS).save_weights("resnet50.h5")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files and outputs of keras-applications, from a process without Keras 3."""
    folder = tmp_path_factory.mktemp("keras_applications")
    subprocess.run([sys.executable, "-c", WRITER], cwd=folder, check=True)
    return folder


@pytest.mark.parity
@pytest.mark.parametrize("name", ["top", "notop", "model"])
def test_resnext50_of_keras_applications(written, relative_error, name):
    top = name != "notop"
    model = resnext_keras.ResNeXt50(
        include_top=top,
        weights=written / f"{name}.h5",
        input_shape=(97, 66, 3),
        **({"classifier_activation": None} if top else {}),
    )
    ours = model.predict(draw_images(1, (2, 97, 66, 3)), verbose=0)
    theirs = np.load(written / ("top.npy" if top else "notop.npy"))
    assert relative_error(ours, theirs) <= 1e-4


@pytest.mark.parity
def test_resnet50_of_keras_applications_is_refused(written, refused):
    refused(written / "resnet50.h5", "to be a ResNeXt of keras-applications")
