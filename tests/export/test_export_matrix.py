"""Every format of the family's networks, written and run with oneDNN and without."""

import keras
import pytest
import runtimes
import tensorflow as tf
from elsewhere import randomised, scores_elsewhere
from random_state import draw_images
from tensorflow.core.protobuf import saved_model_pb2

from resnext_keras import ResNeXt, export_file, export_saved_model, feature_pyramid
from resnext_keras.classifier import load_classifier

pytestmark = pytest.mark.tensorflow

SIZES = {"input_shape": (64, 64, 3), "weights": None}
IMAGES = draw_images(6, (5, 64, 64, 3))

# Programs of the arguments that `scores_elsewhere` gives.
EXPORT = """
import sys, keras, numpy as np
from pathlib import Path
from resnext_keras import export_file, export_saved_model
_, scores, ending, *paths = sys.argv[1:]
for path in map(Path, paths):
    export = export_file if ending else export_saved_model
    export(keras.models.load_model(path), path.with_suffix(".elsewhere" + ending))
np.savez(scores)
"""
RUN = """
import sys, numpy as np, tensorflow as tf
from pathlib import Path
images, scores, *paths = sys.argv[1:]
images, found = np.load(images), {}
for path in paths:
    predict = tf.saved_model.load(path + "/1").signatures["predict"]
    for rows in (5, 1):
        for name, value in predict(images=tf.constant(images[:rows])).items():
            found[f"{Path(path).name}/{name}/{rows}"] = value.numpy()
np.savez(scores, **found)
assert "resnext_keras" not in sys.modules
"""


def classifier(name):
    return ResNeXt(name, classifier_activation=None, **SIZES)


def pyramid():
    # Its last stages are dilated.
    options = {"include_top": False, "output_stride": 8} | SIZES
    return feature_pyramid(ResNeXt("resnext50_32x4d", **options))


NETWORKS = {
    "resnext50_32x4d": lambda: randomised(classifier("resnext50_32x4d")),
    "seresnext50_32x4d": lambda: randomised(classifier("seresnext50_32x4d")),
    "resnext50d_32x4d": lambda: randomised(classifier("resnext50d_32x4d")),
    "pyramid": lambda: randomised(pyramid()),
    "digits": lambda: load_classifier(weights="digits", any_size=True).model,
}


def convolutions(path):
    """Number of convolutions in the graph of the network."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "1" / "saved_model.pb").read_bytes())
    (network,) = (
        function
        for function in saved.meta_graphs[0].graph_def.library.function
        if function.signature.name.startswith("__inference_run_")
    )
    return sum(node.op == "Conv2D" for node in network.node_def)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Files of the networks, and their outputs by name of network and output."""
    folder, expected = tmp_path_factory.mktemp("networks"), {}
    for name, build in NETWORKS.items():
        model = build()
        model.save(folder / f"{name}.keras")
        outputs = model.predict(IMAGES, verbose=0)
        if not isinstance(outputs, dict):
            outputs = {"predictions": outputs}
        expected |= {(name, output): values for output, values in outputs.items()}
        keras.backend.clear_session()
    return [folder / f"{name}.keras" for name in NETWORKS], expected


@pytest.fixture
def check(networks, relative_error):
    """Compares what a file gives for the first of the images."""

    def compare(path, output, found):
        expected = networks[1][path.name.partition(".")[0], output][: len(found)]
        assert relative_error(found, expected) <= 1e-5, (path, output)

    return compare


@pytest.mark.long
def test_saved_models_agree_with_keras(networks, tmp_path, check):
    files, expected = networks
    here = [tmp_path / file.stem for file in files]
    for file, path in zip(files, here, strict=True):
        export_saved_model(keras.models.load_model(file), path)
    scores_elsewhere(EXPORT, ["", *files], IMAGES, tmp_path)
    elsewhere = [file.with_suffix(".elsewhere") for file in files]
    for path, other in zip(here, elsewhere, strict=True):
        assert convolutions(path) == convolutions(other) > 0
    found = scores_elsewhere(RUN, [*here, *elsewhere], IMAGES, tmp_path)
    assert len(found) == 2 * 2 * len(expected)
    for key in found:
        path, output, rows = key.split("/")
        assert len(found[key]) == int(rows)
        check(tmp_path / path, output, found[key])
    for path in (*here, *elsewhere):
        predict = tf.saved_model.load(path / "1").signatures["predict"]
        for rows in (5, 1):
            for output, values in predict(images=tf.constant(IMAGES[:rows])).items():
                check(path, output, values)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converters'
@pytest.mark.parametrize(
    ("ending", "runtime"),
    [
        (".onnx", "onnxruntime"),
        (".xml", "openvino"),
        (".tflite", "ai_edge_litert.interpreter"),
    ],
)
def test_files_agree_with_keras(networks, tmp_path, check, ending, runtime):
    pytest.importorskip(runtime)
    files, expected = networks
    here = [tmp_path / f"{file.stem}{ending}" for file in files]
    for file, path in zip(files, here, strict=True):
        export_file(keras.models.load_model(file), path)
    scores_elsewhere(EXPORT, [ending, *files], IMAGES, tmp_path)
    elsewhere = [file.with_suffix(f".elsewhere{ending}") for file in files]
    checked = []
    for path in (*here, *elsewhere):
        for rows in (5, 1):
            for output, values in runtimes.run(path, IMAGES[:rows])[0].items():
                assert len(values) == rows
                check(path, output, values)
                checked.append((path, output, rows))
    assert len(checked) == 2 * 2 * len(expected)
