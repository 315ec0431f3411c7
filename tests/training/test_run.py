"""The folder of a run: refused, made, gone on with, and opened as a classifier."""

import dataclasses
import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from run_data import tfrecords

from resnext_keras import ResNeXtSpec
from resnext_keras.classifier import load_classifier
from resnext_keras.images.listing import readable
from resnext_keras.training.evaluation import evaluate
from resnext_keras.training.recipes import RECIPES, adjusted
from resnext_keras.training.run import SKIPPED, open_run
from resnext_keras.training.settings import Phase, Settings, finetune_phases
from resnext_keras.training.trainer import MODEL, finetune, train
from resnext_keras.weights.checkpoint import RUN, resolve, weights_preprocessing

TINY = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Dark and light images, one of them broken."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, low in (("dark", 0), ("light", 150)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 100, (40, 36, 3), "uint8")
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    (folder / "train" / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


def settings(data, **changes):
    recipe = adjusted(RECIPES["cifar"], batch_size=8, epochs=2, learning_rate=0.01)
    return dataclasses.replace(
        Settings(str(data), TINY, None, (Phase(recipe),)), **changes
    )


RUN_OPTIONS = {"recipe": "cifar", "batch_size": 8, "epochs": 2, "learning_rate": 0.01}


class Seen(keras.callbacks.Callback):
    """Counts epochs, and keeps the model."""

    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.seen = self.model
        assert "val_accuracy" in logs


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A finished run, by a call with a callback; the run, the result, the callback."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    seen, opened = Seen(), []
    options = {"callbacks": [seen], "on_start": opened.append, "verbose": 0}
    result = train(data, folder, TINY, **RUN_OPTIONS, **options)
    return opened[0], result, seen


def test_training_returns_what_the_command_prints(done):
    run, result, seen = done
    assert seen.epochs == 2
    assert seen.seen.input_shape == (None, None, None, 3)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert result.folder == run.folder
    assert all(path.exists() for path in result.files.values())
    assert {"best.weights.h5", "model.keras", "report.html"} <= result.files.keys()
    best = max(row["val_accuracy"] for row in result.history)
    assert result.evaluation.figures["top_1"] == pytest.approx(best)
    assert result.evaluation.report == result.files["report.html"]


def test_a_run_leaves_a_network_that_separates_the_classes(done, data):
    run, _, _ = done
    classifier = load_classifier(weights=run.folder)
    paths = [data / "val" / name / "0.png" for name in ("dark", "light")]
    found = [name for _, ((_, name, _),) in classifier.predict_files(paths, top=1)]
    assert found == ["dark", "light"]
    assert classifier.class_names == ("dark", "light")
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")
    expected = classifier.model.predict(images, verbose=0)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    model = keras.saving.load_model(run.folder / MODEL)
    np.testing.assert_allclose(
        model.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_an_error_at_the_start(
    data, tmp_path, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)
    for function in (train, finetune, evaluate):
        with pytest.raises(ImportError, match=rf"{package}.*resnext-keras\[train\]"):
            function(data, output=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_is_broken_is_left_out_and_listed(done):
    run, _, _ = done
    assert len(run.training) == 24
    lines = (run.folder / SKIPPED).read_text().splitlines()
    assert len(lines) == 2
    assert "broken.jpg" in lines[1]


def test_a_run_has_its_settings_and_versions(done):
    run, _, _ = done
    content = json.loads((run.folder / RUN).read_text())
    assert content["settings"]["phases"][0]["recipe"]["batch_size"] == 8
    assert content["versions"]["keras"] == keras.__version__
    assert content["images"]["training"] == 24
    assert content["class_names"] == ["dark", "light"]


def test_a_folder_that_exists_is_not_trained_into(done, data, tmp_path):
    run, _, _ = done
    before = sorted(path.name for path in run.folder.iterdir())
    with pytest.raises(ValueError, match="folder that does not exist, or resume=True"):
        open_run(settings(data), run.folder)
    assert sorted(path.name for path in run.folder.iterdir()) == before
    with pytest.raises(ValueError, match=r"the folder of a run, with a run\.json"):
        open_run(settings(data), tmp_path, resume=True)
    with pytest.raises(ValueError, match="in an existing folder"):
        open_run(settings(data), tmp_path / "none" / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed=1 instead of 0"),
        ({"size": 40}, "size=40 instead of None"),
        ({"accumulate": 2}, "accumulate=2 instead of 1"),
    ],
)
def test_a_run_goes_on_with_the_settings_it_began_with_alone(
    done, data, changes, message
):
    run, _, _ = done
    with pytest.raises(ValueError, match=rf"settings of the run .*{message}"):
        open_run(settings(data, **changes), run.folder, resume=True)


def test_a_run_does_not_go_on_with_other_images(done, data, tmp_path):
    run, _, _ = done
    extra = data / "train" / "dark" / "more.png"
    Image.new("RGB", (40, 40)).save(extra)
    try:
        with pytest.raises(ValueError, match="images of the run"):
            open_run(settings(data), run.folder, resume=True)
    finally:
        extra.unlink()


def test_a_run_goes_on_when_its_images_were_moved(data, tmp_path):
    before = shutil.copytree(data, tmp_path / os.fsdecode(b"before \xff"))
    run = open_run(settings(before), tmp_path / "run")
    for place in (before, shutil.copytree(before, tmp_path / "moved")):
        again = open_run(settings(place), run.folder, resume=True)
        assert len(again.training) == len(run.training) == 24
        ((name, _),) = again.skipped
        assert name == f"{readable(str(place))}/train/dark/broken.jpg"


@pytest.mark.parametrize("name", ["000.jpg", "zzz.jpg"])
def test_a_broken_image_is_not_what_is_held_out(tmp_path, name):
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            image = Image.new("RGB", (40, 40), (100 * number,) * 3)
            image.save(tmp_path / "data" / label / f"{number}.png")
    (tmp_path / "data" / "a" / name).write_text("a letter")
    for seed in range(4):
        to = settings(tmp_path / "data", seed=seed)
        for _ in range(2):
            run = open_run(to, tmp_path / f"run{seed}", resume=True)
            assert len(run.skipped) == 1
            assert sorted(run.training.labels) == [0, 1]
            assert sorted(run.validation.labels) == [0, 1]


def test_a_run_on_one_file_of_records_goes_on_without_the_broken_one(data, tmp_path):
    tfrecords(tmp_path / "records", data / "train", ("dark", "light"))
    shutil.copytree(tmp_path / "records", tmp_path / "moved")
    for folder in ("records", "moved"):
        path = tmp_path / folder / "all.tfrecord"
        run = open_run(settings(path), tmp_path / "run", resume=True)
        ((broken, _),) = run.skipped
        assert broken == f"{path}, record 12"
        assert len(run.training) + len(run.validation) == 24


def test_a_batch_in_parts_is_one_however_few_the_images(done, data):
    run, _, _ = done
    for batch, parts, steps in ((8, 1, 3), (8, 4, 12), (64, 1, 1), (64, 4, 4)):
        recipe = adjusted(RECIPES["cifar"], batch_size=batch)
        to = settings(data, phases=(Phase(recipe),), accumulate=parts)
        assert dataclasses.replace(run, settings=to).steps(to.phases[0]) == steps


def test_no_more_steps_are_run_at_once_than_an_epoch_has(data, tmp_path):
    with pytest.raises(ValueError, match=r"at most 3, .* steps_per_execution=4"):
        open_run(settings(data, steps_per_execution=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_resumed_to_itself(done, data):
    run, result, _ = done
    before = load_classifier(weights=run.folder).model.get_weights()
    again = train(data, run.folder, TINY, **RUN_OPTIONS, resume=True, verbose=0)
    assert again.history == result.history
    after = load_classifier(weights=run.folder).model.get_weights()
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.long
def test_fine_tuning_starts_from_the_weights_with_a_new_classifier(data, tmp_path):
    runs = []
    options = {"epochs": 2, "batch_size": 8, "on_start": runs.append, "verbose": 0}
    result = finetune(data, tmp_path / "run", weights="digits", **options)
    (run,) = runs
    assert run.settings.spec.name == "resnext11_8x4d"
    assert run.settings.weights.name == "resnext11_8x4d.digits"
    assert [(phase.recipe.epochs, phase.frozen) for phase in run.settings.phases] == [
        (1, "conv4"),
        (1, "conv2"),
    ]
    assert [row["phase"] for row in result.history] == [1, 2]
    classifier = load_classifier(weights=result.folder)
    assert classifier.model.output_shape == (None, 2)


@pytest.mark.parametrize("epochs", ["many", 2.5, 0])
def test_epochs_of_fine_tuning_that_are_no_number_are_refused(epochs):
    with pytest.raises(ValueError, match=f"`epochs` to be a positive .*={epochs!r}"):
        finetune_phases(TINY, epochs=epochs)


def test_validation_sees_as_much_detail_as_random_crops_do(data, tmp_path):
    checkpoint = resolve("digits")
    to = settings(data, weights=checkpoint, spec=checkpoint.spec)
    assert weights_preprocessing("digits").resize == (8, 32)
    preprocessing = open_run(to, tmp_path / "run").preprocessing
    assert preprocessing.resize == 32
    assert preprocessing.size == 32


@pytest.mark.parametrize(("parts", "rows"), [(1, 32), (4, 8), (8, 4)])
def test_who_lowers_the_memory_of_a_step_lowers_that_of_validation(
    done, data, parts, rows
):
    run, _, _ = done
    run = dataclasses.replace(run, settings=settings(data, accumulate=parts))
    assert run.evaluation_rows == rows
