"""A predictor gives what Keras predicts, on whatever engine."""

import gc
import logging
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import randomised
from helpers import GOLDEN, dtype_policy
from keras import layers
from random_state import draw_images
from weight_files import EVERY_OPTION, SMALLEST, TINY, build

from resnext_keras import (
    Predictor,
    ResNeXt,
    ResNeXt50,
    ResNeXtSpec,
    export_file,
    load_classifier,
)
from resnext_keras.inference import engines, predictor
from resnext_keras.inference.errors import errors_in_one_line

pytestmark = pytest.mark.tensorflow

OTHERS = ("onnxruntime", "openvino")
JUNK = (b"", b"neither this\nnor that\n" * 20)
IMAGES = draw_images(4, (5, 32, 32, 3))
EVERYTHING = ResNeXtSpec("all", (1, 1), 2, 4, **EVERY_OPTION)


def several(wrap):
    """A model of as many outputs as there may be, alike but for their values."""
    model = build(spec=SMALLEST)
    map_ = model.get_layer("conv2_block1_out").output
    outputs = [layers.Rescaling(n + 1.0)(map_) for n in range(12)]
    return randomised(keras.Model(model.input, wrap([*outputs, model.output])))


def as_dict(outputs):
    return dict(zip("zyxwvutsrqpon", outputs, strict=True))


MODELS = {
    "classifier": lambda: randomised(build()),
    "features": lambda: randomised(build(spec=EVERYTHING, include_top=False)),
    "list": lambda: several(list),
    "dict": lambda: several(as_dict),
    "tuple": lambda: keras.Model((m := build()).input, (m.output, m.layers[-2].output)),
    "dict of one": lambda: keras.Model((m := build()).input, {"a": m.output}),
    "input too": lambda: keras.Model((m := build()).input, [m.input, m.output] * 2),
    "Sequential": lambda: keras.Sequential(
        [build(include_top=False, pooling="avg"), layers.Dense(5)]
    ),
}
DICTS = ("dict", "dict of one")


@pytest.fixture(scope="module")
def model():
    return MODELS["classifier"]()


