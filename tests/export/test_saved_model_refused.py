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


@pytest.fixture(scope="module")
def classifier():
    return build()


@pytest.fixture(scope="module")
def earlier(classifier, tmp_path_factory):
    """An earlier export."""
    folder = tmp_path_factory.mktemp("earlier") / "trees"
    export_saved_model(classifier, folder)
    return folder


def test_an_earlier_export_is_replaced_only_when_asked(classifier, earlier, tmp_path):
    path = shutil.copytree(earlier, tmp_path / "trees")
    before = (path / "1" / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(ValueError, match="overwrite=True"):
        export_saved_model(classifier, path)
    assert (path / "1" / "saved_model.pb").stat().st_mtime_ns == before
    export_saved_model(classifier, path, class_names=list("abcde"), overwrite=True)
    card = json.loads((path / "1" / "assets" / "model.json").read_text())
    assert card["class_names"] == list("abcde")
    assert os.listdir(tmp_path) == ["trees"]


def test_nothing_else_is_ever_replaced(classifier, earlier, tmp_path):
    shutil.copytree(earlier / "1", tmp_path / "models" / "mine")
    shutil.copytree(earlier, tmp_path / "versions")
    shutil.copytree(earlier / "1", tmp_path / "versions" / "7")
    (tmp_path / "empty").mkdir()
    for name in ("file", "full/1/mine"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name in ("models", "versions", "empty", "file", "full"):
        with pytest.raises(ValueError, match="earlier export"):
            export_saved_model(classifier, tmp_path / name, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


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


@pytest.mark.long
def test_a_full_disk_or_a_kill_leaves_no_half_model(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FAIL_TWICE, "trees"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr[-3000:]
    message, files = done.stdout.splitlines()
    assert "trees could not be written" in message
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
        (two_inputs, {}, r"\(None, 32, 32, 3\) and float32 \(None"),
        (lambda: flat(32, 32, 4), {}, r"\(None, 32, 32, 4\)"),
        (lambda: flat(32, 48, 3), {}, r"\(None, 32, 48, 3\)"),
        (lambda: flat(32, 32, 3, batch=2), {}, r"\(2, 32, 32, 3\)"),
        (lambda: flat(32), {}, r"\(None, 32\)"),
        (lambda: flat(32, 32, 3, dtype="uint8"), {}, "uint8"),
        (None, {"top": 0}, "top=0"),
        (None, {"class_names": ["a", "b"]}, r"5 classes\. Received: 2 names"),
        (None, {"weights": "no_such_set"}, "no_such_set"),
        (None, {"weights": "digits"}, "resnext11_8x4d.digits has 10"),
        (None, {"weights": "resnext50_32x4d.tv2_in1k"}, "size=32"),
        (None, {"preprocessing": Preprocessing(48, 48)}, "preprocessing="),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(
    classifier, tmp_path, model, options, received
):
    with pytest.raises(ValueError, match=received):
        export_saved_model(model() if model else classifier, tmp_path / "m", **options)
    with pytest.raises(ValueError, match="existing folder"):
        export_saved_model(classifier, tmp_path / "missing" / "trees")
    assert not list(tmp_path.iterdir())
