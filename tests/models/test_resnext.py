"""The networks are called as keras.applications' are, and are the paper's."""

import inspect
import re

import keras
import numpy as np
import pytest

import resnext_keras
from resnext_keras import ResNeXt, ResNeXt50, ResNeXtSpec
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.models.variables import count_parameters, variable_shapes

MEMBERS = {
    "ResNeXt50": "resnext50_32x4d",
    "ResNeXt50D_32x4d": "resnext50d_32x4d",
    "ResNeXt101": "resnext101_32x4d",
    "ResNeXt101_32x8d": "resnext101_32x8d",
    "ResNeXt101_32x16d": "resnext101_32x16d",
    "ResNeXt101_32x32d": "resnext101_32x32d",
    "ResNeXt101_32x48d": "resnext101_32x48d",
    "ResNeXt101_64x4d": "resnext101_64x4d",
    "ResNeXt152": "resnext152_32x4d",
    "SEResNeXt26D_32x4d": "seresnext26d_32x4d",
    "SEResNeXt26T_32x4d": "seresnext26t_32x4d",
    "SEResNeXt50_32x4d": "seresnext50_32x4d",
    "SEResNeXt101_32x4d": "seresnext101_32x4d",
    "SEResNeXt101_32x8d": "seresnext101_32x8d",
    "SEResNeXt101_64x4d": "seresnext101_64x4d",
    "SEResNeXt101D_32x8d": "seresnext101d_32x8d",
    "SEResNeXtAA101D_32x8d": "seresnextaa101d_32x8d",
    "SEResNeXtAA201D_32x8d": "seresnextaa201d_32x8d",
    "LegacySEResNeXt26_32x4d": "legacy_seresnext26_32x4d",
    "LegacySEResNeXt50_32x4d": "legacy_seresnext50_32x4d",
    "LegacySEResNeXt101_32x4d": "legacy_seresnext101_32x4d",
    "ResNeXt29_8x64d": "resnext29_8x64d",
    "ResNeXt29_16x64d": "resnext29_16x64d",
}
EXTRAS = ("output_stride", "drop_path_rate")
TINY = ResNeXtSpec("tiny", (1, 2), 4, 2, stem="cifar")


@pytest.fixture(scope="module")
def resnext50():
    return ResNeXt50(weights=None)


def tiny(**options):
    return ResNeXt(TINY, **({"weights": None, "classes": 7} | options))


@pytest.mark.parametrize("function", MEMBERS)
def test_signatures_are_those_of_keras_applications(function):
    ours = inspect.signature(getattr(resnext_keras, function)).parameters
    keras_own = inspect.signature(keras.applications.ResNet50).parameters
    assert list(ours) == [*keras_own, *EXTRAS]
    assert all(ours[name].kind == inspect.Parameter.KEYWORD_ONLY for name in EXTRAS)
    for name in keras_own:
        if name != "name":
            assert ours[name].default == keras_own[name].default
            assert ours[name].kind == keras_own[name].kind
    assert ours["name"].default == function.lower()
    general = list(inspect.signature(ResNeXt).parameters)
    assert general == ["model", *keras_own, *EXTRAS]


@pytest.mark.parametrize(("function", "architecture"), MEMBERS.items())
def test_each_function_builds_its_row_of_the_table(monkeypatch, function, architecture):
    built = []
    monkeypatch.setattr(
        resnext_keras.models.resnext,
        "ResNeXt",
        lambda *args, **extras: built.append((args, extras)),
    )
    build = getattr(resnext_keras, function)
    build(False, None, pooling="avg", output_stride=8, drop_path_rate=0.1)
    arguments = (False, None, None, None, "avg", 1000, "softmax", function.lower())
    extras = dict(zip(EXTRAS, (8, 0.1), strict=True))
    assert built == [((ARCHITECTURES[architecture], *arguments), extras)]


