"""Whatever `weights=` takes becomes a `Checkpoint`: found and opened once."""

import builtins
import dataclasses
import gc
import io
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
from weight_files import TINY, assert_same, build, keras_values, numbers, read

from resnext_keras import (
    Preprocessing,
    ResNeXt,
    WeightsError,
    class_names,
    convert_weights,
    load_classifier,
    weights_preprocessing,
)
from resnext_keras.models.specs import get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.run_folder import BEST, RUN

LISTED = get_spec("resnext11_8x4d")
NAMES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def listed_model():
    """A network of the table, for three classes."""
    return ResNeXt(LISTED, weights=None, classes=3)


@pytest.fixture(scope="module")
def listed_file(listed_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("listed") / "own.weights.h5"
    listed_model.save_weights(path)
    return path


@pytest.fixture
def run_folder(listed_file, tmp_path):
    """The folder of a training run, as far as a checkpoint needs it."""
    folder = tmp_path / "my.run"
    folder.mkdir()
    shutil.copy(listed_file, folder / BEST)
    content = {
        "settings": {"spec": dataclasses.asdict(LISTED)},
        "preprocessing": dataclasses.asdict(Preprocessing(40, 44)),
        "class_names": NAMES,
    }
    (folder / RUN).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("weights", "model", "name"),
    [
        ("resnext50_32x4d.a1_in1k", None, "resnext50_32x4d.a1_in1k"),
        ("a1_in1k", "resnext50_32x4d", "resnext50_32x4d.a1_in1k"),
        ("mm_in1k", None, "resnext152_32x4d.mm_in1k"),
        ("IMAGENET1K_V1", get_spec("resnext50_32x4d"), "resnext50_32x4d.tv_in1k"),
        ("imagenet", "resnext101_32x8d", "resnext101_32x8d.tv2_in1k"),
        ("resnext101_32x8d.imagenet", None, "resnext101_32x8d.tv2_in1k"),
        ("resnext50_32x4d.imagenet", "resnext50_32x4d", "resnext50_32x4d.tv2_in1k"),
        (None, None, "resnext50_32x4d.tv2_in1k"),
        (None, "resnext101_64x4d", "resnext101_64x4d.c1_in1k"),
        (None, "resnext11_8x4d", "resnext11_8x4d.digits"),
        ("digits", None, "resnext11_8x4d.digits"),
        ("keras_in1k_notop", "resnext50_32x4d", "resnext50_32x4d.keras_in1k_notop"),
    ],
)
def test_a_weight_set(weights, model, name):
    checkpoint = resolve(weights, model)
    weight_set = checkpoint.weight_set
    assert checkpoint.name == checkpoint.short_name == weight_set.name == name
    assert checkpoint.spec == get_spec(name.partition(".")[0])
    assert checkpoint.classes == weight_set.classes
    assert len(checkpoint.class_names) == (weight_set.classes or 0)
    assert checkpoint.preprocessing == weight_set.preprocessing
    assert checkpoint.licence == weight_set.licence
    assert checkpoint.channels == 3
    assert resolve(checkpoint) is resolve(checkpoint, checkpoint.spec) is checkpoint
    assert resolve(name, model) == checkpoint


@pytest.mark.parametrize(("as_type", "model"), [(str, None), (Path, "resnext11_8x4d")])
def test_a_file(listed_file, as_type, model):
    checkpoint = resolve(as_type(listed_file), model)
    assert (checkpoint.spec, checkpoint.classes, checkpoint.channels) == (LISTED, 3, 3)
    assert checkpoint.class_names == ("0", "1", "2")
    assert checkpoint.preprocessing == Preprocessing(32, 32)
    assert (checkpoint.licence, checkpoint.weight_set) == (None, None)
    assert (checkpoint.name, checkpoint.short_name) == (str(listed_file), "own")
    assert checkpoint.fetch() == listed_file


def test_a_file_of_a_thousand_classes_has_those_of_imagenet(resnext50_file):
    checkpoint = resolve(resnext50_file)
    assert checkpoint.class_names == class_names("imagenet")
    assert checkpoint.preprocessing == Preprocessing(224, 256)


