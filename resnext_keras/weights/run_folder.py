"""The folder of a training run: its best weights, and what lies beside them."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from resnext_keras.images.listing import readable
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.tensors import WeightsError

RUN, BEST = "run.json", "best.weights.h5"
"""The two files by which the folder of a training run is recognised."""

IMAGES = "images.csv"
"""The images of a training run: name, split and class of each."""


def best_weights(folder: Path) -> Path | None:
    """The weights of a training run; None for another folder, or before the first."""
    # Path.is_file may raise for an impossible path; os.path.isfile does not.
    is_run = all(os.path.isfile(folder / name) for name in (BEST, RUN))
    return folder / BEST if is_run else None


def read_run(folder: Path) -> dict:
    """Reads `run.json` in the folder of a run."""
    return json.loads((folder / RUN).read_text(encoding="utf-8"))


def describe_run(folder: Path) -> dict:
    """What a run wrote about its network, as arguments of `Checkpoint`.

    Raises:
        WeightsError: `run.json` is not as training writes it.
    """
    try:
        content = read_run(folder)
        spec, reading = content["settings"]["spec"], content["preprocessing"]
        known = [field.name for field in fields(Preprocessing) if field.name in reading]
        names = tuple(content["class_names"])
        return {
            "spec": ResNeXtSpec(**spec),
            "preprocessing": Preprocessing(**{name: reading[name] for name in known}),
            "class_names": names,
            # Earlier versions wrote no outputs, activation and licence.
            "classes": content.get("outputs", len(names)),
            "activation": content.get("activation", "softmax"),
            "licence": content.get("licence"),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"Expected {RUN} beside the weights of a run, as training writes it. "
            f"Received: {folder / RUN} ({error!r})"
        ) from error


def data_folder(data: str | os.PathLike) -> str:
    """The folder that the names of a data set's images begin from, as text."""
    return readable(data if os.path.isdir(data) else os.path.dirname(data))


def relative_names(data: str | os.PathLike) -> Callable[[str], str]:
    """Function from the name of an image to its name within the data set."""
    base = data_folder(data)
    inside = os.path.join(base, "")

    def relative(name):  # `relpath` alone would be slow for millions of images
        if name.startswith(inside):
            return name.removeprefix(inside)
        return os.path.relpath(name, base)

    return relative


def run_images(
    folder: Path, split: str, moved_to: str | os.PathLike | None = None
) -> list[str]:
    """Paths of the images of a training run.

    Args:
        folder: The folder of the run.
        split: `"training"` or `"validation"`.
        moved_to: The run's data set, if it is no longer where it was when it began.

    Returns:
        The paths; of TFRecords the paths and numbers of the records. Empty for a run
        of a version that did not write them.
    """
    if not (folder / IMAGES).is_file():
        return []
    data = read_run(folder)["settings"]["data"]
    base = data_folder(data if os.path.lexists(data) else moved_to or data)
    with (folder / IMAGES).open(newline="", encoding="utf-8") as file:
        names = [name for name, own, _ in csv.reader(file) if own == split]
    return [os.path.normpath(os.path.join(base, name)) for name in names]
