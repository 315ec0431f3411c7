"""Every format of the family's networks, written and run with oneDNN and without."""

import keras
import pytest
import runtimes
import tensorflow as tf
from elsewhere import randomised, scores_elsewhere
from random_state import draw_images
from tensorflow.core.protobuf import saved_model_pb2
from weight_files import EVERY_OPTION

from resnext_keras import (
    ResNeXt,
    ResNeXtSpec,
    export_file,
    export_saved_model,
    feature_pyramid,
)

pytestmark = pytest.mark.tensorflow

IMAGES = draw_images(6, (5, 64, 64, 3))

# A program for `scores_elsewhere`; the first argument has the endings of the files.
EXPORT = """
import sys, keras, numpy as np
from pathlib import Path
from resnext_keras import export_file, export_saved_model
_, scores, endings, *paths = sys.argv[1:]
for path in map(Path, paths):
    model = keras.models.load_model(path)
    for ending in endings.split(","):
        export = export_file if ending else export_saved_model
        export(model, path.with_suffix(".elsewhere" + ending))
np.savez(scores)
"""


def classifier():
    """As wide as ResNeXt-50, of a block a stage."""
    spec = ResNeXtSpec("classifier", (1, 1, 1, 1), 32, 4)
    size = {"input_shape": (64, 64, 3)}
    return ResNeXt(spec, weights=None, classifier_activation=None, **size)


def pyramid():
    """Of any size; the second stage has both kinds of blocks, the last is dilated."""
    spec = ResNeXtSpec("pyramid", (1, 2, 1), 8, 4, **EVERY_OPTION)
    return feature_pyramid(ResNeXt(spec, False, None, output_stride=8))


# Each network, and what it is run on.
NETWORKS = {
    "classifier": (classifier, (IMAGES, IMAGES[:1])),
    "pyramid": (pyramid, (IMAGES, IMAGES[:1, 4:])),
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
    """Files of the networks, and their outputs by network, batch and output."""
    folder, expected = tmp_path_factory.mktemp("networks"), {}
    for name, (build, batches) in NETWORKS.items():
        model = randomised(build())
        model.save(folder / f"{name}.keras")
        for number, images in enumerate(batches):
            outputs = model.predict(images, verbose=0)
            if not isinstance(outputs, dict):
                outputs = {"predictions": outputs}
            expected |= {(name, number, o): values for o, values in outputs.items()}
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
    "formats",
    [
        pytest.param({"": "tensorflow"}, marks=pytest.mark.long, id="SavedModel"),
        pytest.param(
            {
                ".onnx": "onnxruntime",
                ".xml": "openvino",
                ".tflite": "ai_edge_litert.interpreter",
            },
            marks=pytest.mark.parity,
            id="files",
        ),
    ],
)
def test_exports_agree_with_keras(networks, tmp_path, relative_error, formats):
    for runtime in formats.values():
        pytest.importorskip(runtime)
    files, expected = networks
    scores_elsewhere(EXPORT, [",".join(formats), *files], IMAGES, tmp_path)
    for file in files:
        model = keras.models.load_model(file)
        for ending in formats:
            here = tmp_path / f"{file.stem}{ending}"
            export = export_file if ending else export_saved_model
            export(model, here)
            elsewhere = file.with_suffix(f".elsewhere{ending}")
            if not ending:
                assert convolutions(here) == convolutions(elsewhere) > 0
            for path in (here, elsewhere):
                found = {
                    (file.stem, number, output): values
                    for number, images in enumerate(NETWORKS[file.stem][1])
                    for output, values in run(path, images).items()
                }
                assert found.keys() == {k for k in expected if k[0] == file.stem}
                for key, values in found.items():
                    assert relative_error(values, expected[key]) <= 1e-5, (path, key)
