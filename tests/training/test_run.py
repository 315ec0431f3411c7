"""The folder of a run: refused, created, resumed, and opened as a classifier."""

import contextlib
import dataclasses
import errno
import gc
import json
import os
import shutil
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_data import Stop, StopError, image_folder, tfrecords
from weight_files import SMALLEST, TINY

import resnext_keras as rk
from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import default_preprocessing
from resnext_keras.training.callbacks import CHECKPOINT, read_progress
from resnext_keras.training.network import build_network
from resnext_keras.training.recipes import RECIPES, adjusted
from resnext_keras.training.run import open_run
from resnext_keras.training.settings import Phase, Settings, finetune_phases
from resnext_keras.weights.checkpoint import resolve

NAMES = ("dark", "light")

CHANGES = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 images to train on, 8 to validate on, and a broken one."""
    folder = tmp_path_factory.mktemp("data")
    image_folder(folder / "train", 12, NAMES)
    image_folder(folder / "val", 4, NAMES)
    (folder / "train" / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


def train(data, folder, **options):
    """Trains the smallest network, by default for two epochs."""
    options = {"recipe": "cifar", "verbose": 0} | CHANGES | options
    return rk.train(data, folder, SMALLEST, **options)


def settings(data, **changes):
    """The settings of `train`."""
    phase = Phase(adjusted(RECIPES["cifar"], **CHANGES))
    return dataclasses.replace(Settings(str(data), SMALLEST, None, (phase,)), **changes)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A finished run, its result, and the logs and the model that a callback saw."""
    folder, opened, logs = tmp_path_factory.mktemp("runs") / "run", [], []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, values: logs.append((values, callback.model))
    )
    result = train(data, folder, callbacks=callback, on_start=opened.append)
    return opened[0], result, logs


def test_training_returns_the_history_the_files_and_the_evaluation(done):
    run, result, logs = done
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert len(logs) == 2
    assert logs[0][1].input_shape == (None, None, None, 3)
    for row, (values, _) in zip(result.history, logs, strict=True):
        assert row["val_accuracy"] == pytest.approx(values["val_accuracy"])
    assert result.folder == run.folder
    assert all(path.exists() for path in result.files.values())
    assert {"best.weights.h5", "model.keras", "report.html"} <= result.files.keys()
    best = max(row["val_accuracy"] for row in result.history)
    assert result.evaluation.metrics["top_1"] == pytest.approx(best)
    assert result.evaluation.report == result.files["report.html"]


def readers():
    """The threads that read images."""
    return [t for t in threading.enumerate() if t.name.startswith("reading")]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, "stop_training"])
def test_a_run_that_ends_early_leaves_nothing_that_reads(data, tmp_path, kind):
    """Otherwise the process may hang at its end, or print that Python is gone."""

    def stop(step, logs):
        if kind == "stop_training":
            callback.model.stop_training = True
        else:
            raise kind("stopped")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    raised = contextlib.nullcontext()
    if kind != "stop_training":
        raised = pytest.raises(kind, match="stopped")
    with raised:
        train(data, tmp_path / "run", epochs=9, callbacks=callback)
    assert not readers()
    iterators = [o for o in gc.get_objects() if type(o).__name__ == "OwnedIterator"]
    assert not iterators


def test_the_seed_decides_the_first_weights(data, tmp_path):
    first = []

    def stop(logs):
        first.append(callback.model.get_weights()[0])
        raise InterruptedError

    callback = keras.callbacks.LambdaCallback(on_train_begin=stop)
    for run, seed in enumerate((1, 1, 2)):
        with pytest.raises(InterruptedError):
            train(data, tmp_path / str(run), callbacks=[callback], seed=seed)
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(first[0] - first[2]).max() > 0.01


def test_the_seed_decides_the_order_of_the_images(data, tmp_path):
    firsts = []
    for number, seed in enumerate((1, 1, 2)):
        run = open_run(settings(data, seed=seed), tmp_path / str(number))
        with contextlib.closing(run.training_batches(0, 0)) as batches:
            firsts.append(np.concatenate([labels for _, labels in batches]))
    np.testing.assert_array_equal(firsts[0], firsts[1])
    assert not np.array_equal(firsts[0], firsts[2])


