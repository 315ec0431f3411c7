"""From one format of weight files to another."""

import os
import tempfile
from pathlib import Path

import keras

from resnext_keras.models import ResNeXt
from resnext_keras.shapes import variable_shapes
from resnext_keras.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.weights import (
    WeightsError,
    identify,
    open_weights,
    write_torch_safetensors,
)

KERAS_SUFFIX, TORCH_SUFFIX = ".weights.h5", ".safetensors"


def convert_weights(
    source: str | os.PathLike,
    target: str | os.PathLike,
    spec_or_name: ResNeXtSpec | str | None = None,
    overwrite: bool = False,
) -> ResNeXtSpec:
    """Writes the weights of a file in the format that the target's name ends in.

    Args:
        source: A weight file of any format that `ResNeXt` takes.
        target: The file to be written: `.weights.h5` for Keras, or `.safetensors`,
            which this package reads and torchvision's and timm's
            `load_state_dict` too.
        spec_or_name: The architecture; None for the one that the names and
            shapes in the file tell.
        overwrite: Whether an existing target may be replaced.

    Returns:
        The spec of the network.

    Raises:
        WeightsError: The source is no file of such weights, or of another
            architecture, or the target exists or has another ending. The
            target is then as it was.
    """
    source, target = Path(source), Path(target)
    suffix = _checked_suffix(target, overwrite)
    specs = ARCHITECTURES.values() if spec_or_name is None else [get_spec(spec_or_name)]
    spec, channels, classes = identify(source, specs)
    # A whole file or none: it gets its name when all is written.
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as folder:
        written = Path(folder) / f"weights{suffix}"
        if suffix == KERAS_SUFFIX:
            _build(spec, channels, classes, source).save_weights(written)
        else:
            shapes = variable_shapes(spec, channels, classes)
            with open_weights(source, shapes) as tensors:
                write_torch_safetensors(written, tensors, spec)
        os.replace(written, target)
    return spec


def _checked_suffix(target: Path, overwrite: bool) -> str:
    """The ending that says the format, of a file that may be written."""
    for suffix in (KERAS_SUFFIX, TORCH_SUFFIX):
        if target.name.endswith(suffix):
            break
    else:
        raise WeightsError(
            f"Expected a target that ends in {KERAS_SUFFIX} or {TORCH_SUFFIX}. "
            f"Received: target={str(target)!r}"
        )
    if not target.parent.is_dir():
        raise WeightsError(
            f"Expected a target in an existing folder. Received: target={str(target)!r}"
        )
    if target.is_dir() or (target.exists() and not overwrite):
        raise WeightsError(
            "Expected a target that does not exist, or overwrite=True. "
            f"Received: target={str(target)!r}"
        )
    return suffix


def _build(spec, channels, classes, weights):
    """The network of a file, for images of any size."""
    shape = (None, None, channels)
    first = keras.config.image_data_format() == "channels_first"
    return ResNeXt(
        spec,
        include_top=classes is not None,
        weights=weights,
        input_shape=shape[::-1] if first else shape,
        classes=classes or spec.classes,
    )
