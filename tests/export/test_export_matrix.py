"""Every format of the family's networks, written and run with oneDNN and without."""

import dataclasses

import keras
import pytest
import runtimes
import tensorflow as tf
from elsewhere import randomised, scores_elsewhere
from random_state import draw_images
from tensorflow.core.protobuf import saved_model_pb2

from resnext_keras import ResNeXt, export_file, export_saved_model, feature_pyramid
from resnext_keras.classifier import load_classifier
from resnext_keras.models.specs import get_spec

pytestmark = pytest.mark.tensorflow

SIZES = {"input_shape": (64, 64, 3), "weights": None}
IMAGES = draw_images(6, (5, 64, 64, 3))

# A program for `scores_elsewhere`, whose first path is the ending of the files.
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


def shallow(name):
    """An architecture with few blocks: both kinds in the second stage."""
    return dataclasses.replace(get_spec(name), depths=(1, 2, 1, 1))


def classifier(name):
    return ResNeXt(shallow(name), classifier_activation=None, **SIZES)


def pyramid():
    # Its last stages are dilated.
    options = {"include_top": False, "output_stride": 8} | SIZES
    return feature_pyramid(ResNeXt(shallow("resnext50_32x4d"), **options))


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


def run(path, images):
    """The outputs of an exported file or folder by name."""
    if path.suffix in runtimes.RUNTIMES:
        return runtimes.run(path, images)[0]
    model = tf.saved_model.load(path / "1")
    return model.signatures["predict"](images=tf.constant(images))


@pytest.mark.filterwarnings("ignore")  # the converters'
@pytest.mark.parametrize(
    ("ending", "runtime"),
    [
        pytest.param("", "tensorflow", marks=pytest.mark.long),
        pytest.param(".onnx", "onnxruntime", marks=pytest.mark.parity),
        pytest.param(".xml", "openvino", marks=pytest.mark.parity),
        pytest.param(".tflite", "ai_edge_litert.interpreter", marks=pytest.mark.parity),
    ],
)
def test_exports_agree_with_keras(networks, tmp_path, relative_error, ending, runtime):
    pytest.importorskip(runtime)
    files, expected = networks
    scores_elsewhere(EXPORT, [ending, *files], IMAGES, tmp_path)
    checked = set()
    for file in files:
        here = tmp_path / f"{file.stem}{ending}"
        export = export_file if ending else export_saved_model
        export(keras.models.load_model(file), here)
        elsewhere = file.with_suffix(f".elsewhere{ending}")
        if not ending:
            assert convolutions(here) == convolutions(elsewhere) > 0
        for path in (here, elsewhere):
            for rows in (5, 1):
                for output, values in run(path, IMAGES[:rows]).items():
                    known = expected[file.stem, output][:rows]
                    assert relative_error(values, known) <= 1e-5, (path, output)
                    checked.add((path, output, rows))
    assert len(checked) == 2 * 2 * len(expected)
