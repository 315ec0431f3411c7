"""Loads a weight file into a model: opens it, matches its tensors, assigns them."""

import contextlib
import importlib
import logging
import math
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from resnext_keras.arguments import few
from resnext_keras.io import check_space
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec
from resnext_keras.models.variables import Shapes, variable_shapes
from resnext_keras.weights.tensors import (
    LazyTensor,
    LazyTensors,
    WeightsError,
    finite_array,
)

logger = logging.getLogger(__name__)

# Modules of `formats`, loaded when a file of their kind is opened.
READERS = {
    **dict.fromkeys((".h5", ".hdf5"), "keras_h5"),
    **dict.fromkeys((".pth", ".pt", ".bin", ".tar", ".ckpt"), "torch_file"),
    ".safetensors": "torch_safetensors",
}

KERAS_HINT = (
    " Convert it: keras.models.load_model(path).save_weights('model.weights.h5')."
)
HINTS = {".keras": KERAS_HINT}

HEAD = ("predictions/kernel", "predictions/bias")
# The first convolution depends on the channels of the images.
STEMS = ("conv1_1_conv/kernel", "conv1_conv/kernel")
RGB = 3


def open_file(path: str | os.PathLike) -> AbstractContextManager[LazyTensors]:
    """Opens a weight file with the reader of its format.

    Nothing in the file is executed. Data are read only when a tensor is read.

    Args:
        path: A `.weights.h5` file from `save_weights` of a model of this package; an
            `.h5` file of keras-applications; or the `state_dict` of a torchvision, timm
            or mmpretrain model, in a `.safetensors` file or a file of `torch.save`
            (`.pth`, `.pt`, `.bin`, `.tar`, `.ckpt`).

    Returns:
        A context manager that yields the tensors by name, `"{layer}/{variable}"`. They
        can be read while the file is open.

    Raises:
        WeightsError: The file is of another format, damaged, or not of a ResNeXt.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = HINTS.get(path.suffix.lower(), "")
        raise WeightsError(
            f"Expected a weight file ({', '.join(READERS)}).{hint} Received: {path}"
        )
    module = importlib.import_module(f"resnext_keras.weights.formats.{reader}")
    return getattr(module, f"open_{reader}")(path)


@contextlib.contextmanager
def open_weights(path: str | os.PathLike, expected: Shapes):
    """Context manager: opens a file (`open_file`) and matches its tensors (`match`)."""
    with open_file(path) as stored:
        yield match(stored, expected, Path(path))


def identify(
    stored: LazyTensors, specs: Collection[ResNeXtSpec], path: Path
) -> tuple[ResNeXtSpec, int, int | None]:
    """Finds the architecture with exactly these tensors.

    Returns:
        The spec, the number of input channels, and the number of classes (None without
        a classifier).

    Raises:
        WeightsError: No architecture fits, or several do.
    """
    fits = _fitting(stored, specs)
    if not fits:
        raise WeightsError(
            "Expected the weights of an architecture of list_models(); for a network "
            f"of your own, give its ResNeXtSpec as `model`. Received: {path}"
        )
    if len(fits) > 1:
        names = " and ".join(spec.name for spec, _, _ in fits)
        raise WeightsError(
            f"Expected the weights of one architecture; {names} have variables of the "
            f"same shapes. Give the architecture too. Received: {path}"
        )
    return fits[0]


def channels_and_classes(stored: LazyTensors) -> tuple[int | None, int | None]:
    """Numbers of input channels and classes of a file, each None if not known."""
    stem = next((stored[name].shape for name in STEMS if name in stored), ())
    channels = stem[2] if len(stem) == 4 and 0 not in stem else None
    kernel, bias = (stored[name].shape if name in stored else () for name in HEAD)
    for shape, axes in ((bias, 1), (kernel, 2)):
        if len(shape) == axes and 0 not in shape:
            return channels, shape[-1]
    return channels, None


def match(stored: LazyTensors, expected: Shapes, path: Path) -> dict[str, LazyTensor]:
    """Matches the tensors of a file with the variables of a network.

    A file may differ from the network in three ways:

    - The network has no classifier: the file's classifier is left out.
    - The network has another number of classes: the file's classifier is left out, and
      the network's keeps its random weights.
    - The network's images are not RGB: the file's first convolution is adapted to their
      channels, as in timm.

    Args:
        stored: The file's tensors.
        expected: Name and shape of each variable, from `variable_shapes`.
        path: The file, for errors.

    Returns:
        The tensors by the names of `expected`, without those of a new classifier.

    Raises:
        WeightsError: A tensor is missing, not expected, of another shape or not of
            floating-point numbers.
    """
    taken, wanted = dict(stored), dict(expected)
    has_top = HEAD[0] in expected
    new_top = has_top and _has_other_classes(stored, expected)
    if new_top or not has_top:
        for name in HEAD:
            taken.pop(name, None)
            wanted.pop(name, None)
    stem = next((name for name in STEMS if name in wanted), None)
    adapted = stem in taken and _is_of_rgb(taken[stem].shape, wanted[stem])
    if adapted:
        taken[stem] = _of_channels(taken[stem], wanted[stem])
    _check_tensors(taken, wanted, path, hint=lambda: _architecture_hint(stored))
    if new_top:
        logger.warning(
            "The classifier in %s has %d classes, not %d: the network gets a new "
            "classifier, which is not trained yet.",
            path,
            stored[HEAD[1]].shape[0],
            expected[HEAD[1]][0],
        )
    if adapted:
        logger.warning(
            "The first convolution in %s is for RGB, not for %d channels: it is "
            "adapted to them.",
            path,
            wanted[stem][2],
        )
    return {name: taken[name] for name in wanted}


def assign(model, tensors: LazyTensors) -> None:
    """Assigns tensors to the variables of a model.

    Args:
        model: A `keras.Model` of this package.
        tensors: A tensor for each variable to be set, by `"{layer}/{variable}"`,
            from `match`.

    Raises:
        WeightsError: A tensor has no variable, or has values that are not finite or
            too large for the variable's dtype. The model is not changed then.
    """
    variables = variables_by_name(model)
    if unknown := sorted(tensors.keys() - variables.keys()):
        raise WeightsError(f"The model {model.name!r} has no {', '.join(unknown)}.")
    # Each tensor is read twice, first to check it. So only one is in memory at a time,
    # and an error is found before any variable has changed.
    for name, tensor in tensors.items():
        finite_array(name, tensor, variables[name].dtype)
    for name, tensor in tensors.items():
        variable = variables[name]
        variable.assign(finite_array(name, tensor, variable.dtype))


def variables_by_name(model) -> dict:
    """The variables of a `keras.Model` by `"{layer}/{variable}"`."""
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def _fitting(
    stored: LazyTensors, specs: Collection[ResNeXtSpec]
) -> list[tuple[ResNeXtSpec, int, int | None]]:
    """The architectures with exactly these tensors, with channels and classes."""
    channels, classes = channels_and_classes(stored)
    if channels is None:
        return []
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    return [
        (spec, channels, classes)
        for spec in specs
        if variable_shapes(spec, channels, classes) == shapes
    ]


def _architecture_hint(stored: LazyTensors) -> str:
    """A hint for errors: the architecture of the table that the file fits."""
    if fits := _fitting(stored, ARCHITECTURES.values()):
        names = " or ".join(repr(spec.name) for spec, _, _ in fits)
        return f" It is of the architecture {names}, for {fits[0][1]} channels."
    return ""


def _has_other_classes(stored: LazyTensors, expected: Shapes) -> bool:
    """Whether the file's classifier differs only in its number of classes."""
    kernel, bias = (stored[name].shape if name in stored else () for name in HEAD)
    features, classes = expected[HEAD[0]]
    return len(bias) == 1 and bias != (classes,) and kernel == (features, *bias)


