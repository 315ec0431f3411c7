"""Whether a weight set is what it is said to be, and gives what torch gives."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from resnext_keras import torch_reference
from resnext_keras.classifier import default_preprocessing
from resnext_keras.images.labels import decode_predictions
from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.images.read import SAMPLE_PHOTO, read_image
from resnext_keras.models.data_format import image_shape, to_data_format
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.weights.download import fetch
from resnext_keras.weights.files import identify
from resnext_keras.weights.lookup import find_weights
from resnext_keras.weights.registry import WeightSet
from resnext_keras.weights.tensors import WeightsError

PROGRAM = (sys.executable, torch_reference.__file__)

TOLERANCE = 1e-4
"""Largest difference of the logits, by the largest logit."""


@dataclass(frozen=True)
class Verification:
    """What became of weights whose hash, names and shapes are right.

    Attributes:
        name: Name of the set or path of the file.
        path: The file.
        parameters: Number of parameters, batch-norm statistics included.
        reference: The library whose network was given the same file, or the
            reason why there is none.
        top1: The class that it sees in the bundled photo of a cat; empty where
            the class has no name.
        difference: Largest difference of the logits from the reference's, by
            the largest logit; None without a reference.
    """

    name: str
    path: Path
    parameters: int
    reference: str
    top1: str = ""
    difference: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the logits are the reference's, where there is one."""
        return self.difference is None or self.difference <= TOLERANCE


def verify_weights(
    weights: str | os.PathLike, spec_or_name: ResNeXtSpec | str | None = None
) -> Verification:
    """Checks a weight set or a file, and tries it on a bundled photo.

    A set is fetched where it is missing. Its hash, every name and shape, and
    that all numbers are finite are checked; the logits are compared with
    torchvision's or timm's network on the same file, where one of them is
    installed.

    Args:
        weights: Name of a weight set, as `list_weights()` gives it, or path of
            a file.
        spec_or_name: The architecture; None for that of the set, or the one
            that the names and shapes in the file tell.

    Returns:
        The `Verification`.

    Raises:
        WeightsError: There is no such set or file, it cannot be fetched, or
            something about it is wrong.
    """
    spec = None if spec_or_name is None else get_spec(spec_or_name)
    found = find_weights(weights, spec and spec.name)
    if isinstance(found, WeightSet):
        name, path, preprocessing = found.name, fetch(found), found.preprocessing
        spec, channels, classes = identify(path, [get_spec(found.architecture)])
        if classes != found.classes:
            raise WeightsError(
                f"Expected {found.classes or 'no'} classes in {path}, found {classes}."
            )
    else:
        name, path = str(found), found
        spec, channels, classes = identify(
            path, [spec] if spec else ARCHITECTURES.values()
        )
        preprocessing = default_preprocessing(spec)
    if channels != 3:
        raise WeightsError(
            f"Expected weights for RGB images in {path}, found {channels} channels."
        )
    size = preprocessing.size
    model = ResNeXt(
        spec,
        include_top=classes is not None,
        weights=path,
        input_shape=image_shape(size, size),
        classes=classes or spec.classes,
        classifier_activation=None,
    )
    with resources.as_file(SAMPLE_PHOTO) as photo:
        images = preprocess_input(
            read_image(photo, preprocessing)[np.newaxis], "channels_last"
        )
    outputs = model.predict(to_data_format(images), verbose=0)
    top1 = decode_predictions(outputs, 1)[0][0][1] if classes == 1000 else ""
    reference, logits = _reference(spec, classes, path, images)
    difference = None
    if logits is not None:
        difference = float(np.abs(outputs - logits).max() / np.abs(logits).max())
    return Verification(name, path, model.count_params(), reference, top1, difference)


def for_torch_reference(spec: ResNeXtSpec, classes: int) -> dict:
    """A network as the program `torch_reference.py` takes it, for JSON."""
    plain = ResNeXtSpec(spec.name, spec.depths, spec.cardinality, spec.group_width)
    return dataclasses.asdict(spec) | {"plain": spec == plain, "classes": classes}


def _reference(
    spec: ResNeXtSpec, classes: int | None, path: Path, images: np.ndarray
) -> tuple[str, np.ndarray | None]:
    """A library and what its network gives, or the reason why there is none."""
    if classes is None:
        return "a network without classifier", None
    if path.suffix.lower() in (".h5", ".hdf5"):
        return "an HDF5 file, which torch does not read", None
    if not any(map(importlib.util.find_spec, ("torchvision", "timm"))):
        return "neither torchvision nor timm is installed", None
    network = for_torch_reference(spec, classes)
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("images.npy", "logits.npy")]
        np.save(files[0], images)
        done = subprocess.run(
            [*PROGRAM, str(path), *files, json.dumps(network)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip() or "it crashed").splitlines()[-1]
            raise WeightsError(
                f"Expected torchvision or timm to take {path}, found: {last:.300}"
            )
        found = json.loads(done.stdout.splitlines()[-1])
        if "reason" in found:
            return found["reason"], None
        return found["library"], np.load(files[1])
