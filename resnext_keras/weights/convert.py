"""Converts weights from one file format to another."""

import logging
import os

from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.data_format import image_shape
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.formats.torch_safetensors import write_torch_safetensors
from resnext_keras.weights.loading import save_weights
from resnext_keras.weights.tensors import WeightsError
from resnext_keras.weights.timm_folder import convert_to_timm

KERAS_SUFFIX, TORCH_SUFFIX = ".weights.h5", ".safetensors"

logger = logging.getLogger(__name__)


def convert_weights(
    source: str | os.PathLike | Checkpoint,
    target: str | os.PathLike,
    model: ResNeXtSpec | str | None = None,
    overwrite: bool = False,
    to: str | None = None,
) -> ResNeXtSpec:
    """Writes weights to a file, in the format of its suffix, or to a folder for timm.

    Args:
        source: Weights as `ResNeXt` takes them: the name of a weight set, the path
            of a file or the folder of a training run.
        target: The file to write: `.weights.h5` for Keras, or `.safetensors` with the
            names of torchvision and timm, for `load_state_dict` and this package. With
            `to="timm"` a folder, as `save_timm` writes it.
        model: The architecture; None for that of the weights.
        overwrite: Whether an existing target may be replaced.
        to: `"timm"` for a folder; None for a file.

    Returns:
        The spec of the network.

    Raises:
        ValueError: The architecture is unknown, or the folder cannot be written.
        WeightsError: The source is unknown, damaged or of another architecture, or the
            target exists or has another suffix. The target is not changed then.

    Examples:
        >>> rk.convert_weights("digits", "digits.safetensors").name
        'resnext11_8x4d'
    """
    if to not in (None, "timm"):
        raise ValueError(f"Expected `to` to be 'timm' or None. Received: to={to!r}")
    if to == "timm":
        checkpoint = resolve(source, model)
        convert_to_timm(checkpoint, target, overwrite)
        return checkpoint.spec
    suffixes = (KERAS_SUFFIX, TORCH_SUFFIX)
    target = output_file(target, suffixes, overwrite, WeightsError)
    checkpoint = resolve(source, model)
    spec, channels, classes = checkpoint.spec, checkpoint.channels, checkpoint.classes
    if checkpoint.activation == "sigmoid" and (classes or 0) > 1:
        logger.warning(
            "%s has no place for the activation of several labels an image: give "
            "classifier_activation='sigmoid' to the network that loads it.",
            target,
        )
    with atomic_write(target) as written:
        if target.name.endswith(KERAS_SUFFIX):
            network = ResNeXt(
                spec,
                include_top=classes is not None,
                weights=checkpoint,
                input_shape=image_shape(None, None, channels),
                classes=classes or spec.classes,
                classifier_activation=None,
            )
            save_weights(network, written)
        else:
            shapes = variable_shapes(spec, channels, classes)
            with checkpoint.open(shapes) as tensors:
                write_torch_safetensors(written, tensors, spec)
    return spec