@pytest.fixture
def nothing_installed(monkeypatch):
    for package in (*OTHERS, "onnx", "tf2onnx"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_engine_is_named_before_weights_are_downloaded():
    with pytest.raises(ImportError, match=r"openvino.*resnext-keras\[fast\]"):
        Predictor("resnext50_32x4d.tv2_in1k", "openvino")


def expected_of(model, images=IMAGES):
    """What Keras gives, without `predict`: to build a graph takes longer."""
    return keras.tree.map_structure(np.asarray, model(images))


def assert_same(found, expected, tolerance=1e-5):
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(*map(keras.tree.flatten, (found, expected)), strict=True):
        assert type(one) is np.ndarray
        assert one.shape == other.shape
        largest = np.abs(other).max(initial=0)
        assert np.abs(one - other).max(initial=0) <= tolerance * largest


@pytest.mark.parametrize("case", [name for name in MODELS if name != "classifier"])
def test_outputs_are_those_of_keras(case):
    model = MODELS[case]()
    predict = Predictor(model, "tensorflow", batch_size=2)
    assert_same(predict(IMAGES), expected_of(model))


def test_there_is_a_row_for_each_image_and_nothing_is_traced_again():
    traces = []

    class Traced(layers.Layer):
        def call(self, images):
            traces.append(images.shape)
            return images

    model = build()
    model = randomised(keras.Model(model.input, Traced()(model.output)))
    predict = Predictor(model, "tensorflow", batch_size=2)
    before = len(traces)
    found = [predict(IMAGES[:rows]) for rows in range(6)]
    assert before == len(traces) > 0
    expected = expected_of(model)
    for rows in range(6):
        assert found[rows].shape == (rows, 5)
        assert_same(found[rows], expected[:rows])


def test_any_size_of_images_goes_where_the_network_takes_it():
    model = ResNeXt(TINY, include_top=False, weights=None)
    predict = Predictor(model, "tensorflow")
    for shape in ((1, 32, 40, 3), (2, 47, 33, 3)):
        images = draw_images(7, shape)
        assert_same(predict(images), expected_of(model, images))


def test_images_may_be_any_array(model):
    predict = Predictor(model, "tensorflow")
    for images in (
        IMAGES.astype("float64"),
        (IMAGES * 50).astype("int8"),
        np.asfortranarray(IMAGES),
        IMAGES[::-2, ::-1],
        IMAGES.tolist(),
    ):
        expected = expected_of(model, np.array(images, "float32"))
        assert_same(predict(images), expected)


def test_later_changes_of_the_model_do_not_matter(model):
    mine = keras.models.clone_model(model)
    predict = Predictor(mine, "tensorflow")
    before = predict(IMAGES)
    randomised(mine)
    assert_same(predict(IMAGES), before, 0)
    del mine
    gc.collect()
    assert_same(predict(IMAGES), before, 0)


def test_models_of_other_precisions_keep_theirs():
    with dtype_policy("mixed_bfloat16"):
        model = build(include_top=False)
    predict = Predictor(model)
    assert predict.engine == "tensorflow"
    found = predict(IMAGES)
    assert found.dtype == model(IMAGES).dtype == "bfloat16"
    with pytest.raises(ValueError, match="engine='openvino'"):
        Predictor(model, "openvino")


def test_a_keras_file_is_taken(model, tmp_path):
    model.save(tmp_path / "model.keras")
    predict = Predictor(str(tmp_path / "model.keras"), "tensorflow")
    assert_same(predict(IMAGES), expected_of(model))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The classifier as a SavedModel."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    model.export(folder, verbose=False)
    return folder


@pytest.mark.parametrize("case", ["tuple", "dict"])
def test_an_exported_folder_is_taken(case, tmp_path):
    model = MODELS[case]()
    model.export(tmp_path / "exported", verbose=False)
    predict = Predictor(tmp_path / "exported", "tensorflow", batch_size=2)
    gc.collect()
    assert_same(predict(IMAGES), expected_of(model))


def test_of_the_versions_in_a_folder_the_highest_is_taken(model, exported, tmp_path):
    for version in ("9", "latest"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").write_bytes(JUNK[1])
    shutil.copytree(exported, tmp_path / "10")
    assert_same(Predictor(tmp_path, "tensorflow")(IMAGES), expected_of(model))


# Which of the installed engines is taken.


@pytest.fixture
def built(monkeypatch):
    """Names of the engines that are built; all are installed and none is real."""
    names = []

    def build_engine(name, *_):
        names.append(name)
        return engines.Engine(lambda images: images, (None, 32, 32, 3), np.dtype("f4"))

    monkeypatch.setattr(predictor, "build_engine", build_engine)
    monkeypatch.setattr(predictor, "is_installed", lambda name, source: True)
    return names


def test_the_fastest_is_taken_and_logged(model, built, caplog):
    caplog.set_level(logging.INFO, "resnext_keras")
    assert Predictor(model).engine == "openvino"
    assert built == ["openvino"]
    assert "openvino" in caplog.text


def test_the_next_is_taken_where_one_fails(model, built, monkeypatch, caplog):
    def fails(name, *_):
        if name != "tensorflow":
            raise RuntimeError("no such operation")
        return engines.Engine(lambda images: images, (None, 32, 32, 3), np.dtype("f4"))

    monkeypatch.setattr(predictor, "build_engine", fails)
    assert Predictor(model).engine == "tensorflow"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "openvino cannot run this network: no such operation" in caplog.text
    with pytest.raises(RuntimeError, match="no such operation"):
        Predictor(model, "openvino")


def test_a_gpu_is_used(model, built, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert Predictor(model).engine == "tensorflow"
    assert Predictor(model, "openvino").engine == "openvino"


def test_what_onnx_cannot_hold_is_not_converted_to_it(model, built, monkeypatch):
    monkeypatch.setattr(keras.Model, "count_params", lambda self: 2**29)
    monkeypatch.setattr(predictor, "is_installed", lambda name, _: name != "openvino")
    assert Predictor(model).engine == "tensorflow"
    with pytest.raises(ValueError, match="one that can run this network"):
        Predictor(model, "onnxruntime")


@pytest.mark.usefixtures("nothing_installed")
def test_tensorflow_is_taken_where_nothing_else_is_installed(model, exported):
    for source in (model, exported):
        predict = Predictor(source)
        assert predict.engine == "tensorflow"
        assert_same(predict(IMAGES), expected_of(model))


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_package_is_named_with_the_extra(model, tmp_path):
    for engine in OTHERS:
        with pytest.raises(ImportError, match=rf"{engine} .*resnext-keras\[fast\]"):
            Predictor(model, engine)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ImportError, match=r"openvino .*resnext-keras\[fast\]"):
        Predictor(tmp_path / "model.onnx")


# What is refused.


def test_images_of_another_shape_are_refused(model):
    predict = Predictor(model, "tensorflow")
    for shape in ((32, 32, 3), (2, 32, 32), (2, 3, 32, 32), (2, 32, 33, 3)):
        message = f"(batch, 32, 32, 3). Received: images.shape={shape}"
        with pytest.raises(ValueError, match=re.escape(message)):
            predict(np.zeros(shape))


def test_weights_are_taken_by_their_name_or_file(tmp_path):
    model = load_classifier(weights="digits").model
    path = tmp_path / "mine.weights.h5"
    model.save_weights(path)
    for weights in ("digits", path, str(path)):
        assert_same(Predictor(weights, "tensorflow")(IMAGES), expected_of(model))


def test_a_path_that_is_not_a_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    for path in ("absent", "absent.keras", "absent.onnx", "a.txt", ""):
        with pytest.raises(ValueError, match=rf"Expected .*model_or_path={path!r}"):
            Predictor(path)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"engine": "fastest"}, "engine='fastest'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_built(options, received):
    with pytest.raises(ValueError, match=f"Expected .* Received: {received}"):
        Predictor(None, **options)


def test_models_that_take_something_else_than_one_batch_are_refused(tmp_path):
    left, right = keras.Input((3,)), keras.Input((3,))
    with pytest.raises(ValueError, match="2 inputs"):
        Predictor(keras.Model([left, right], layers.Add()([left, right])))
    with pytest.raises(ValueError, match="functional"):
        Predictor(keras.Sequential([layers.Dense(3)]))
    for wrong in (None, 3, layers.Dense(3)):
        with pytest.raises(ValueError, match=r"Expected .*Received: model_or_path="):
            Predictor(wrong)
    tf.saved_model.save(tf.Module(), tmp_path / "module")
    with pytest.raises(ValueError, match="endpoint `serve`"):
        Predictor(tmp_path / "module", "tensorflow")


def assert_refused(path, message, engine="auto"):
    """Checks that a file is refused, in one line."""
    message = rf"^Expected a whole .*\. Received: {re.escape(str(path))}; {message}"
    with pytest.raises(ValueError, match=message) as caught:
        Predictor(path, engine)
    assert "\n" not in str(caught.value)


def test_broken_files_are_refused(model, exported, tmp_path):
    path, folder = tmp_path / "model.keras", tmp_path / "exported"
    folder.mkdir()
    for content in JUNK:
        path.write_bytes(content)
        assert_refused(path, "Keras reports: It is not a zip archive")
        (folder / "saved_model.pb").write_bytes(content)
        assert_refused(folder, "tensorflow reports: ", "tensorflow")
    model.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert_refused(path, "Keras reports: ")
    (folder / "saved_model.pb").write_bytes((exported / "saved_model.pb").read_bytes())
    assert_refused(folder, "tensorflow reports: .*find any", "tensorflow")


# What OpenVINO and LiteRT say of an operation that they do not have.
OPENVINO = """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted. Failed operations detailed log:
-- Cast with a message:
Check 'is_valid_type_idx(type_idx)' failed at src/core/element_type.cpp:115:
Unsupported element type: DT_COMPLEX64
"""
LITERT = (
    'Could not translate MLIR to FlatBuffer.<unknown>:0: error: loc(callsite("a" at '
    "fused[\"b\"])): 'tf.FFT2D' op is neither a custom op nor a flex op\n<unknown>:0: "
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (OPENVINO, "Cast with a message: Unsupported element type: DT_COMPLEX64"),
        (
            LITERT,
            "Could not translate MLIR to FlatBuffer. 'tf.FFT2D' op is neither a custom "
            "op nor a flex op",
        ),
        ("", "RuntimeError"),
    ],
)
def test_errors_of_engines_become_one_line(message, expected):
    with (
        pytest.raises(ValueError, match=f"it reports: {re.escape(expected)}$"),
        errors_in_one_line("it", "a", "b", OSError),
    ):
        raise RuntimeError(message)


