"""Holds the names and shapes of a weight file against those of a network."""

import logging
import math
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec
from resnext_keras.models.variables import Shapes, variable_shapes
from resnext_keras.weights.tensors import LazyTensor, LazyTensors, WeightsError

logger = logging.getLogger(__name__)

HEAD = ("predictions/kernel", "predictions/bias")
# The first convolution is the one of the images' channels.
STEMS = ("conv1_1_conv/kernel", "conv1_conv/kernel")
RGB = 3


def fitted(stored: LazyTensors, expected: Shapes, path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file for a network with these variables.

    A file may differ from the network in three ways. Its classifier is left
    out where the network has none, and where the network has another number of
    classes, whose classifier then keeps its random start. A first convolution
    of RGB images is turned into one of the network's channels, as timm does.

    Args:
        stored: The file's tensors.
        expected: Name and shape of each variable of the network.
        path: The file, for errors.

    Returns:
        The tensors by the names of `expected`, without those of a new classifier.

    Raises:
        WeightsError: A tensor is missing, left over, of another shape or of
            whole numbers.
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
    _check_tensors(taken, wanted, path, hint=lambda: architecture_hint(stored))
    if new_top:
        logger.warning(
            "The classifier in %s has %d classes, not %d: the network gets a new one, "
            "which has yet to be trained.",
            path,
            stored[HEAD[1]].shape[0],
            expected[HEAD[1]][0],
        )
    if adapted:
        logger.warning(
            "The first convolution in %s is of RGB, not of %d channels: the network "
            "gets one that was made of it.",
            path,
            wanted[stem][2],
        )
    return {name: taken[name] for name in wanted}


def fitting(
    stored: LazyTensors, specs: Collection[ResNeXtSpec]
) -> list[tuple[ResNeXtSpec, int, int | None]]:
    """The specs that have exactly these tensors, with channels and classes."""
    found = {name: tensor.shape for name, tensor in stored.items()}
    stem = next((found[name] for name in STEMS if name in found), ())
    head = found.get(HEAD[0], ())
    if len(stem) != 4 or 0 in (*stem, *head):
        return []
    classes = head[1] if len(head) == 2 else None
    return [
        (spec, stem[2], classes)
        for spec in specs
        if variable_shapes(spec, stem[2], classes) == found
    ]


def architecture_hint(stored: LazyTensors) -> str:
    """Names the architecture of the table that has the file's tensors."""
    if found := fitting(stored, ARCHITECTURES.values()):
        names = " or ".join(repr(spec.name) for spec, _, _ in found)
        return f" It is of the architecture {names}, for {found[0][1]} channels."
    return ""


def _has_other_classes(stored: LazyTensors, expected: Shapes) -> bool:
    """Whether the file's classifier is whole but for the number of classes."""
    kernel, bias = (stored[name].shape if name in stored else () for name in HEAD)
    features, classes = expected[HEAD[0]]
    return len(bias) == 1 and bias != (classes,) and kernel == (features, *bias)


def _is_of_rgb(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a first convolution differs in that it is of RGB images alone."""
    height, width, channels, filters = wanted
    return channels != RGB and found == (height, width, RGB, filters)


def _of_channels(kernel: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """A first convolution of RGB images, turned into one of other channels.

    For grey images the kernels of red, green and blue are added; for more
    channels they are repeated, and scaled so that the sum stays about the same
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
    """Raises unless the file has exactly these tensors, of floating-point numbers."""
    missing = [name for name in expected if name not in stored]
    extra = [name for name in stored if name not in expected]
    differing = [
        f"{name} is {stored[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if missing or extra or differing:
        no_top = set(missing) == set(HEAD) and not (extra or differing)
        remedy = " The file has no classifier: pass include_top=False."
        raise WeightsError(
            f"{path} does not fit this network: {_listed('missing', missing)}"
            f"{_listed('not expected', extra)}"
            f"{_listed('of another shape', differing)}"
            f"nothing was loaded.{remedy if no_top else hint()}"
        )
    for name, tensor in stored.items():
        if not tensor.is_float:
            raise WeightsError(
                f"Expected floating-point numbers in {name} of {path}, found "
                f"{tensor.dtype}; nothing was loaded."
            )


def _listed(what: str, items: list[str]) -> str:
    """Names the first few items, and counts them all."""
    if not items:
        return ""
    # Names come from the file: nothing in them may speak to a terminal.
    shown = ", ".join(f"{item!r:.100}"[1:-1] for item in items[:3])
    shown += ", ..." if len(items) > 3 else ""
    return f"{len(items)} {what} ({shown}); "
