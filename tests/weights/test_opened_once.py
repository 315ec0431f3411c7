"""A command resolves its weights once, and opens and verifies their file once."""

import builtins
import collections
import dataclasses
import io
import json
import subprocess

import pooch
import pytest
from command import run
from PIL import Image
from run_data import image_folder

from resnext_keras import Preprocessing, ResNeXt
from resnext_keras.models.specs import get_spec
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.run_folder import BEST, RUN

pytestmark = pytest.mark.tensorflow  # as SavedModel and training are

LISTED = get_spec("resnext11_8x4d")
COMMANDS = {
    "predict": ("predict", "{image}", "--weights", "{weights}"),
    "explain": ("explain", "{image}", "--weights", "{weights}", "-o", "{out}/map.png"),
    "export": ("export", "{weights}", "-o", "{out}/export"),
    "finetune": (
        *("finetune", "{data}", "--weights", "{weights}", "-o", "{out}/finetuned"),
        *("--epochs", "1", "--batch", "4"),
    ),
}


def make_weights(form, tmp_path, publish):
    """Makes what `--weights` gets; gives it and the file that is then opened."""
    path = tmp_path / "digits.weights.h5"
    ResNeXt(LISTED, weights=None, classes=10).save_weights(path)
    if form == "set":
        publish("resnext11_8x4d.digits", path)
        return "digits", path
    if form == "file":
        return path, path
    folder = tmp_path / "my.run"
    folder.mkdir()
    content = {
        "settings": {"spec": dataclasses.asdict(LISTED)},
        "preprocessing": dataclasses.asdict(Preprocessing(32, 32)),
        "class_names": list("0123456789"),
    }
    (folder / RUN).write_text(json.dumps(content))
    return folder, path.rename(folder / BEST)


@pytest.mark.parametrize(
    ("command", "form"),
    [
        *(("predict", form) for form in ("set", "file", "run")),
        ("explain", "run"),
        *(
            pytest.param(command, form, marks=pytest.mark.long)
            for command in ("export", "finetune")
            for form in ("set", "run")
        ),
    ],
)
def test_each_command_resolves_opens_and_verifies_once(
    command, form, tmp_path, publish, monkeypatch
):
    argument, path = make_weights(form, tmp_path, publish)
    Image.new("RGB", (40, 40)).save(tmp_path / "image.png")
    places = {
        "weights": argument,
        "image": tmp_path / "image.png",
        "data": image_folder(tmp_path / "rooms", count=4),
        "out": tmp_path,
    }
    calls = collections.Counter()

    def count(owner, name, counts=lambda first: str(path) in str(first)):
        function = getattr(owner, name)

        def counted(*args, **options):
            calls[name] += counts(args[0])
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(builtins, "open")
    monkeypatch.setattr(io, "open", builtins.open)  # that of Path.open
    count(pooch, "file_hash")
    count(subprocess, "run")  # HDF5 lists the tensors in a process of its own

    created = Checkpoint.__init__

    def checkpoint(self, *args, **options):
        created(self, *args, **options)
        names = (str(argument), "resnext11_8x4d.digits")
        calls["Checkpoint"] += self.name in names

    monkeypatch.setattr(Checkpoint, "__init__", checkpoint)
    run(*(part.format(**places) for part in COMMANDS[command]))
    hashed = int(argument == "digits")
    assert calls == collections.Counter(
        {"Checkpoint": 1, "run": 1, "file_hash": hashed, "open": 1 + hashed}
    )  # the hash opens the file too
    if (command, form) == ("finetune", "set"):
        licence = json.loads((tmp_path / "finetuned" / RUN).read_text())["licence"]
        assert licence == resolve(tmp_path / "finetuned").licence == "Apache-2.0"