@pytest.mark.parametrize("kind", [ImportError, MemoryError, OSError, KeyboardInterrupt])
def test_errors_that_say_nothing_of_a_network_are_not_changed(kind):
    with (
        pytest.raises(kind, match=r"^mine$"),
        errors_in_one_line("it", "a", "b", OSError),
    ):
        raise kind("mine")


# The other engines.


@pytest.mark.parity
@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("case", MODELS)
def test_other_engines_give_the_same(case, engine):
    pytest.importorskip(engine)
    model = MODELS[case]()
    predict = Predictor(model, engine, batch_size=2)
    assert predict.engine == engine
    for rows in (5, 1, 2):
        expected = expected_of(model, IMAGES[:rows])
        assert_same(predict(IMAGES[:rows]), expected)
    assert {len(x) for x in keras.tree.flatten(predict(IMAGES[:0]))} == {0}


@pytest.mark.parity
@pytest.mark.parametrize("engine", OTHERS)
def test_resnext50_gives_torchvisions_logits(resnext50_file, relative_error, engine):
    pytest.importorskip(engine)
    model = ResNeXt50(
        weights=resnext50_file,
        input_shape=(None, None, 3),
        classifier_activation=None,
    )
    predict = Predictor(model, engine)
    for height, width in ((161, 193), (224, 224)):
        images = draw_images(height, (2, height, width, 3))
        golden = np.load(GOLDEN / f"resnext50_{height}x{width}.npz")["logits"]
        found = predict(images)
        assert relative_error(found, golden) <= 1e-4
        assert relative_error(found, expected_of(model, images)) <= 1e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