def test_a_run_writes_its_settings_its_versions_and_what_it_skipped(done):
    run, result, _ = done
    content = json.loads(result.files["run.json"].read_text())
    assert content["settings"]["phases"][0]["recipe"]["batch_size"] == 8
    assert content["versions"]["keras"] == keras.__version__
    assert len(run.training) == 24
    _, *images = result.files["images.csv"].read_text().splitlines()
    assert sum(",training," in image for image in images) == 24
    assert content["class_names"] == list(NAMES)
    _, skipped = result.files["skipped.csv"].read_text().splitlines()
    assert "broken.jpg" in skipped


def test_a_run_and_its_model_file_separate_the_classes(done, data):
    _, result, _ = done
    classifier = rk.load_classifier(weights=result.folder)
    paths = [data / "val" / name / "0.png" for name in NAMES]
    best = [name for _, ((_, name, _),) in classifier.predict_each(paths, top=1)]
    assert best == ["dark", "light"]
    assert classifier.class_names == NAMES
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")
    expected = classifier.model.predict(images, verbose=0)
    model = keras.saving.load_model(result.files["model.keras"])
    np.testing.assert_allclose(
        model.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-7
    )


def test_a_finished_run_is_resumed_to_itself(done, data):
    _, result, _ = done
    weights = result.files["best.weights.h5"].read_bytes()
    again = train(data, result.folder, resume=True)
    assert again.history == result.history
    assert again.evaluation.metrics == result.evaluation.metrics
    assert result.files["best.weights.h5"].read_bytes() == weights


def test_a_finished_run_goes_on_with_more_epochs_and_their_schedule(
    done, data, tmp_path, caplog
):
    folder = shutil.copytree(done[1].folder, tmp_path / "run")
    whole, ends = train(data, tmp_path / "whole", epochs=4), []

    def read_end(epoch, logs):
        ends.append(json.loads((folder / "run.json").read_text())["end"])

    options = {"callbacks": keras.callbacks.LambdaCallback(on_epoch_begin=read_end)}
    options["resume"] = True
    for _ in range(2):  # the second time there is nothing left to do
        longer = train(data, folder, epochs=4, **options)
        assert longer.history[:2] == done[1].history
        rates = [[row["learning_rate"] for row in r.history] for r in (longer, whole)]
        assert rates[0][2:] == rates[1][2:]
    ours = [r.message for r in caplog.records if r.name.startswith("resnext_keras")]
    assert ours == [  # TensorFlow may warn of retracing
        "The run goes on to 4 epochs. Its schedule is stretched: epoch 3 begins with a "
        "learning rate of 0.001 instead of 0.0001"
    ]
    content = json.loads((folder / "run.json").read_text())
    assert content["settings"]["phases"][0]["recipe"]["epochs"] == 4
    (extension,) = content["extensions"]
    assert (extension["after"], extension["epochs"]) == (2, 4)
    assert ends == [None, None]  # of the epochs that are added
    assert content["end"]["epochs"] == 4
    with pytest.raises(ValueError, match=r"at least the 4 epochs .* 4 are done.*=3"):
        train(data, folder, epochs=3, **options)
    with pytest.raises(ValueError, match=r"settings of the run .*seed=1 instead of 0"):
        train(data, folder, epochs=5, seed=1, **options)
    assert json.loads((folder / "run.json").read_text()) == content


def test_fine_tuning_that_ended_early_goes_on_in_its_last_phase_and_waits_again(
    done, data, tmp_path
):
    accuracies = (0.5, 0.5, 0.7, 0.6, 0.6, 0.6, 0.6, 0.9)

    def set_figures(epoch, logs):
        logs |= {"val_accuracy": accuracies[epoch], "val_loss": 1.0}

    def stop(epoch, logs):
        if epoch == 5:
            raise InterruptedError

    figures = keras.callbacks.LambdaCallback(on_epoch_end=set_figures)
    options = {"weights": done[1].folder, "batch_size": 8, "patience": 2, "verbose": 0}
    options |= {"callbacks": figures, "resume": True}

    def history(epochs, **more):
        folder = tmp_path / "run"
        result = rk.finetune(data, folder, **options | more, epochs=epochs)
        return [row["phase"] for row in result.history]

    assert history(1) == [1]
    assert history(6) == [1, 2, 2, 2, 2]  # of six
    stopping = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    with pytest.raises(InterruptedError):
        history(9, callbacks=[figures, stopping])
    assert history(9) == [1, 2, 2, 2, 2, 2, 2]
    with pytest.raises(ValueError, match=r"at least the 9 epochs .* 7 are done.*=8"):
        history(8)


