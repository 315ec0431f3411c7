"""KerasTuner, Weights & Biases, TensorBoard and MLflow take the networks as they are.

The code is that of the page on these tools.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from elsewhere import randomised
from helpers import ROOT
from run_data import history_rows, image_folder

import resnext_keras as rk
from resnext_keras.images.read import SAMPLE_PHOTO

pytestmark = [
    pytest.mark.parity,
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore"),  # the tools'
]

PAGE = ROOT / "docs" / "how-to" / "tools.md"
FLOWERS = 5


@pytest.fixture
def page(tmp_path, monkeypatch, short_resnext50):
    """Runs the Python under a heading of the page, and gives its names."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONFIG_DIR": "wandb",
        "WANDB_CACHE_DIR": "wandb",
    }.items():
        monkeypatch.setenv(name, value)
    rng = np.random.default_rng(0)
    images = rk.preprocess_input(rng.integers(0, 256, (16, 32, 32, 3), "uint8"))
    names = {"__name__": "page", "images": images, "labels": np.arange(16) % FLOWERS}

    def run(heading, **more):
        names.update(more)
        (section,) = re.findall(
            f"^## {heading}\n(.*?)(?=^## |\\Z)", PAGE.read_text(), re.DOTALL | re.M
        )
        for block in re.findall("```py\n(.*?)```", section, re.DOTALL):
            if "set_model" in block:  # a file of its own
                Path("photos.py").write_text(block)
            else:
                exec(block, names)
        return names

    return run


@pytest.fixture
def model():
    """A classifier of images of 32 pixels, with random batch norm."""
    spec = rk.ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")
    network = rk.ResNeXt(spec, weights=None, input_shape=(32, 32, 3), classes=FLOWERS)
    network.compile("sgd", "sparse_categorical_crossentropy")
    return randomised(network)


def test_keras_tuner_searches_and_restores_the_best_network(page):
    pytest.importorskip("keras_tuner")
    names = page("KerasTuner")
    trials = names["tuner"].oracle.get_best_trials(2)
    assert len({trial.hyperparameters.values["learning_rate"] for trial in trials}) == 2
    held_out = names["images"][-4:], names["labels"][-4:]
    found = names["model"].evaluate(*held_out, verbose=0, return_dict=True)
    expected = trials[0].metrics.get_last_value("val_loss")
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_loggers_get_the_figures_of_each_epoch(page, model):
    pytest.importorskip("wandb")
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    image_folder(Path("flowers"), 8)
    names = page("Weights & Biases, TensorBoard", model=model)
    summary = dict(names["run"].summary)
    names["run"].finish()
    last = history_rows(Path("flowers-run"))[-1]
    assert summary["epoch/epoch"] == 1  # the second, of the second phase
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert summary[f"epoch/{name}"] == pytest.approx(float(last[name]), rel=1e-5)
    events = accumulator.EventAccumulator("logs/train").Reload()
    (loss,) = events.Tensors("epoch_loss")
    assert float(tf.make_ndarray(loss.tensor_proto)) > 0


IN_ANOTHER_PROCESS = """
import base64, json, sys
from pathlib import Path
import mlflow, numpy as np
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient

images = np.load("images.npy")
contents = [Path("rose.jpg").read_bytes(), b"not an image"]
photos = mlflow.pyfunc.load_model("flowers-photos")
request = {"inputs": [base64.b64encode(content).decode() for content in contents]}
server = TestClient(scoring_server.init(photos))  # of `mlflow models serve`
answer = server.post("/invocations", json=request).json()
assert answer == {"predictions": photos.predict(contents)}
Path("photos.json").write_text(json.dumps(answer["predictions"]))
exported = mlflow.pyfunc.load_model("exported").predict(images)
assert "resnext_keras" not in sys.modules

import resnext_keras

found = {
    "exported": exported,
    "keras": mlflow.keras.load_model("flowers-keras").predict(images),
    "pyfunc": mlflow.pyfunc.load_model("flowers-keras").predict(images),
}
np.savez("found.npz", **found)
"""


def test_mlflow_loads_in_another_process_what_it_saved(page, model):
    pytest.importorskip("pandas")  # mlflow-skinny installs without it
    mlflow = pytest.importorskip("mlflow")
    shutil.copy(SAMPLE_PHOTO, "rose.jpg")
    names = page("MLflow", model=model)
    options = names["options"] | {"save_exported_model": True}
    mlflow.keras.save_model(model, "exported", **options)
    images = names["images"]
    np.save("images.npy", images)
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], check=True)

    expected = model.predict(images, verbose=0)
    found = dict(np.load("found.npz"))
    found["here"] = names["loaded"].predict(images, verbose=0)
    assert len(found) == 4
    for how, scores in found.items():
        np.testing.assert_allclose(scores, expected, atol=1e-5, err_msg=how)

    good, bad = json.loads(Path("photos.json").read_text())
    photo = rk.read_image("rose.jpg", rk.Preprocessing(32, 32))
    (scores,) = model.predict(rk.preprocess_input(photo[np.newaxis]), verbose=0)
    best = np.argsort(-scores)[:3]
    assert list(good) == [names["names"][number] for number in best]
    # The graph decodes and resizes a little differently from Pillow.
    np.testing.assert_allclose(list(good.values()), scores[best], atol=0.01)
    assert bad == {"": 0}
