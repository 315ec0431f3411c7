"""From one format of weight files to another."""

import os
import tempfile
from pathlib import Path

from resnext_keras.layout import image_shape
from resnext_keras.models import ResNeXt
from resnext_keras.shapes import variable_shapes
from resnext_keras.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.weights import (
    WeightsError,
    WeightSet,
    fetch,
    find_weights,
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
        source: Name of a weight set, or path of a file, as `ResNeXt` takes it.
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
    target = Path(target).expanduser()
    suffix = _checked_suffix(target, overwrite)
    spec = None if spec_or_name is None else get_spec(spec_or_name)
    path = find_weights(source, spec and spec.name)
    if isinstance(path, WeightSet):
        spec, path = get_spec(path.architecture), fetch(path)
    spec, channels, classes = identify(path, [spec] if spec else ARCHITECTURES.values())
    # A whole file or none: it gets its name when all is written.
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as folder:
        written = Path(folder) / f"weights{suffix}"
        if suffix == KERAS_SUFFIX:
            ResNeXt(
                spec,
                include_top=classes is not None,
                weights=path,
                input_shape=image_shape(None, None, channels),
                classes=classes or spec.classes,
            ).save_weights(written)
        else:
            shapes = variable_shapes(spec, channels, classes)
            with open_weights(path, shapes) as tensors:
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