@pytest.mark.parametrize(
    ("package", "extra", "options"),
    [
        ("matplotlib", "train", {}),
        ("jinja2", "train", {}),
        ("tensorboard", "tensorboard", {"tensorboard": True}),
    ],
)
def test_a_missing_package_is_an_error_at_the_start(
    data, tmp_path, monkeypatch, package, extra, options
):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'{package} to be installed: pip install "resnext-keras\[{extra}\]"'
    for function in (rk.train, rk.finetune, *[rk.evaluate] * (not options)):
        with pytest.raises(ImportError, match=message):
            function(data, output=tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorflow
def test_tensorboard_gets_each_epoch_once_though_a_run_is_stopped(data, tmp_path):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    with pytest.raises(StopError):
        train(data, folder, tensorboard=True, callbacks=Stop(4))
    result = train(data, folder, tensorboard=True, resume=True)
    assert result.files["tensorboard"] == folder / "tensorboard"
    for split, prefix in (("train", ""), ("validation", "val_")):
        values = []
        for path in sorted((folder / "tensorboard" / split).glob("events*")):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    if value.tag == "epoch_accuracy":
                        values.append(
                            (event.step, float(tf.make_ndarray(value.tensor)))
                        )
        expected = [row[f"{prefix}accuracy"] for row in result.history]
        np.testing.assert_allclose(values, list(enumerate(expected)), rtol=1e-6)


# Refused


def test_a_folder_that_exists_is_not_trained_into(done, data, tmp_path):
    folder = done[0].folder
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError, match="folder that does not exist, or resume=True"):
        open_run(settings(data), folder)
    assert sorted(path.name for path in folder.iterdir()) == before
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
def test_a_run_resumes_only_with_its_settings(done, data, changes, message):
    with pytest.raises(ValueError, match=rf"settings of the run .*{message}"):
        open_run(settings(data, **changes), done[0].folder, resume=True)


def test_a_run_resumes_only_with_its_images_or_on_demand_without_the_changed(
    done, data, tmp_path
):
    run = done[0]
    changed = shutil.copytree(data, tmp_path / "changed")
    shutil.copy(changed / "train" / "dark" / "1.png", changed / "train" / "dark" / "x")
    (changed / "train" / "dark" / "labels.cache").write_text("no image")
    for name in ("train/dark/0.png", "val/light/1.png"):
        (changed / name).unlink()
    message = (
        "2 missing: 'train/dark/0.png', 'val/light/1.png'; 1 new: 'train/dark/x'. "
        "Restore the data, or pass allow_changed"
    )
    with pytest.raises(ValueError, match=message):
        open_run(settings(changed), run.folder, resume=True)
    again = open_run(settings(changed), run.folder, resume=True, allow_changed=True)
    for before, now, name in zip(
        (run.training, run.validation),
        (again.training, again.validation),
        ("train/dark/0.png", "val/light/1.png"),
        strict=True,
    ):
        expected = [
            os.path.relpath(path, data) for path in before.names if name not in path
        ]
        assert [os.path.relpath(path, changed) for path in now.names] == expected


def test_a_resumed_run_has_all_its_epochs_though_images_are_missing(data, tmp_path):
    """With 24 images an epoch has three steps, with 22 it would have two."""
    copy = shutil.copytree(data, tmp_path / "data")
    options = {"checkpoint_seconds": 0}
    with pytest.raises(StopError):
        train(copy, tmp_path / "run", **options, callbacks=Stop(4))
    for number in range(2):
        (copy / "train" / "dark" / f"{number}.png").unlink()
    options |= {"resume": True, "allow_changed": True}
    result = train(copy, tmp_path / "run", **options)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert read_progress(tmp_path / "run" / CHECKPOINT)["step"] == 6


def test_a_held_out_image_is_never_trained_on_after_a_change(tmp_path):
    data = image_folder(tmp_path / "data", 10, NAMES)
    run = open_run(settings(data), tmp_path / "run")
    (data / NAMES[0] / "0.png").unlink()
    again = open_run(settings(data), run.folder, resume=True, allow_changed=True)
    assert set(again.validation.names) <= set(run.validation.names)
    assert set(again.training.names) <= set(run.training.names)
    assert len(again.training) + len(again.validation) == 19