def test_every_row_is_listed_and_all_but_the_bundled_one_have_a_function():
    functions = [f for f in resnext_keras.__all__ if re.search("ResNeXt(AA)?[0-9]", f)]
    assert sorted(functions) == sorted(MEMBERS)
    assert [*MEMBERS.values(), "resnext11_8x4d"] == list(ARCHITECTURES)
    assert resnext_keras.list_models() == list(ARCHITECTURES)


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)],
)
def test_parameter_counts_of_the_cifar_networks_are_the_papers(architecture, millions):
    shapes = variable_shapes(ARCHITECTURES[architecture], classes=10)
    trainable = {name: s for name, s in shapes.items() if "/moving_" not in name}
    # The paper cuts 68.155 to 68.1.
    assert int(count_parameters(trainable) / 1e5) / 10 == millions


def test_the_network_has_the_variables_of_its_spec(resnext50):
    own = ResNeXtSpec("own", (2, 1, 1, 1, 1), 2, 3)
    networks = [
        (resnext50, "resnext50_32x4d", 3, 1000),
        (tiny(input_shape=(64, 64, 5)), "tiny", 5, 7),
        (tiny(input_shape=(64, 64, 1), include_top=False), "tiny", 1, None),
        (ResNeXt(own, weights=None, classes=4), "own", 3, 4),
    ]
    specs = ARCHITECTURES | {"tiny": TINY, "own": own}
    for model, name, channels, classes in networks:
        found = {
            f"{layer.name}/{variable.name}": tuple(variable.shape)
            for layer in model.layers
            for variable in layer.weights
        }
        expected = variable_shapes(specs[name], channels, classes)
        assert found == expected
        assert model.count_params() == count_parameters(expected)


def test_layer_names_are_those_of_keras_applications(resnext50):
    ours = {layer.name for layer in resnext50.layers}
    theirs = {layer.name for layer in keras.applications.ResNet50(weights=None).layers}
    differing = {
        name for name in ours ^ theirs if not name.startswith(("input_layer", "keras"))
    }
    # Ours pads before the 3x3 convolutions with a stride; theirs have none.
    assert differing == {f"conv{stage}_block1_2_pad" for stage in (3, 4, 5)}


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_features_come_with_each_pooling(pooling, reduce):
    maps = tiny(include_top=False)
    model = tiny(include_top=False, pooling=pooling)
    model.set_weights(maps.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 33, 40, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(maps(images))
    assert expected.shape == (2, 17, 20, 512)
    found = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(found, reduce(expected, (1, 2)), rtol=1e-4, atol=1e-5)


def test_without_input_shape_the_size_is_the_networks_own_or_free(resnext50):
    assert resnext50.input_shape == (None, 224, 224, 3)
    assert tiny().input_shape == (None, 32, 32, 3)
    assert tiny(include_top=False).input_shape == (None, None, None, 3)


@pytest.mark.parametrize("shape", [(None, None, 3), (32, None, 1), (47, 33, 12)])
def test_any_size_and_any_number_of_channels(shape):
    model = tiny(input_shape=shape)
    size = [side or 50 for side in shape[:2]]
    scores = keras.ops.convert_to_numpy(model(np.zeros((2, *size, shape[2]))))
    assert scores.shape == (2, 7)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)


