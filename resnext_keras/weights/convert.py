"""From one format of weight files to another."""

import os

from resnext_keras.io import atomic_write, output_file
from resnext_keras.models.data_format import image_shape
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.download import fetch
from resnext_keras.weights.files import identify, open_weights
from resnext_keras.weights.formats.safetensors_writer import write_torch_safetensors
from resnext_keras.weights.lookup import find_weights
from resnext_keras.weights.registry import WeightSet
from resnext_keras.weights.tensors import WeightsError

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
    suffixes = (KERAS_SUFFIX, TORCH_SUFFIX)
    target = output_file(target, suffixes, overwrite, WeightsError)
    spec = None if spec_or_name is None else get_spec(spec_or_name)
    path = find_weights(source, spec and spec.name)
    if isinstance(path, WeightSet):
        spec, path = get_spec(path.architecture), fetch(path)
    spec, channels, classes = identify(path, [spec] if spec else ARCHITECTURES.values())
    with atomic_write(target) as written:
        if target.name.endswith(KERAS_SUFFIX):
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
    return spec
