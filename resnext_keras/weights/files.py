"""Opens a weight file and holds its names and shapes against the network's."""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from resnext_keras.shapes import Shapes, variable_shapes
from resnext_keras.specs import ARCHITECTURES, ResNeXtSpec
from resnext_keras.weights.keras_h5 import open_keras_h5
from resnext_keras.weights.stored import StoredTensors, WeightsError
from resnext_keras.weights.torch_file import open_torch_file
from resnext_keras.weights.torch_safetensors import open_torch_safetensors

READERS = {".h5": open_keras_h5, ".safetensors": open_torch_safetensors}
READERS |= dict.fromkeys((".pth", ".pt", ".bin", ".tar"), open_torch_file)

KERAS_HINT = (
    " Convert it: keras.models.load_model(path).save_weights('model.weights.h5')."
)
HINTS = {".keras": KERAS_HINT}

HEAD = ("predictions/kernel", "predictions/bias")


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
        found = _fitting(stored, specs)
        hint = "" if found else _architecture_hint(stored)
    if found is None:
        names = " or ".join(spec.name for spec in specs)
        raise WeightsError(f"Expected the weights of {names}.{hint} Received: {path}")
    return found


@contextlib.contextmanager
def open_weights(path: str | os.PathLike, expected: Shapes) -> Iterator[StoredTensors]:
    """Opens a weight file of a network with these variables.

    Nothing in the file is executed, and no data is read before its names and
    shapes are known to be those expected. A file with a classifier also
    serves a network without one.

    Args:
        path: A `.weights.h5` file that `save_weights` wrote of a model of this
            package, or a `.safetensors` file, or one that `torch.save` wrote
            (`.pth`, `.pt`, `.bin`, `.tar`), with the `state_dict` of a torchvision
            or timm model.
        expected: Name and shape of each variable, from `variable_shapes`.

    Yields:
        A mapping from exactly the names of `expected` to the stored tensors,
        which can be read while the file is open.

    Raises:
        WeightsError: The file is of another format, damaged, or of another
            network.
    """
    path = Path(path)
    with _open(path) as stored:
        _check_tensors(path, stored, expected)
        _check_types(path, stored)
        yield {name: stored[name] for name in expected}


def _open(path: Path):
    """Opens a file with the reader of its format."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = HINTS.get(path.suffix.lower(), "")
        raise WeightsError(
            f"Expected a .weights.h5, .safetensors or .pth file.{hint} Received: {path}"
        )
    return reader(path)


def _check_tensors(path: Path, stored: StoredTensors, expected: Shapes) -> None:
    """Raises unless each expected tensor is there, and none is left over."""
    missing = [name for name in expected if name not in stored]
    # Only a classifier may be left over, by a network that has none.
    unused = () if HEAD[0] in expected else HEAD
    extra = [name for name in stored if name not in expected and name not in unused]
    differing = [
        name
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if not (missing or extra or differing):
        return
    shapes = [
        f"{name} is {stored[name].shape}, not {expected[name]}" for name in differing
    ]
    remedy = _remedy(stored, expected, {*missing, *extra, *differing})
    raise WeightsError(
        f"{path} does not fit this network: {_listed('missing', missing)}"
        f"{_listed('not expected', extra)}{_listed('of another shape', shapes)}"
        f"nothing was loaded.{remedy}"
    )


def _check_types(path: Path, stored: StoredTensors) -> None:
    """Raises unless all tensors are of floating-point numbers."""
    for name, tensor in stored.items():
        if not tensor.is_float:
            raise WeightsError(
                f"Expected floating-point numbers in {name} of {path}, found "
                f"{tensor.dtype}; nothing was loaded."
            )


def _remedy(stored: StoredTensors, expected: Shapes, wrong: set[str]) -> str:
    """What to do about the tensors that are wrong, where that can be told."""
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    if wrong == set(HEAD):
        if not wrong & shapes.keys():
            return " The file has no classifier: pass include_top=False."
        inputs, classes = expected[HEAD[0]]
        found = shapes.get(HEAD[1], ())
        if len(found) == 1 and shapes.get(HEAD[0]) == (inputs, *found):
            return (
                f" The file's classifier has {found[0]} classes, not {classes}: pass "
                f"classes={found[0]}, or include_top=False for the features alone."
            )
    return _architecture_hint(stored)


def _architecture_hint(stored: StoredTensors) -> str:
    """Names the architecture of the table that has the file's tensors."""
    if fitting := _fitting(stored, ARCHITECTURES.values()):
        spec, channels, _ = fitting
        return f" It is of the architecture {spec.name!r}, for {channels} channels."
    return ""


def _listed(what: str, items: list[str]) -> str:
    """Names the first few items, and counts them all."""
    if not items:
        return ""
    shown = ", ".join(f"{item:.100}" for item in items[:3])
    shown += ", ..." if len(items) > 3 else ""
    return f"{len(items)} {what} ({shown}); "


def _fitting(
    stored: StoredTensors, specs: Collection[ResNeXtSpec]
) -> tuple[ResNeXtSpec, int, int | None] | None:
    """The spec that has exactly these tensors, with channels and classes."""
    found = {name: tensor.shape for name, tensor in stored.items()}
    stem = found.get("conv1_conv/kernel", ())
    head = found.get("predictions/kernel", ())
    if len(stem) != 4:
        return None
    classes = head[1] if len(head) == 2 else None
    for spec in specs:
        if variable_shapes(spec, stem[2], classes) == found:
            return spec, stem[2], classes
    return None