def test_images_that_vanish_while_it_trains_are_named_and_it_goes_on(
    data, tmp_path, caplog
):
    copy = shutil.copytree(data, tmp_path / "data")
    gone = [copy / "train" / "dark" / "3.png", copy / "val" / "light" / "1.png"]

    def remove(epoch, logs):
        for path in gone:
            path.unlink(missing_ok=True)

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=remove)
    result = train(copy, tmp_path / "run", callbacks=[callback])
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert all(f"{path}: no such file" in caplog.text for path in gone)
    assert {str(path) for path in gone} <= dict(result.evaluation.skipped).keys()


def test_a_run_without_images_of_a_class_trains_and_resumes(tmp_path):
    """`none` has no images; `bright` has none to validate on."""
    data = image_folder(tmp_path / "data" / "train", 8, ("bright", "dark")).parent
    image_folder(data / "val", 4, ("dark", "light"))
    shutil.rmtree(data / "val" / "light")
    (data / "train" / "none").mkdir()
    with pytest.raises(StopError):
        train(data, tmp_path / "run", callbacks=Stop(3))
    result = train(data, tmp_path / "run", resume=True)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert [row["class"] for row in result.evaluation.classes] == ["dark"]
    assert result.evaluation.dataset.class_names == ("bright", "dark")


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("val", 4)])
def test_too_many_that_vanish_end_the_run_with_their_names(
    data, tmp_path, split, count
):
    copy = shutil.copytree(data, tmp_path / "data")

    def remove(epoch, logs):
        for number in range(count):
            (copy / split / "light" / f"{number}.png").unlink()

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=remove)
    with pytest.raises(ValueError, match=r"at most 2 images .*light/\d.png: no such"):
        train(copy, tmp_path / "run", callbacks=[callback], epochs=30)
    assert not (tmp_path / "run" / "best.weights.h5").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_disk_that_fails_ends_the_run_which_resumes(
    data, tmp_path, monkeypatch, split
):
    """A failing disk is no fault of an image: the next ones would be lost too."""
    fails, opened = [], open

    def guarded(path, *arguments, **options):
        if fails and f"{split}/light/3.png" in str(path):
            raise OSError(errno.EIO, "Input/output error", path)
        return opened(path, *arguments, **options)

    def fail(epoch, logs):
        fails.append(epoch)

    monkeypatch.setattr("builtins.open", guarded)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=fail)
    with pytest.raises(OSError, match=r"light/3\.png.*Input/output.*resume"):
        train(data, tmp_path / "run", callbacks=callback, epochs=3)
    fails.clear()
    result = train(data, tmp_path / "run", resume=True, epochs=3)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    fails.append(0)
    with pytest.raises(OSError, match="Input/output"):
        rk.evaluate(
            data / split,
            weights=tmp_path / "run",
            output=tmp_path / "report",
            include_training=True,
        )


@pytest.mark.parametrize(
    ("names", "message"),
    [(["dark", "bright"], "class_names='light' instead of"), (["a"], "2 class_names")],
)
def test_a_difference_names_what_differs(done, data, tmp_path, names, message):
    folder = shutil.copytree(done[0].folder, tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"class_names": names}))
    with pytest.raises(ValueError, match=f"Received: {message}"):
        open_run(settings(data), folder, resume=True)


def test_no_more_steps_are_run_at_once_than_an_epoch_has(done, data):
    too_many = settings(data, steps_per_execution=4)
    with pytest.raises(ValueError, match=r"at most 3, .* steps_per_execution=4"):
        open_run(too_many, done[0].folder, resume=True)


def test_weights_for_other_images_than_rgb_are_refused_before_anything_is_written(
    tmp_path,
):
    network = rk.ResNeXt(SMALLEST, weights=None, input_shape=(32, 32, 1), classes=3)
    network.save_weights(tmp_path / "grey.weights.h5")
    weights = {"weights": tmp_path / "grey.weights.h5", "model": SMALLEST}
    for function, arguments in (
        (rk.finetune, (tmp_path, tmp_path / "run")),
        (rk.load_classifier, ()),
        (rk.verify_weights, ()),
    ):
        with pytest.raises(rk.WeightsError, match=r"RGB images; .*grey.* has 1 input"):
            function(*arguments, **weights)
    assert not (tmp_path / "run").exists()


def test_changes_of_a_recipe_may_name_every_field(tmp_path):
    with pytest.raises(ValueError, match=r"Expected `epochs` of a recipe .*epochs=0"):
        rk.train(tmp_path, tmp_path / "run", SMALLEST, recipe_changes={"epochs": 0})


# Resumed with a broken image