@pytest.mark.parametrize("case", ["classifier", "list"])
def test_an_onnx_file_is_taken(case, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    model = MODELS[case]()
    expected = expected_of(model)
    model.export(tmp_path / "model.onnx", "onnx", verbose=False)
    for engine in ("auto", *OTHERS):
        predict = Predictor(tmp_path / "model.onnx", engine, batch_size=2)
        assert predict.engine == engine.replace("auto", "openvino")
        assert_same(predict(IMAGES), expected)
    with pytest.raises(ValueError, match="engine='tensorflow'"):
        Predictor(tmp_path / "model.onnx", "tensorflow")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
@pytest.mark.parametrize("engine", ["tensorflow", *OTHERS, "litert"])
def test_threads_may_share_a_predictor(model, engine, tmp_path):
    """Each gets the answer for its own images."""
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine))
    source = model
    if engine == "litert":
        source = tmp_path / "model.tflite"
        export_file(model, source)
    predict = Predictor(source, engine, batch_size=2)
    expected = expected_of(model)
    numbers = np.random.default_rng(0).integers(0, len(IMAGES), 200)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: predict(IMAGES[n : n + 1]), numbers))
    assert_same(np.concatenate(found), expected[numbers])


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
@pytest.mark.parametrize("engine", OTHERS)
def test_batches_of_a_fixed_length_are_filled_up(model, engine, tmp_path):
    pytest.importorskip(engine)
    path = tmp_path / "model.onnx"
    signature = [keras.InputSpec(shape=(3, 32, 32, 3), dtype="float32")]
    model.export(path, "onnx", verbose=False, input_signature=signature)
    predict = Predictor(path, engine)
    assert predict.batch_size == 3
    for rows in (5, 3, 1):
        expected = expected_of(model, IMAGES[:rows])
        assert_same(predict(IMAGES[:rows]), expected)
    assert predict(IMAGES[:0]).shape == (0, 5)


@pytest.mark.parity
@pytest.mark.parametrize("case", ["classifier", "list", "input too", *DICTS])
def test_an_exported_folder_is_taken_by_openvino(case, tmp_path):
    pytest.importorskip("openvino")
    model = MODELS[case]()
    model.export(tmp_path / "exported", verbose=False)
    for engine in ("auto", "openvino"):
        predict = Predictor(tmp_path / "exported", engine, batch_size=2)
        assert predict.engine == "openvino"
        assert_same(predict(IMAGES), expected_of(model))
    with pytest.raises(ValueError, match="engine='onnxruntime'"):
        Predictor(tmp_path / "exported", "onnxruntime")


@pytest.mark.parity
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_no_more_threads_are_started_than_the_user_wants(model, monkeypatch):
    pytest.importorskip("onnxruntime")

    def threads_of(count):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        before = len(os.listdir("/proc/self/task"))
        predict = Predictor(model, "onnxruntime")
        predict(IMAGES)
        return len(os.listdir("/proc/self/task")) - before

    threads_of("1")  # what the conversion starts, once
    assert threads_of("1") == 0
    assert threads_of("3") == 2


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("model.onnx", "openvino"),
        ("model.onnx", "onnxruntime"),
        ("model.xml", "openvino"),
        ("model.tflite", "litert"),
        ("saved_model.pb", "openvino"),
    ],
)
def test_broken_files_of_other_formats_are_refused(name, engine, tmp_path):
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine))
    path = tmp_path if name.endswith(".pb") else tmp_path / name
    for content in JUNK:
        (tmp_path / name).write_bytes(content)
        assert_refused(path, f"{engine} reports: ", engine)
        assert_refused(path, "[a-z]+ reports: ")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_an_engine_that_lacks_an_operation_is_not_taken(engine):
    pytest.importorskip(engine)
    model = build()
    bessel = layers.Lambda(tf.math.bessel_i0e, output_shape=(5,))
    model = keras.Model(model.input, bessel(model.output), name="wavy")
    message = f"{engine} can run. Received: model='wavy'; .*: No .*BesselI0e"
    with pytest.raises(ValueError, match=message):
        Predictor(model, engine)
    assert Predictor(model).engine == "tensorflow"