def _is_of_rgb(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a first convolution differs only in that it is for RGB."""
    height, width, channels, filters = wanted
    return channels != RGB and stored == (height, width, RGB, filters)


def _of_channels(kernel: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """A first convolution for RGB, adapted to another number of channels.

    For grey images the kernels of red, green and blue are added. For more channels
    they are repeated, and scaled so that the sum stays about the same
    (`adapt_input_conv` of timm).
    """
    channels = shape[2]

    def read() -> np.ndarray:
        rgb = kernel.read().astype("float32", copy=False)
        if channels == 1:
            return rgb.sum(axis=2, keepdims=True)
        repeated = np.tile(rgb, (1, 1, math.ceil(channels / RGB), 1))
        return repeated[:, :, :channels] * np.float32(RGB / channels)

    return LazyTensor(shape, kernel.dtype, kernel.path, read)


def _check_tensors(
    stored: LazyTensors, expected: Shapes, path: Path, hint: Callable[[], str]
) -> None:
    """Raises an error unless the file has exactly these tensors, all of floats."""
    missing = [name for name in expected if name not in stored]
    extra = [name for name in stored if name not in expected]
    differing = [
        f"{name} is {stored[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if missing or extra or differing:
        raise WeightsError(
            f"{path} does not fit this network: {_counted('missing', missing)}"
            f"{_counted('not expected', extra)}"
            f"{_counted('of another shape', differing)}"
            f"nothing was loaded.{hint()}"
        )
    for name, tensor in stored.items():
        if not tensor.is_float:
            raise WeightsError(
                f"Expected floating-point numbers in {name} of {path}, found "
                f"{tensor.dtype}; nothing was loaded."
            )


def _counted(what: str, items: list[str]) -> str:
    # The names come from the file, and may be long.
    listed = few((f"{item:.100}" for item in items), quoted=False)
    return f"{len(items)} {what} ({listed}); " if items else ""


def save_weights(model, path: str | os.PathLike) -> None:
    """Writes the weights of a `keras.Model` to a new `.weights.h5` file.

    Raises:
        OSError: The disk is too full. h5py would crash the process at its end.
    """
    shapes = [variable.shape for variable in model.variables]
    # In float32; HDF5 adds 1.8 kB for each variable.
    check_space(path, sum(4 * math.prod(shape) + 4096 for shape in shapes))
    model.save_weights(path)