def test_a_file_of_a_network_outside_the_table_needs_its_spec(good_weights):
    for path in good_weights.values():
        message = r"list_models\(\).*its ResNeXtSpec as `model`\. Received: "
        with pytest.raises(WeightsError, match=message) as error:
            resolve(path)
        assert str(path) in str(error.value)
        assert resolve(path, TINY).classes == 5


@pytest.mark.parametrize("form", [str, lambda f: f / BEST, lambda f: f"{f}{os.sep}"])
def test_a_training_run(run_folder, form):
    checkpoint = resolve(form(run_folder))
    assert checkpoint.spec == LISTED
    assert (checkpoint.classes, checkpoint.class_names) == (3, NAMES)
    assert checkpoint.preprocessing == Preprocessing(40, 44)
    assert (checkpoint.name, checkpoint.short_name) == (str(run_folder), "my.run")
    assert weights_preprocessing(form(run_folder)) == checkpoint.preprocessing
    same = dataclasses.replace(LISTED, name="of_another_name")
    assert resolve(form(run_folder), same).spec == same
    with pytest.raises(WeightsError, match=r"weights of 'tiny'; .* 'resnext11_8x4d'"):
        resolve(form(run_folder), TINY)


def test_a_run_that_is_described_in_another_way(run_folder):
    (run_folder / RUN).write_text('{"settings": {}}')
    with pytest.raises(WeightsError, match=rf"Expected {RUN} beside .*'spec'"):
        resolve(run_folder)
    (run_folder / RUN).unlink()
    with pytest.raises(WeightsError, match="found a folder without"):
        resolve(run_folder)


def test_a_checkpoint_of_another_architecture_is_refused():
    with pytest.raises(WeightsError, match=r"'tiny'; resnext11_8x4d\.digits is of"):
        resolve(resolve("digits"), TINY)


def test_everything_takes_a_checkpoint(listed_model, listed_file, tmp_path):
    expected = numbers(listed_model)
    checkpoint = resolve(listed_file)
    assert_same(numbers(ResNeXt(LISTED, weights=checkpoint, classes=3)), expected)
    classifier = load_classifier(weights=checkpoint)  # which is opened again
    assert classifier.weights == str(listed_file)
    assert_same(numbers(classifier.model), expected)
    target = tmp_path / "converted.safetensors"
    convert_weights(checkpoint, target)
    assert_same(read(target, LISTED, 3), expected)


def test_another_process_may_get_it(good_weights):
    checkpoint = resolve(good_weights[".safetensors"], TINY)
    again = pickle.loads(pickle.dumps(checkpoint))
    assert again == checkpoint
    assert_same(numbers(build(again)), keras_values())


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_a_file_that_is_not_used_is_closed(good_weights, suffix, monkeypatch):
    opened = []

    def remembered(*args, **options):
        opened.append(open_(*args, **options))
        return opened[-1]

    open_ = builtins.open
    monkeypatch.setattr(builtins, "open", remembered)
    monkeypatch.setattr(io, "open", remembered)  # of Path.open
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # ResourceWarning too
        checkpoint = resolve(good_weights[suffix], TINY)
        assert any(not file.closed for file in opened)
        del checkpoint
        gc.collect()
        assert all(file.closed for file in opened)
        with pytest.raises(WeightsError, match="does not fit"):
            resolve(good_weights[suffix], dataclasses.replace(TINY, depths=(1, 2)))
        assert all(file.closed for file in opened)


def test_the_numbers_are_those_of_the_file_that_was_opened_first(
    good_weights, tmp_path
):
    """A training run replaces its best weights while they are loaded."""
    path = tmp_path / "best.safetensors"
    shutil.copy(good_weights[".safetensors"], path)
    checkpoint = resolve(path, TINY)
    path.with_suffix(".new").write_bytes(b"another")
    path.with_suffix(".new").replace(path)
    with checkpoint.open(variable_shapes(TINY, classes=5)) as tensors:
        values = {name: tensor.read() for name, tensor in tensors.items()}
    assert_same(values, keras_values())


def test_the_default_says_what_needs_no_download():
    with pytest.raises(WeightsError, match=r"by hand.*weights='digits'") as error:
        load_classifier()
    assert "resnext50_32x4d" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError) as error:
        load_classifier("resnext50_32x4d")
    assert "digits" not in str(error.value)
