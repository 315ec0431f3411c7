"""Whether a weight set is what it is said to be, and gives what torch gives."""

import importlib
import os
import re
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import keras
import numpy as np

from resnext_keras.labels import decode_predictions
from resnext_keras.models import ResNeXt
from resnext_keras.prediction import default_preprocessing
from resnext_keras.preprocessing import preprocess_input, read_image
from resnext_keras.specs import ResNeXtSpec, get_spec
from resnext_keras.weights import WeightsError, WeightSet, fetch, find_weights, identify

# Chelsea the cat, by Stefan van der Walt, public domain (CC0), as in
# skimage.data.chelsea.
PHOTO = resources.files("resnext_keras") / "data" / "chelsea.jpg"

TOLERANCE = 1e-4
"""Largest difference of the logits, by the largest logit."""

# Where the states of torch files may lie, in the order of timm's own loader.
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = re.compile(r"^(module\.|backbone\.|head\.(?=fc\.))*")


@dataclass(frozen=True)
class Verification:
    """What became of a weight set whose hash, names and shapes are right.

    Attributes:
        name: The set's name.
        path: Its file.
        parameters: Number of parameters, batch-norm statistics included.
        top1: The class that it sees in the bundled photo of a cat; empty for a
            set without classifier or class names.
        reference: The library whose network was given the same file, if one
            that is installed has this network and reads the file.
        difference: Largest difference of the logits from the reference's, by
            the largest logit.
    """

    name: str
    path: Path
    parameters: int
    top1: str = ""
    reference: str | None = None
    difference: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the logits are the reference's, where there is one."""
        return self.difference is None or self.difference <= TOLERANCE


def verify_weights(weights: str | os.PathLike) -> Verification:
    """Checks a weight set or a file, and tries it on a bundled photo.

    A set is fetched where it is missing. Its hash, every name and shape, and
    that all numbers are finite are checked; the logits are compared with
    torchvision's or timm's network on the same file, where one of them is
    installed.

    Args:
        weights: Name of a weight set, as `list_weights()` gives it, or path of
            a file.

    Returns:
        The `Verification`.

    Raises:
        WeightsError: There is no such set or file, it cannot be fetched, or
            something about it is wrong.
    """
    found = find_weights(weights)
    if isinstance(found, WeightSet):
        path, preprocessing = fetch(found), found.preprocessing
        # The row of the registry tells twins apart, and has the number of classes.
        spec, channels, classes = identify(path, [get_spec(found.architecture)])
        if classes != found.classes:
            raise WeightsError(
                f"Expected {found.classes or 'no'} classes in {path}, found {classes}."
            )
        name = found.name
    else:
        path, name = found, str(found)
        spec, channels, classes = identify(path)
        preprocessing = default_preprocessing(spec)
    if channels != 3:
        raise WeightsError(
            f"Expected weights for RGB images in {path}, found {channels} channels."
        )
    model = _build(spec, classes, path, preprocessing.size)
    with resources.as_file(PHOTO) as photo:
        image = preprocess_input(
            read_image(photo, preprocessing)[np.newaxis], "channels_last"
        )
    outputs = model.predict(_in_layout(image), verbose=0)
    top1 = decode_predictions(outputs, 1)[0][0][1] if classes == 1000 else ""
    reference, expected = _reference_logits(spec, classes, path, image)
    difference = None
    if expected is not None:
        difference = float(np.abs(outputs - expected).max() / np.abs(expected).max())
    return Verification(name, path, model.count_params(), top1, reference, difference)


def _build(spec, classes, path, size):
    """The network of a file, up to the logits."""
    return ResNeXt(
        spec,
        include_top=classes is not None,
        weights=path,
        input_shape=_in_layout(np.empty((1, size, size, 3))).shape[1:],
        classes=classes or 1000,
        classifier_activation=None,
    )


def _in_layout(images: np.ndarray) -> np.ndarray:
    """A batch (batch, H, W, channels) in the layout that Keras is set to."""
    first = keras.config.image_data_format() == "channels_first"
    return np.moveaxis(images, -1, 1) if first else images


def _reference_logits(
    spec: ResNeXtSpec, classes: int | None, path: Path, image: np.ndarray
) -> tuple[str | None, np.ndarray | None]:
    """Name of a library, and what its network gives for the same file and image."""
    if classes is None or path.suffix.lower() in (".h5", ".hdf5"):
        return None, None
    # triton, which torch imports where it finds it, and TensorFlow bring an LLVM
    # each; both in one process crash it.
    sys.modules.setdefault("triton", None)
    for library, network in (
        ("torchvision", _torchvision_network),
        ("timm", _timm_network),
    ):
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        model = network(module, spec, classes)
        if model is not None:
            return library, _logits(model, path, image)
    return None, None


def _torchvision_network(torchvision, spec: ResNeXtSpec, classes: int):
    if spec.name not in torchvision.models.list_models():
        return None
    return torchvision.models.get_model(spec.name, num_classes=classes)


def _timm_network(timm, spec: ResNeXtSpec, classes: int):
    if timm.is_model(spec.name):
        return timm.create_model(spec.name, num_classes=classes)
    # It has no name for the widest network and for the one of 152 layers.
    if spec != ResNeXtSpec(spec.name, spec.depths, spec.cardinality, spec.group_width):
        return None
    return timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck,
        spec.depths,
        num_classes=classes,
        cardinality=spec.cardinality,
        base_width=spec.group_width,
    )


def _logits(model, path: Path, image: np.ndarray) -> np.ndarray:
    """What torch's own reading of the file and its network give."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = next((state[key] for key in STATES if key in state), state)
    model.load_state_dict({PREFIXES.sub("", key): v for key, v in state.items()})
    with torch.inference_mode():
        batch = torch.from_numpy(np.moveaxis(image, -1, 1).copy())
        return model.eval()(batch).numpy()