def test_it_is_built_on_a_given_tensor_with_the_layers_before_it():
    image = keras.Input((40, 40, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(image)
    model = tiny(input_tensor=scaled, classifier_activation=None)
    assert model.input is image
    plain = tiny(input_shape=(40, 40, 3), classifier_activation=None)
    plain.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), "uint8")
    found, expected = map(
        keras.ops.convert_to_numpy, (model(pixels), plain(pixels / np.float32(255)))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_of_any_size_goes_with_any_input_shape():
    """As in keras.applications, where its own is the one that counts."""
    for shape in ((40, 40, 3), (None, 40, 3), (None, None, 3)):
        model = tiny(input_tensor=keras.Input((None, None, 3)), input_shape=shape)
        assert model.input_shape == (None, None, None, 3)


def test_the_classifier_gives_logits_probabilities_or_what_is_asked_for():
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    logits = tiny(classifier_activation=None)
    for activation in ("softmax", "sigmoid", keras.activations.tanh):
        model = tiny(classifier_activation=activation, name="other")
        assert model.name == "other"
        model.set_weights(logits.get_weights())
        found, expected = (
            keras.ops.convert_to_numpy(scores)
            for scores in (
                model(images),
                keras.activations.get(activation)(logits(images)),
            )
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


OF_THE_SAME_NAME = ResNeXtSpec("resnext50_32x4d", (1, 1), 2, 4)

BAD_ARGUMENTS = [
    ({"model": "resnext5_32x4d"}, "resnext50_32x4d"),
    ({"model": "vgg16"}, "list_models"),
    ({"name": "a/b"}, "name='a/b'"),
    (
        {"input_tensor": keras.Input((64, 64, 3)), "input_shape": (32, 32, 3)},
        "(64, 64, 3)",
    ),
    ({"classes": 0}, "classes=0"),
    ({"classes": 2.5}, "classes=2.5"),
    ({"classes": "10"}, "classes='10'"),
    ({"pooling": "mean"}, "pooling='mean'"),
    ({"input_shape": (31, 64, 3)}, "at least 32"),
    ({"input_shape": (3, 224, 224)}, "(H, W, channels)"),
    ({"input_shape": (224, 224)}, "input_shape=(224, 224)"),
    ({"input_shape": (1, 224, 224, 3)}, "shape of one image"),
    ({"input_shape": (224, 224, None)}, "None"),
    ({"input_shape": 224}, "input_shape=224"),
    ({"input_tensor": np.zeros((1, 64, 64, 3))}, "keras.Input"),
    ({"classifier_activation": "sofmax"}, "sofmax"),
    ({"weights": True}, "weights=True"),
    ({"weights": "imagenet"}, "'tiny' has no weight set"),
    ({"weights": "no/such/file.weights.h5"}, "no/such/file.weights.h5"),
    ({"weights": "digits"}, "resnext11_8x4d"),
    (
        {"model": OF_THE_SAME_NAME, "weights": "imagenet"},
        "give yours a name of its own",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS, ids=str)
def test_bad_arguments_give_one_error_before_anything_is_built(
    no_model, arguments, message
):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is checked
        ResNeXt(**({"model": TINY, "weights": None} | arguments))
    assert message in str(error.value)


SIGMOID = {"classifier_activation": "sigmoid"}


def test_a_trained_classifier_goes_with_logits_or_probabilities_only(tmp_path):
    path = tmp_path / "tiny.weights.h5"
    tiny().save_weights(path)
    for activation in ("softmax", "sigmoid", None):  # a file does not say which
        assert tiny(weights=path, classifier_activation=activation)
    with pytest.raises(ValueError, match="classifier_activation='tanh'"):
        tiny(weights=path, classifier_activation="tanh")
    with pytest.raises(ValueError, match=r"None or 'softmax' .*digits.*='sigmoid'"):
        ResNeXt("resnext11_8x4d", weights="digits", classes=10, **SIGMOID)
    assert ResNeXt("resnext11_8x4d", weights="digits", classes=3, **SIGMOID)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("depths", ()),
        ("depths", (3, 0)),
        ("cardinality", 0),
        ("group_width", 2.5),
        ("stem", "vgg"),
    ],
)
def test_an_impossible_spec_is_refused(field, value):
    good = {"name": "own", "depths": (1, 1), "cardinality": 2, "group_width": 4}
    with pytest.raises(ValueError, match=field):
        ResNeXtSpec(**(good | {field: value}))


def test_kernels_begin_as_in_the_authors_torch_code():
    """He et al., 2015, by fan-out, which counts the filters of all groups."""
    model = ResNeXt("resnext11_8x4d", weights=None, classes=10)
    layers = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert len(layers) == 13
    for kernel in (layer.kernel for layer in layers):
        height, width, _, filters = kernel.shape
        values = keras.ops.convert_to_numpy(kernel)
        expected = (2 / (height * width * filters)) ** 0.5
        assert values.std() == pytest.approx(expected, rel=4 / values.size**0.5)
