"""Folders of timm: read with their names and preprocessing, and written."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_data import image_folder
from safetensors.numpy import load_file
from timm_files import CONFIG, FLOWERS, NAMES, READING, timm_folder
from weight_files import TINY, assert_same, keras_values, numbers

import resnext_keras as rk
from resnext_keras.weights.checkpoint import resolve

pytestmark = pytest.mark.tensorflow

SHORT = rk.ResNeXtSpec("short", (1, 1), 4, 4)


@pytest.fixture
def folder(tmp_path):
    return timm_folder(tmp_path / "flowers")


@pytest.fixture
def photo(tmp_path, photos):
    path = tmp_path / "flower.png"
    photos[1].save(path)
    return path


def expected_scores(folder, photo):
    """The scores of a photo, with NumPy for the normalisation."""
    pixels = rk.read_image(photo, READING) / 255
    image = (pixels - np.array(READING.mean)) / np.array(READING.std)
    network = rk.ResNeXt(FLOWERS, weights=folder, classes=3, input_shape=(32, 32, 3))
    return network.predict(image[None].astype("float32"), verbose=0)[0]


def test_a_folder_brings_architecture_names_and_preprocessing(folder):
    found = resolve(folder)
    assert (found.spec, found.classes, found.class_names) == (FLOWERS, 3, NAMES)
    assert (found.preprocessing, found.licence) == (READING, "apache-2.0")
    assert (found.name, found.short_name) == (str(folder), "flowers")
    network = rk.ResNeXt(FLOWERS, weights=folder, classes=3, input_shape=(32, 32, 3))
    assert_same(numbers(network), keras_values(FLOWERS, 3))
    assert resolve(folder / "model.safetensors").preprocessing == READING


def test_mean_and_deviation_arrive_everywhere(folder, photo, tmp_path, relative_error):
    wanted = expected_scores(folder, photo)
    classifier = rk.load_classifier(weights=folder)

    ((_, predicted),) = classifier.predict_each(photo)
    ((_, named),) = rk.predict_files(photo, weights=folder).predictions
    evidence = rk.explain(photo, weights=folder, top=3).classes
    for found in (
        {name: score for _, name, score in predicted},
        {name: score for _, name, score in named},
        {item.name: item.score for item in evidence},
    ):
        assert relative_error([found[name] for name in NAMES], wanted) <= 1e-5

    rk.export_saved_model(classifier.model, tmp_path / "saved", weights=folder)
    serve = tf.saved_model.load(tmp_path / "saved" / "1").signatures["serving_default"]
    answer = serve(image_bytes=tf.constant([photo.read_bytes()]))
    order = answer["indices"].numpy()[0]
    assert relative_error(answer["scores"].numpy()[0], wanted[order]) <= 0.02
    card = json.loads((tmp_path / "saved" / "1" / "assets" / "model.json").read_text())
    assert card["preprocessing"]["mean"] == list(READING.mean)
    assert card["preprocessing"]["std"] == list(READING.std)
    assert (card["class_names"], card["licence"]) == (list(NAMES), "apache-2.0")


def test_features_and_evaluations_use_mean_and_deviation(
    folder, tmp_path, relative_error
):
    data = image_folder(tmp_path / "data", 2, NAMES[:2])
    (data / NAMES[2]).mkdir()
    shutil.copy(data / NAMES[0] / "0.png", data / NAMES[2] / "0.png")
    evaluation = rk.evaluate(data, weights=folder, output=tmp_path / "evaluation")
    wanted = expected_scores(folder, data / NAMES[0] / "0.png")
    assert evaluation.predictions.confidence[0] == pytest.approx(max(wanted), rel=1e-5)

    pq = pytest.importorskip("pyarrow.parquet")
    rk.extract([data], tmp_path / "features.parquet", weights=folder)
    row = pq.read_table(tmp_path / "features.parquet").to_pylist()[0]
    network = rk.ResNeXt(FLOWERS, False, folder, input_shape=(32, 32, 3), pooling="avg")
    pixels = rk.read_image(row["path"], READING)[None]
    images = rk.preprocess_input(pixels, preprocessing=READING)
    features = network.predict(images, verbose=0)[0]
    assert relative_error(row["features"], features) <= 1e-5


def test_a_run_keeps_mean_and_deviation(folder, tmp_path):
    data = image_folder(tmp_path / "data", 4)
    options = {"batch_size": 4, "export": False, "verbose": 0}
    rk.finetune(data, tmp_path / "run", weights=folder, epochs=1, **options)
    run = resolve(tmp_path / "run")
    assert run.preprocessing == READING
    assert run.licence == "apache-2.0"
    rk.convert_weights(tmp_path / "run", tmp_path / "timm", to="timm")
    again = resolve(tmp_path / "timm")
    assert again.preprocessing == READING
    assert again.class_names == run.class_names
    text = (tmp_path / "timm" / "README.md").read_text()
    metrics = json.loads((tmp_path / "run" / "run.json").read_text())["end"]["metrics"]
    accuracy = {"type": "accuracy", "value": round(metrics["top_1"], 5)}
    assert json.dumps(accuracy)[1:-1] in text
    assert '"dataset": {"name": "data"' in text
    assert 'license: "apache-2.0"' in text


LABELS = {
    "a list": ({"label_names": ["a", "b", "c"]}, ("a", "b", "c")),
    "in pretrained_cfg": (
        {"label_names": None, "reading": {"label_names": ["a", "b", "c"]}},
        ("a", "b", "c"),
    ),
    "with gaps": ({"label_names": {"0": "a", "2": "c"}}, ("a", "1", "c")),
    "with descriptions": (
        {
            "label_names": ["n1", "n2", "n3"],
            "label_descriptions": {"n1": "one", "n3": "three"},
        },
        ("one", "n2", "three"),
    ),
    "without": ({"label_names": None}, ("0", "1", "2")),
    "of transformers": (
        {"label_names": None, "id2label": {"0": "a", "1": "b", "2": "c"}},
        ("a", "b", "c"),
    ),
}


@pytest.mark.parametrize(("changes", "names"), LABELS.values(), ids=LABELS)
def test_labels_in_every_form_give_a_name_for_each_class(tmp_path, changes, names):
    assert resolve(timm_folder(tmp_path / "a", **changes)).class_names == names


@pytest.mark.parametrize("labels", [["a", "b"], ["a"] * 4, {"0": "a", "3": "d"}])
def test_labels_of_other_classes_are_left_out(tmp_path, caplog, labels):
    """As transformers leaves them when it tunes a network for other classes."""
    folder = timm_folder(tmp_path / "a", label_names=labels)
    assert resolve(folder).class_names == ("0", "1", "2")
    assert "are not those of the 3 outputs" in caplog.text


def test_the_oldest_configs_have_one_object(tmp_path):
    folder = timm_folder(tmp_path / "a")
    config = CONFIG | CONFIG["pretrained_cfg"] | {"labels": list(NAMES)}
    del config["pretrained_cfg"], config["label_names"]
    (folder / "config.json").write_text(json.dumps(config))
    found = resolve(folder)
    assert (found.preprocessing, found.class_names) == (READING, NAMES)


def test_what_a_config_leaves_out_is_as_in_timm(tmp_path):
    names = ("mean", "std", "crop_pct", "interpolation", "input_size")
    folder = timm_folder(tmp_path / "a", dict.fromkeys(names))
    assert resolve(folder).preprocessing == rk.Preprocessing(224, 256, "bicubic")


def test_another_way_to_crop_is_named(tmp_path, caplog):
    folder = timm_folder(tmp_path / "a", {"crop_mode": "squash"})
    assert resolve(folder).preprocessing == READING
    assert "crop_mode='squash'" in caplog.text


def test_a_backbone_a_single_output_and_several_labels(tmp_path):
    backbone = timm_folder(tmp_path / "a", classes=None, num_classes=0)
    assert (resolve(backbone).classes, resolve(backbone).class_names) == (None, ())
    one = timm_folder(tmp_path / "b", classes=1, num_classes=1, label_names=["dog"])
    assert resolve(one).activation == "sigmoid"
    assert resolve(one).class_names == ("not dog", "dog")
    several = timm_folder(tmp_path / "c", problem_type="multi_label_classification")
    assert resolve(several).is_multi_label


REFUSED = {
    "another architecture": ({"architecture": "vit_base_patch16_224"}, "vit_base"),
    "not of its tensors": ({"num_classes": 7}, "Expected 7 classes"),
    "other tensors": ({"architecture": "resnext101_32x8d"}, "does not fit"),
    "an unknown argument": ({"model_args": {"output_stride": 8}}, "output_stride"),
    "another pooling": (
        {"global_pool": "max", "model_args": {"layers": [1, 1, 1, 1]}},
        "global_pool='max'",
    ),
    "not square": ({"reading": {"input_size": [3, 32, 64]}}, "not square"),
    "too large": (
        {"reading": {"input_size": [3, 10**9, 10**9]}},
        "input_size=1000000000",
    ),
    "too many classes": ({"num_classes": 10**9}, "num_classes=1000000000"),
    "no such crop": ({"reading": {"crop_pct": 1e-9}}, "crop_pct=1e-09"),
    "two stages": ({"model_args": {"layers": [1, 1]}}, "not 4 small numbers"),
    "many blocks": ({"model_args": {"layers": [10**6, 1, 1, 1]}}, "4 small numbers"),
    "no number of classes": ({"num_classes": True}, "num_classes=True"),
    "no number of channels": ({"model_args": {"in_chans": 3.7}}, "in_chans=3.7"),
    "one mean": ({"reading": {"mean": 0.5}}, "mean=0.5"),
    "text for a size": ({"reading": {"input_size": [3, "a", "a"]}}, "input_size='a'"),
    "text for a crop": ({"reading": {"crop_pct": "0.9"}}, "crop_pct='0.9'"),
    "a list of arguments": ({"model_args": [1]}, r"model_args=\[1\]"),
    "a small deviation": ({"reading": {"std": [1e-300, 1, 1]}}, "Expected `std`"),
    "no numbers": ({"reading": {"mean": ["a", "b", "c"]}}, "Expected `mean`"),
    "another type": ({"pretrained_cfg": [1]}, r"pretrained_cfg=\[1\]"),
    "no name": ({"architecture": ["resnext50_32x4d"]}, "architecture="),
    "lanczos": ({"reading": {"interpolation": "lanczos"}}, "lanczos"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    folder = timm_folder(tmp_path / "a", **changes)
    with pytest.raises(rk.WeightsError, match=message) as caught:
        rk.load_classifier(weights=folder)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_read_only_by_its_path(tmp_path):
    folder = timm_folder(tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(rk.WeightsError, match=r"pytorch_model.bin.* give its path"):
        resolve(folder)
    assert resolve(folder / "pytorch_model.bin").preprocessing == READING


def test_a_config_of_another_library_is_no_description(tmp_path):
    folder = timm_folder(tmp_path / "a")
    for text in ('{"model_type": "bert"}', "[]", "no JSON"):
        (folder / "config.json").write_text(text)
        assert resolve(folder / "model.safetensors", FLOWERS).classes == 3


# Writing


def test_a_folder_comes_back(folder, tmp_path):
    classifier = rk.load_classifier(weights=folder)
    path = rk.save_timm(classifier, tmp_path / "written")
    assert {file.name for file in path.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert resolve(path).preprocessing == READING
    assert resolve(path).class_names == NAMES
    written, given = (load_file(f / "model.safetensors") for f in (path, folder))
    assert written.keys() == given.keys()
    for name, array in written.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, given[name])


def test_a_trained_network_is_written_as_it_is_now(folder, tmp_path):
    classifier = rk.load_classifier(weights=folder)
    classifier.model.get_layer("predictions").bias.assign([1.0, 2.0, 3.0])
    path = rk.save_timm(classifier, tmp_path / "written", licence="MIT")
    bias = load_file(path / "model.safetensors")["fc.bias"]
    np.testing.assert_array_equal(bias, [1, 2, 3])
    assert resolve(path).licence == "MIT"


@pytest.mark.parametrize("kind", ["single", "several"])
def test_sigmoids_come_back_with_the_same_scores(tmp_path, kind, relative_error):
    outputs = 1 if kind == "single" else 3
    network = rk.ResNeXt(
        FLOWERS, weights=None, classes=outputs, classifier_activation="sigmoid"
    )
    names = ("no", "yes") if kind == "single" else NAMES
    classifier = rk.Classifier(network, READING, names, "mine", kind == "several")
    path = rk.save_timm(classifier, tmp_path / "written", model=FLOWERS)
    again = rk.load_classifier(weights=path)
    assert (again.class_names, again.is_multi_label) == (names, kind == "several")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), "uint8")
    images = rk.preprocess_input(pixels, preprocessing=READING)
    wanted = network.predict_on_batch(images)
    if kind == "single":
        wanted = np.hstack([1 - wanted, wanted])
    found = rk.ResNeXt(
        FLOWERS,
        weights=path,
        classes=len(names),
        classifier_activation=resolve(path).activation,
    ).predict_on_batch(images)
    assert relative_error(found, wanted) <= 1e-5


def test_what_timm_has_not_is_refused_before_anything_is_written(folder, tmp_path):
    cifar = rk.ResNeXt(TINY, weights=None, classes=2, input_shape=(32, 32, 3))
    classifier = rk.load_classifier(weights=folder)
    other = rk.ResNeXt(FLOWERS, weights=None, classes=2, input_shape=(32, 32, 3))
    short = rk.ResNeXt(SHORT, weights=None, classes=2, input_shape=(32, 32, 3))
    more = keras.Sequential([classifier.model, keras.layers.Dense(2)])
    more.build((None, 32, 32, 3))
    target = tmp_path / "written"
    for network, spec, message in (
        (cifar, TINY, "stem for ImageNet"),
        (short, SHORT, "4 stages"),
        (more, FLOWERS, "and nothing else"),
        (other, "resnext101_32x8d", "and nothing else"),
    ):
        mine = rk.Classifier(network, READING, ("a", "b"), "mine")
        with pytest.raises(ValueError, match=message):
            rk.save_timm(mine, target, model=spec)
    twice = rk.Classifier(other, rk.Preprocessing(32, (8, 32)), ("a", "b"), "mine")
    with pytest.raises(ValueError, match="resized once"):
        rk.save_timm(twice, target, model=FLOWERS)
    assert not target.exists()
    with pytest.raises(ValueError, match="does not exist, or overwrite=True"):
        rk.save_timm(classifier, folder)
    with pytest.raises(ValueError, match="stem for ImageNet"):
        rk.convert_weights("digits", target, to="timm")


def test_a_folder_is_named_by_any_path(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    for path in (".", "../flowers", "../flowers/", "~/flowers"):
        found = resolve(path)
        assert (found.short_name, found.run_folder) == ("flowers", None)
        assert found.absolute_name == str(folder)


def test_exports_stand_beside_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for _ in range(2):
        report = rk.export_model("flowers")
        assert report.models["saved_model"].path.name == "flowers.export"
    assert resolve("flowers").class_names == NAMES
