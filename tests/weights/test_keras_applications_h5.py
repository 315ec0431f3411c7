"""What keras-applications wrote gives the numbers that it gives itself."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from random_state import draw_images
from weight_files import CLASSES, KERAS_APPLICATIONS, assert_same, build, numbers

import resnext_keras
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.loading import open_weights
from resnext_keras.weights.tensors import WeightsError

FILE = GOLDEN / "keras_applications_4x4d.h5"
SIZE = (65, 97)


def read(path, classes=CLASSES):
    """The tensors of a file by the names of our variables."""
    shapes = variable_shapes(KERAS_APPLICATIONS, 3, classes)
    with open_weights(path, shapes) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def logits(path):
    """What our network gives with a file's weights for the golden's images."""
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
    model, found = logits(FILE)
    assert relative_error(found, golden) <= 1e-4
    # Saved again it needs no other epsilon.
    model.save_weights(tmp_path / "ours.weights.h5")
    assert np.array_equal(logits(tmp_path / "ours.weights.h5")[1], found)


def test_a_depthwise_kernel_becomes_a_grouped_one():
    found = read(FILE)["conv2_block2_2_conv/kernel"]
    with h5py.File(FILE) as file:
        layer = file["conv2_block2_2_conv/conv2_block2_2_conv"]
        depthwise = layer["depthwise_kernel:0"][...]
    assert depthwise.shape == (3, 3, 16, 4)
    assert found.shape == (3, 3, 4, 16)
    for channel in range(16):
        for output in range(4):
            group, within = divmod(channel, 4)
            np.testing.assert_array_equal(
                found[:, :, within, 4 * group + output],
                depthwise[:, :, channel, output],
            )


def test_the_variance_takes_up_the_difference_of_the_epsilons(legacy_h5):
    def edit(file):
        file["conv1_bn/conv1_bn/moving_variance:0"][:2] = [0, 1e-7]

    variance = read(legacy_h5(edit))["conv1_bn/moving_variance"]
    np.testing.assert_allclose(variance[:2], [1e-8, 1.1e-7], rtol=1e-6)
    mean = read(FILE)["conv1_bn/moving_mean"]
    with h5py.File(FILE) as file:
        assert np.array_equal(mean, file["conv1_bn/conv1_bn/moving_mean:0"])


def test_the_files_of_whole_models(legacy_h5):
    def edit(file):
        whole = file.create_group("model_weights")
        for name, value in file.attrs.items():
            whole.attrs[name] = value
        del file.attrs["layer_names"]
        for key in set(file) - {"model_weights"}:
            file.move(key, f"model_weights/{key}")
        file.create_group("optimizer_weights")

    assert_same(read(legacy_h5(edit, "model.hdf5")), read(FILE))


def test_long_tables_of_names_are_split_and_may_be_bytes(legacy_h5):
    def split(item, attribute):
        names = [name.encode() for name in item.attrs[attribute]]
        del item.attrs[attribute]
        for number, start in enumerate(range(0, len(names), 3)):
            part = np.array(names[start : start + 3], "S")
            item.attrs[f"{attribute}{number}"] = part

    def edit(file):
        for name in ("conv1_bn", "probs"):
            split(file[name], "weight_names")
        split(file, "layer_names")

    assert_same(read(legacy_h5(edit)), read(FILE))


def test_the_head_under_its_later_name(legacy_h5):
    def edit(file):
        file.move("probs", "predictions")
        names = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = [*names[:-1], "predictions"]

    assert_same(read(legacy_h5(edit)), read(FILE))


def test_other_floating_types(legacy_h5):
    def edit(file):
        for place in ("probs/probs/bias:0", "conv1_bn/conv1_bn/moving_variance:0"):
            data = file[place][...]
            del file[place]
            file[place] = data.astype(">f8")

    found = {k: v.astype("float32") for k, v in read(legacy_h5(edit)).items()}
    assert_same(found, read(FILE))


def test_a_file_with_or_without_classifier_serves_a_network_without(legacy_h5):
    def edit(file):
        del file["probs"]
        file.attrs["layer_names"] = list(file.attrs["layer_names"])[:-1]

    features = {k: v for k, v in read(FILE).items() if not k.startswith("pred")}
    options = {"spec": KERAS_APPLICATIONS, "include_top": False}
    for path in (FILE, legacy_h5(edit)):
        assert_same(numbers(build(path, **options)), features)
    with pytest.raises(WeightsError, match="or include_top=False"):
        build(path, KERAS_APPLICATIONS)
    found = numbers(build(FILE, KERAS_APPLICATIONS, classes=7))
    assert_same({name: found[name] for name in features}, features)


def test_the_network_is_identified():
    found = resolve(FILE, KERAS_APPLICATIONS)
    assert (found.channels, found.classes) == (3, CLASSES)


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


def test_constant_sums_of_groups_are_left_out(legacy_h5):
    path = legacy_h5(lambda file: add_sums(file, sum_of_groups(16, 4)))
    assert_same(read(path), read(FILE))


@pytest.mark.parametrize("value", [0, 2, -1, np.nan, np.inf, 1e-30])
@pytest.mark.parametrize("place", [(0, 0), (63, 15), (17, 3)])
def test_sums_that_are_not_the_constant_change_nothing(legacy_h5, place, value):
    def edit(file):
        kernel = sum_of_groups(16, 4)
        kernel[0, 0][place] = value if kernel[0, 0][place] != value else 1
        add_sums(file, kernel)

    path = legacy_h5(edit)
    with pytest.raises(WeightsError, match=r"sums the groups.*conv2_block.*edited.h5"):
        build(path, KERAS_APPLICATIONS)


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
    """What keras-applications writes and gives, in a process without Keras 3."""
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
    found = model.predict(draw_images(1, (2, 97, 66, 3)), verbose=0)
    expected = np.load(written / ("top.npy" if top else "notop.npy"))
    assert relative_error(found, expected) <= 1e-4


@pytest.mark.parity
def test_resnet50_of_keras_applications_is_refused(written, refused):
    refused(written / "resnet50.h5", "to be a ResNeXt of keras-applications")
