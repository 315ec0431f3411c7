"""Opens a weight file and holds its names and shapes against the network's."""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec
from resnext_keras.models.variables import Shapes
from resnext_keras.weights.formats.keras_h5 import open_keras_h5
from resnext_keras.weights.formats.torch_file import open_torch_file
from resnext_keras.weights.formats.torch_safetensors import open_torch_safetensors
from resnext_keras.weights.match import architecture_hint, fitted, fitting
from resnext_keras.weights.tensors import LazyTensors, WeightsError

READERS = {
    **dict.fromkeys((".h5", ".hdf5"), open_keras_h5),
    **dict.fromkeys((".pth", ".pt", ".bin", ".tar"), open_torch_file),
    ".safetensors": open_torch_safetensors,
}

KERAS_HINT = (
    " Convert it: keras.models.load_model(path).save_weights('model.weights.h5')."
)
HINTS = {".keras": KERAS_HINT}


def identify(
    path: str | os.PathLike, specs: Collection[ResNeXtSpec] = ARCHITECTURES.values()
) -> tuple[ResNeXtSpec, int, int | None]:
    """Tells which network a weight file is of, from its names and shapes.

    Args:
        path: A file as `open_weights` takes it.
        specs: The networks that it may be of; without it those of the table.

    Returns:
        The spec, the number of input channels, and the number of classes,
        None for a file without a classifier.

    Raises:
        WeightsError: The file is of another format, damaged, or of none of
            these networks.
    """
    with _open(Path(path)) as stored:
        found = fitting(stored, specs)
        hint = "" if found else architecture_hint(stored)
    if not found:
        names = " or ".join(spec.name for spec in specs)
        raise WeightsError(f"Expected the weights of {names}.{hint} Received: {path}")
    if len(found) > 1:
        names = " and ".join(spec.name for spec, _, _ in found)
        raise WeightsError(
            f"Expected the weights of one architecture; {names} have variables of the "
            f"same shapes. Say which of them it is. Received: {path}"
        )
    return found[0]


@contextlib.contextmanager
def open_weights(path: str | os.PathLike, expected: Shapes) -> Iterator[LazyTensors]:
    """Opens a weight file of a network with these variables.

    Nothing in the file is executed, and no data is read before its names and
    shapes are known to fit, as `fitted` says.

    Args:
        path: A `.weights.h5` file that `save_weights` wrote of a model of this
            package, an `.h5` file of keras-applications, or a `.safetensors`
            file or one of `torch.save` (`.pth`, `.pt`, `.bin`, `.tar`) with the
            `state_dict` of a torchvision, timm or mmpretrain model.
        expected: Name and shape of each variable, from `variable_shapes`.

    Yields:
        A mapping from the names of `expected` to the stored tensors, which can
        be read while the file is open.

    Raises:
        WeightsError: The file is of another format, damaged, or of another
            network.
    """
    path = Path(path)
    with _open(path) as stored:
        yield fitted(stored, expected, path)


def _open(path: Path):
    """Opens a file with the reader of its format."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = HINTS.get(path.suffix.lower(), "")
        raise WeightsError(
            f"Expected a weight file ({', '.join(READERS)}).{hint} Received: {path}"
        )
    return reader(path)
