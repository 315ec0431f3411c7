"""SavedModels of the family, written and run with oneDNN's kernels and without."""

import keras
import pytest
import tensorflow as tf
from elsewhere import randomised, scores_elsewhere
from random_state import draw_images
from tensorflow.core.protobuf import saved_model_pb2

from resnext_keras import ResNeXt, export_saved_model
from resnext_keras.prediction import load_classifier

pytestmark = pytest.mark.long

SIZES = {"input_shape": (64, 64, 3), "weights": None}
IMAGES = draw_images(6, (5, 64, 64, 3))

# Programs of the arguments that `scores_elsewhere` gives.
EXPORT = """
import sys, keras, numpy as np
from resnext_keras import export_saved_model
_, scores, *paths = sys.argv[1:]
for path in paths:
    model = keras.models.load_model(path)
    export_saved_model(model, path.replace(".keras", ".elsewhere"))
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
    backbone = ResNeXt("resnext50_32x4d", include_top=False, **SIZES)
    names = [f"conv{stage}_block{n}_out" for stage, n in enumerate((3, 4, 6, 3), 2)]
    return keras.Model(backbone.input, {n: backbone.get_layer(n).output for n in names})


NETWORKS = {
    "resnext50_32x4d": lambda: randomised(classifier("resnext50_32x4d")),
    "seresnext50_32x4d": lambda: randomised(classifier("seresnext50_32x4d")),
    "resnext50d_32x4d": lambda: randomised(classifier("resnext50d_32x4d")),
    "pyramid": lambda: randomised(pyramid()),
    "digits": lambda: load_classifier(any_size=True).model,
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


def test_all_agree_with_keras(tmp_path, relative_error):
    expected, files, here = {}, [], []
    for name, build in NETWORKS.items():
        model = build()
        files.append(tmp_path / f"{name}.keras")
        model.save(files[-1])
        here.append(tmp_path / name)
        export_saved_model(model, here[-1])
        outputs = model.predict(IMAGES, verbose=0)
        expected |= {
            (name, output): values
            for output, values in (
                outputs.items()
                if isinstance(outputs, dict)
                else [("predictions", outputs)]
            )
        }
        keras.backend.clear_session()

    def check(path, output, rows, found):
        error = relative_error(found, expected[path.partition(".")[0], output][:rows])
        assert error <= 1e-5, (path, output, rows)

    scores_elsewhere(EXPORT, files, IMAGES, tmp_path)
    elsewhere = [file.with_suffix(".elsewhere") for file in files]
    for path, other in zip(here, elsewhere, strict=True):
        assert convolutions(path) == convolutions(other) > 0
    found = scores_elsewhere(RUN, [*here, *elsewhere], IMAGES, tmp_path)
    assert len(found) == 2 * 2 * len(expected)
    for key in found:
        path, output, rows = key.split("/")
        check(path, output, int(rows), found[key])
    for path in (*here, *elsewhere):
        predict = tf.saved_model.load(path / "1").signatures["predict"]
        for rows in (5, 1):
            for output, values in predict(images=tf.constant(IMAGES[:rows])).items():
                check(path.name, output, rows, values)
