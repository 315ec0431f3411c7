"""An export is whole or not there, and nothing of others is replaced by it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from keras import layers
from weight_files import build

from resnext_keras import Preprocessing, export_saved_model
from resnext_keras.io import atomic_directory

pytestmark = pytest.mark.tensorflow

NAMES = ("ash", "birch", "cedar", "elm", "fir")


@pytest.fixture(scope="module")
def classifier():
    return build()


def test_an_earlier_export_is_replaced_only_when_asked(classifier, tmp_path):
    path = tmp_path / "trees"
    export_saved_model(classifier, path)
    before = (path / "1" / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(ValueError, match="overwrite=True"):
        export_saved_model(classifier, path)
    assert (path / "1" / "saved_model.pb").stat().st_mtime_ns == before
    export_saved_model(classifier, path, class_names=NAMES, overwrite=True)
    card = json.loads((path / "1" / "assets" / "model.json").read_text())
    assert card["class_names"] == list(NAMES)
    assert os.listdir(tmp_path) == ["trees"]


def test_models_of_others_are_never_replaced(classifier, tmp_path):
    for name in ("models", "versions"):
        export_saved_model(classifier, tmp_path / name)
    models, versions = tmp_path / "models", tmp_path / "versions"
    (models / "1").rename(models / "mine")
    shutil.copytree(models / "mine", versions / "7")
    for path in (models, versions):
        before = sorted(path.rglob("*"))
        with pytest.raises(ValueError, match="earlier export"):
            export_saved_model(classifier, path, overwrite=True)
        assert sorted(path.rglob("*")) == before


def test_what_appears_meanwhile_is_not_replaced(classifier, tmp_path, monkeypatch):
    path = tmp_path / "trees"

    save = tf.saved_model.save

    def save_while_another_appears(*arguments):
        save(*arguments)
        path.mkdir()
        (path / "mine").touch()

    monkeypatch.setattr(tf.saved_model, "save", save_while_another_appears)
    with pytest.raises(OSError, match="trees could not be written"):
        export_saved_model(classifier, path)
    assert os.listdir(path) == ["mine"]


def test_an_interrupted_replacement_leaves_the_earlier_one(tmp_path, monkeypatch):
    target, rename = tmp_path / "trees", Path.rename
    target.mkdir()
    (target / "mine").touch()

    def interrupted(self, other):
        if self.name == "trees" and self.parent != tmp_path:
            raise KeyboardInterrupt
        return rename(self, other)

    with pytest.raises(KeyboardInterrupt), atomic_directory(target, overwrite=True):
        monkeypatch.setattr(Path, "rename", interrupted)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["trees"]
    assert os.listdir(target) == ["mine"]


def test_a_folder_of_other_things_is_never_replaced(classifier, tmp_path):
    for name in ("file", "empty/", "full/1/mine"):
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text("mine")
    for name in ("file", "empty", "full"):
        with pytest.raises(ValueError, match="earlier export"):
            export_saved_model(classifier, tmp_path / name, overwrite=True)
    assert (tmp_path / "full" / "1" / "mine").read_text() == "mine"


# Exports once onto a disk that is soon full, and then is killed with all but the name
# of the folder written.
FAIL_TWICE = """
import os, resource, signal, sys
import tensorflow as tf
import resnext_keras as rk
spec = rk.ResNeXtSpec("tiny", (1,), 4, 4, stem="cifar")
model = rk.ResNeXt(spec, weights=None, input_shape=(32, 32, 3))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
try:
    rk.export_saved_model(model, sys.argv[1])
except OSError as error:
    print(error, flush=True)
print(os.listdir("."), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
save = tf.saved_model.save
def save_and_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
tf.saved_model.save = save_and_die
rk.export_saved_model(model, sys.argv[1])
"""


def test_a_full_disk_or_a_kill_leaves_no_half_model(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FAIL_TWICE, "trees"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr[-3000:]
    told, files = done.stdout.splitlines()
    assert "trees could not be written" in told
    assert files == "[]"
    assert not (tmp_path / "trees").exists()


def two_inputs():
    images = [keras.Input((32, 32, 3)) for _ in range(2)]
    return keras.Model(images, layers.Dense(2)(layers.Flatten()(images[0] + images[1])))


def flat(*shape, batch=None, dtype="float32"):
    image = keras.Input(batch_shape=(batch, *shape), dtype=dtype)
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))


@pytest.mark.parametrize(
    ("model", "options", "received"),
    [
        (lambda: layers.Dense(2), {}, "Received: model="),
        (keras.Sequential, {}, "Received: model="),
        (two_inputs, {}, r"\(None, 32, 32, 3\) and float32 \(None"),
        (lambda: flat(32, 32, 4), {}, r"\(None, 32, 32, 4\)"),
        (lambda: flat(32, 48, 3), {}, r"\(None, 32, 48, 3\)"),
        (lambda: flat(32, 32, 3, batch=2), {}, r"\(2, 32, 32, 3\)"),
        (lambda: flat(32), {}, r"\(None, 32\)"),
        (lambda: flat(32, 32, 3, dtype="uint8"), {}, "uint8"),
        (None, {"top": 0}, "top=0"),
        (None, {"top": "5"}, "top='5'"),
        (None, {"class_names": NAMES[:2]}, r"5 classes\. Received: 2 names"),
        (None, {"class_names": "trees"}, "class_names='trees'"),
        (None, {"weights": "no_such_set"}, "no_such_set"),
        (None, {"weights": "digits"}, "resnext11_8x4d.digits has 10"),
        (None, {"class_names": 5}, "class_names=5"),
        (None, {"licence": 5}, "licence=5"),
        (None, {"preprocessing": (32, 32)}, r"preprocessing=\(32, 32\)"),
        (None, {"weights": "resnext50_32x4d.tv2_in1k"}, "size=32"),
        (None, {"preprocessing": Preprocessing(48, 48)}, "preprocessing="),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    classifier, tmp_path, model, options, received
):
    with pytest.raises(ValueError, match=received):
        export_saved_model(model() if model else classifier, tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_named(classifier, tmp_path):
    with pytest.raises(ValueError, match="existing folder"):
        export_saved_model(classifier, tmp_path / "missing" / "trees")