def test_a_run_resumes_when_its_images_were_moved(data, tmp_path):
    before = shutil.copytree(data, tmp_path / os.fsdecode(b"before \xff"))
    run = open_run(settings(before), tmp_path / "run")
    for place in (before, shutil.copytree(before, tmp_path / "moved")):
        again = open_run(settings(place), run.folder, resume=True)
        assert len(again.training) == len(run.training) == 24
        ((name, _),) = again.skipped
        assert name == f"{readable(str(place))}/train/dark/broken.jpg"


def test_a_run_on_one_record_file_resumes_without_the_broken_record(data, tmp_path):
    tfrecords(tmp_path / "records", data / "train", NAMES)
    shutil.copytree(tmp_path / "records", tmp_path / "moved")
    for folder in ("records", "moved"):
        path = tmp_path / folder / "all.tfrecord"
        run = open_run(settings(path), tmp_path / "run", resume=True)
        ((broken, _),) = run.skipped
        assert broken == f"{path}, record 12"
        assert len(run.training) + len(run.validation) == 24


def test_broken_images_are_left_out_before_the_split(tmp_path):
    data = image_folder(tmp_path / "data", 2, ("a", "b"))
    for number in range(6):
        (data / "a" / f"{number}.jpg").write_text("a letter")
    for _ in range(2):
        run = open_run(settings(data), tmp_path / "run", resume=True)
        assert len(run.skipped) == 6
        assert sorted(run.training.labels) == [0, 1]
        assert sorted(run.validation.labels) == [0, 1]


# Steps, phases and preprocessing


@pytest.mark.parametrize(
    ("batch", "parts", "steps", "rows"),
    [(8, 1, 3, 32), (8, 4, 12, 8), (64, 1, 1, 64), (64, 4, 4, 64), (8, 8, 24, 4)],
)
def test_a_batch_in_parts_is_one_step_and_lowers_the_memory_of_validation(
    done, data, batch, parts, steps, rows
):
    phase = Phase(adjusted(RECIPES["cifar"], batch_size=batch))
    changed = settings(data, phases=(phase,), accumulate=parts)
    run = dataclasses.replace(done[0], settings=changed)
    assert (run.steps(phase), run.evaluation_rows) == (steps, rows)


@pytest.mark.long
def test_fine_tuning_starts_from_the_weights_with_a_new_classifier(data, tmp_path):
    runs = []
    options = {"epochs": 2, "batch_size": 8, "on_start": runs.append, "verbose": 0}
    result = rk.finetune(data, tmp_path / "run", weights="digits", **options)
    (run,) = runs
    assert run.settings.spec.name == "resnext11_8x4d"
    assert run.settings.weights.name == "resnext11_8x4d.digits"
    assert [(phase.recipe.epochs, phase.frozen) for phase in run.settings.phases] == [
        (1, "conv4"),
        (1, "conv2"),
    ]
    assert [row["phase"] for row in result.history] == [1, 2]
    classifier = rk.load_classifier(weights=result.folder)
    assert classifier.model.output_shape == (None, 2)


def test_fine_tuning_takes_weights_without_a_classifier(data, tmp_path):
    network = rk.ResNeXt(TINY, False, None, input_shape=(32, 32, 3))
    network.save_weights(tmp_path / "notop.weights.h5")
    checkpoint = resolve(tmp_path / "notop.weights.h5", TINY)
    assert checkpoint.classes is None
    to = settings(data, spec=TINY, weights=checkpoint)
    tuned = build_network(to, 2, default_preprocessing(32))
    assert tuned.output_shape == (None, 2)
    pairs = zip(network.weights, tuned.weights, strict=False)
    assert all(np.array_equal(weight, other) for weight, other in pairs)


@pytest.mark.parametrize("epochs", ["many", 2.5, 0])
def test_epochs_of_fine_tuning_are_a_positive_integer(epochs):
    with pytest.raises(ValueError, match=f"`epochs` to be a positive .*={epochs!r}"):
        finetune_phases(SMALLEST, epochs=epochs)


def test_validation_sees_as_much_detail_as_random_crops_do(data, tmp_path):
    checkpoint = resolve("digits")
    assert checkpoint.preprocessing.resize == (8, 32)
    to = settings(data, weights=checkpoint, spec=checkpoint.spec)
    preprocessing = open_run(to, tmp_path / "run").preprocessing
    assert (preprocessing.resize, preprocessing.size) == (32, 32)
