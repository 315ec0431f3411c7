"""Folders of timm and transformers: each loads what the other wrote."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import reference_network
from hub_server import TOKEN, running_hub
from timm_files import FLOWERS, NAMES, timm_folder
from timm_files import READING as FLOWERS_READING

import resnext_keras as rk
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.registry import WEIGHT_SETS

pytestmark = [
    pytest.mark.parity,
    pytest.mark.tensorflow,
    # torch's where there is a CUDA library and no GPU; transformers looks for one.
    pytest.mark.filterwarnings("ignore:CUDA initialization"),
]

TINY = {"layers": [1, 1, 1, 1]}
READING = {
    "input_size": (3, 96, 96),
    "crop_pct": 0.9,
    "interpolation": "bilinear",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.25, 0.3),
}


def timm_scores(network, photo):
    """The scores of a photo with timm's own transform."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        return network.eval()(transform(photo)[None]).softmax(-1).numpy()[0]


def our_scores(classifier, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    ((_, predictions),) = classifier.predict_each(tmp_path / "photo.png", top=1000)
    scores = {name: score for _, name, score in predictions}
    return [scores[name] for name in classifier.class_names]


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("resnext50_32x4d", {}),
        ("resnext50_32x4d", TINY | {"cardinality": 8, "base_width": 8}),
        ("seresnext26t_32x4d", TINY),
        ("seresnextaa101d_32x8d", TINY),
    ],
)
@pytest.mark.parametrize("is_pickle", [False, True])
def test_what_timm_saves_has_its_scores_here(
    tmp_path, photos, relative_error, architecture, arguments, is_pickle
):
    hub = pytest.importorskip("timm.models._hub")
    network = reference_network("timm", architecture, num_classes=3, **arguments)
    folder = tmp_path / "timm"
    config = {"label_names": list(NAMES)}
    hub.save_for_hf(
        network,
        folder,
        safe_serialization=not is_pickle,
        model_config=config,
        data_config=READING,
    )
    # It has its weights in the folder, not from where the architecture's come.
    network.pretrained_cfg = network.pretrained_cfg | READING
    classifier = rk.load_classifier(
        weights=folder / "pytorch_model.bin" if is_pickle else folder
    )
    assert classifier.class_names == NAMES
    found = our_scores(classifier, photos[0], tmp_path)
    assert relative_error(found, timm_scores(network, photos[0])) <= 1e-4


@pytest.mark.parametrize(
    "spec",
    [
        "resnext50_32x4d",
        "seresnext26d_32x4d",
        rk.ResNeXtSpec("mine", (1, 2, 1, 1), 8, 4),
        rk.ResNeXtSpec("mine", (1, 1, 1, 1), 16, 4, squeeze_excite=True),
    ],
    ids=lambda spec: getattr(spec, "name", spec),
)
def test_timm_and_transformers_load_what_is_saved_here(
    tmp_path, photos, relative_error, spec
):
    timm, transformers = (
        pytest.importorskip(name) for name in ("timm", "transformers")
    )
    network = drawn(rk.ResNeXt(spec, weights=None, classes=3, input_shape=(64, 64, 3)))
    reading = rk.Preprocessing(64, 72, "bicubic", READING["mean"], READING["std"])
    classifier = rk.Classifier(network, reading, NAMES, "mine")
    folder = rk.save_timm(classifier, tmp_path / "timm", model=spec)
    wanted = our_scores(classifier, photos[1], tmp_path)

    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert relative_error(timm_scores(theirs, photos[1]), wanted) <= 1e-4

    classify = transformers.pipeline("image-classification", str(folder))
    answer = {item["label"]: item["score"] for item in classify(photos[1])}
    assert relative_error([answer[name] for name in NAMES], wanted) <= 1e-4

    # What transformers saves again opens here too.
    classify.model.save_pretrained(tmp_path / "transformers")
    again = rk.load_classifier(weights=tmp_path / "transformers")
    assert again.preprocessing == reading
    assert again.class_names == NAMES
    assert relative_error(our_scores(again, photos[1], tmp_path), wanted) <= 1e-5


def test_labels_and_single_outputs_in_transformers(tmp_path, photos, relative_error):
    transformers = pytest.importorskip("transformers")
    spec = rk.ResNeXtSpec("mine", (1, 1, 1, 1), 4, 4)
    for outputs, names, is_multi_label in (
        (3, NAMES, True),
        (1, ("no", "yes"), False),
    ):
        network = drawn(
            rk.ResNeXt(
                spec,
                weights=None,
                classes=outputs,
                input_shape=(64, 64, 3),
                classifier_activation="sigmoid",
            )
        )
        classifier = rk.Classifier(
            network, rk.Preprocessing(64, 64), names, "mine", is_multi_label
        )
        folder = rk.save_timm(classifier, tmp_path / str(outputs), model=spec)
        wanted = our_scores(classifier, photos[0], tmp_path)
        classify = transformers.pipeline("image-classification", str(folder))
        answer = {item["label"]: item["score"] for item in classify(photos[0])}
        assert relative_error([answer[name] for name in names], wanted) <= 1e-4


def test_a_set_keeps_imagenets_names(tmp_path, publish, resnext50_file, photos):
    timm, transformers = (
        pytest.importorskip(name) for name in ("timm", "transformers")
    )
    file = shutil.copy(resnext50_file, tmp_path)
    publish("resnext50_32x4d.tv2_in1k", Path(file))
    rk.convert_weights("resnext50_32x4d.tv2_in1k", tmp_path / "timm", to="timm")
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    scores = timm_scores(network, photos[0])
    assert resolve(tmp_path / "timm").class_names == rk.class_names("imagenet")
    classify = transformers.pipeline("image-classification", str(tmp_path / "timm"))
    (best,) = classify(photos[0], top_k=1)
    assert best["score"] == pytest.approx(scores.max(), rel=1e-4)
    first = rk.class_names("imagenet")[scores.argmax()].split("_")[0]
    assert first.lower() in best["label"].lower()

    card = pytest.importorskip("huggingface_hub").ModelCard.load(
        tmp_path / "timm" / "README.md"
    )
    assert (card.data.license, card.data.library_name) == ("bsd-3-clause", "timm")
    assert card.data.datasets == ["imagenet-1k"]
    (result, *_) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("imagenet-1k", "accuracy")
    found = WEIGHT_SETS["resnext50_32x4d.tv2_in1k"].best.top1
    assert result.metric_value == pytest.approx(found)


def test_timm_and_transformers_load_what_was_pushed(tmp_path):
    pytest.importorskip("transformers")
    folder = timm_folder(tmp_path / "flowers")
    with running_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
        }
        for program in (("-m", "resnext_keras_cli", "push", folder), ("-c", THEIRS)):
            done = subprocess.run(
                [sys.executable, *map(str, program), "me/flowers"],
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
    timms, transformers = map(json.loads, done.stdout.splitlines()[-2:])
    assert transformers == pytest.approx(timms, rel=1e-5)
    white = np.full((1, 32, 32, 3), 255)
    images = rk.preprocess_input(white, preprocessing=FLOWERS_READING)
    network = rk.ResNeXt(FLOWERS, weights=folder, classes=3, input_shape=(32, 32, 3))
    assert timms == pytest.approx(network(images)[0].numpy().tolist(), rel=1e-4)


# The scores of a white image.
THEIRS = """
import json, sys
import timm, torch
from PIL import Image
from transformers import pipeline

white = Image.new("RGB", (32, 32), "white")
network = timm.create_model(f"hf-hub:{sys.argv[1]}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(network)
transform = timm.data.create_transform(**config, is_training=False)
with torch.inference_mode():
    print(json.dumps(network(transform(white)[None]).softmax(-1)[0].tolist()))
classify = pipeline("image-classification", sys.argv[1])
answer = {item["label"]: item["score"] for item in classify(white)}
print(json.dumps([answer[name] for name in network.pretrained_cfg["label_names"]]))
"""


def drawn(network):
    """The network with random weights and batch-norm statistics."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes = [value.shape for value in layer.get_weights()]
            layer.set_weights([rng.uniform(0.5, 1.5, shape) for shape in shapes])
    return network
