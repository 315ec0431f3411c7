"""Lists the tensors of an HDF5 weight file, and where their data begin.

A damaged file can make the HDF5 library hang, crash or allocate any amount of memory,
for example in its heap of strings (https://github.com/HDFGroup/hdf5/issues/1707), and
no check can predict that. So `keras_h5.py` runs this file in a separate process, with
limits, and reads the data itself. This file imports h5py but nothing of this package,
so that the process starts in a tenth of a second.
"""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator

import h5py
import numpy as np

try:
    import resource
except ImportError:  # on Windows; time is limited there too, memory is not
    resource = None

SECONDS = 60
"""Time limit for listing a file."""

# The process itself takes 0.1 GB. It writes to a pipe and nothing to disk, not even a
# core dump. The CPU limit ends it even if its parent has been killed.
LIMITS = {
    "RLIMIT_AS": 1 << 30,
    "RLIMIT_CPU": SECONDS,
    "RLIMIT_CORE": 0,
    "RLIMIT_FSIZE": 0,
}

# ResNeXt-201, the longest of the family, has about a thousand tensors.
MAX_TENSORS = 10_000
MAX_TEXT = 1 << 22  # characters: all names of a file, or the whole list

DTYPES = {f"{order}f{size}" for order in "<>" for size in (2, 4, 8)}

# Names of a layer's variables in Keras 3, which numbers them: a convolution, a
# dense layer, a batch normalisation.
VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


class UnfitError(ValueError):
    """The file is not a weight file; the message is for the user."""


def main(path: str) -> None:
    """Sets the limits, and prints the list as JSON."""
    if resource is not None:
        for name, limit in LIMITS.items():
            # The system may not have a limit, or a lower one may be set already.
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (limit, limit))
    text = json.dumps(index(path))
    if len(text) > MAX_TEXT:
        text = json.dumps({"error": f"Expected shorter names of tensors in {path}."})
    print(text)


def index(path: str) -> dict:
    """Lists an HDF5 file's tensors, without reading any.

    Returns a dict with `generation`, the version of Keras that wrote the file (2 or 3),
    and `tensors`, each [layer, variable, shape, dtype, offset in bytes] with the dtype
    as NumPy writes it, or "bfloat16". If the file is not a weight file, a dict with
    `error` only, a message for the user.
    """
    try:
        file = h5py.File(path, "r")
    except Exception as error:
        return {
            "error": "Expected a Keras HDF5 weight file, found something else or a "
            f"damaged file: {path} ({_brief(error)})"
        }
    try:
        with file:
            legacy = any(name in file.attrs for name in ("layer_names", "layer_names0"))
            generation = 2 if legacy or "model_weights" in file else 3
            listed = (_keras2 if generation == 2 else _keras3)(file, path)
            tensors = list(itertools.islice(listed, MAX_TENSORS + 1))
    except UnfitError as error:
        return {"error": str(error)}
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ...
        return {
            "error": "Expected an intact Keras HDF5 weight file, found a damaged one: "
            f"{path} ({_brief(error)})"
        }
    if len(tensors) > MAX_TENSORS:
        return {
            "error": f"Expected at most {MAX_TENSORS} tensors in {path}, found more."
        }
    return {"generation": generation, "tensors": tensors}


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _keras3(file: h5py.File, path: str) -> Iterator[list]:
    """Lists the tensors in a file of Keras 3's `save_weights`.

    The group `layers/{class}_{count}/vars` has the layer's name as an attribute, and
    its variables as datasets 0, 1, ...
    """
    groups = _member(file, "layers", h5py.Group, path)
    for key in groups:
        group = _member(groups, key, h5py.Group, path)
        variables = _member(group, "vars", h5py.Group, path)
        if not len(variables):
            continue
        layer = _text(variables, "name")
        names = VARIABLES.get(len(variables))
        if not layer or names is None:
            raise UnfitError(
                f"Expected the weights of a ResNeXt in {path}; found the group "
                f"{variables.name!r:.100} with {len(variables)} variables of the "
                f"layer {layer!r:.100}."
            )
        for number, name in enumerate(names):
            dataset = _member(variables, str(number), h5py.Dataset, path)
            yield [layer, name, *_place(dataset, path)]


def _keras2(file: h5py.File, path: str) -> Iterator[list]:
    """Lists the tensors in an .h5 file of Keras 2's `save_weights` or `save`.

    The attribute `layer_names` lists a group for each layer. Its attribute
    `weight_names` lists the datasets, such as `conv1_conv/kernel:0`.
    """
    if "model_weights" in file:
        file = _member(file, "model_weights", h5py.Group, path)
    for layer in _texts(file, "layer_names", path):
        group = _descendant(file, layer, h5py.Group, path)
        for weight in _texts(group, "weight_names", path):
            dataset = _descendant(group, weight, h5py.Dataset, path)
            variable = weight.rpartition("/")[2].removesuffix(":0")
            yield [layer, variable, *_place(dataset, path)]


def _descendant(group: h5py.Group, names: str, kind: type, path: str):
    """A member of nested groups; links are not followed."""
    *groups, last = names.split("/")
    for name in groups:
        group = _member(group, name, h5py.Group, path)
    return _member(group, last, kind, path)


def _member(group: h5py.Group, key: str, kind: type, path: str):
    """A member of a group; links are not followed."""
    link = group.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise UnfitError(
            f"Expected a Keras HDF5 weight file; {path} has no {key!r:.100} of its own "
            f"in {group.name!r:.100}."
        )
    member = group[key]
    if not isinstance(member, kind):
        raise UnfitError(
            f"Expected {member.name!r:.100} of {path} to be a {kind.__name__}, found a "
            f"{type(member).__name__}."
        )
    return member


def _text(item: h5py.Group | h5py.Dataset, attribute: str) -> str:
    """An attribute as a string, or "" for another type; some programs store bytes."""
    if attribute not in item.attrs:
        return ""
    stored = item.attrs.get_id(attribute)
    # HDF5 may crash at a damaged attribute of another type.
    if stored.shape != () or not isinstance(stored.get_type(), h5py.h5t.TypeStringID):
        return ""
    return _decoded(item.attrs[attribute])


def _texts(group: h5py.Group, attribute: str, path: str) -> Iterator[str]:
    """A list of strings, which Keras 2 splits into several attributes if it is long."""
    parts = [attribute]
    if attribute not in group.attrs:
        numbered = (f"{attribute}{number}" for number in itertools.count())
        parts = list(itertools.takewhile(group.attrs.__contains__, numbered))
    if not parts:
        raise UnfitError(
            f"Expected an attribute {attribute!r} of {group.name!r:.100} in {path}, "
            "found none."
        )
    for part in parts:
        stored = group.attrs.get_id(part)
        if stored.shape == (0,):  # a layer without weights; any type
            continue
        kind = stored.get_type()
        if (
            len(stored.shape or ()) != 1
            or not isinstance(kind, h5py.h5t.TypeStringID)
            or stored.shape[0] * kind.get_size() > MAX_TEXT
        ):
            raise UnfitError(
                f"Expected {part!r} of {group.name!r:.100} in {path} to be a list of "
                f"names, found {stored.dtype} of shape {stored.shape}."
            )
        yield from map(_decoded, group.attrs[part])


def _decoded(text: str | bytes) -> str:
    """A stored string that can be printed: bytes that are not UTF-8 are replaced."""
    data = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
    return data.decode(errors="replace")


def _place(dataset: h5py.Dataset, path: str) -> tuple[list[int], str, int]:
    """Shape, dtype and offset of a dataset; an error unless it is a block of floats."""
    name, dtype = dataset.name, dataset.dtype
    # HDF5 has no bfloat16: Keras stores two opaque bytes and an attribute.
    bfloat16 = dtype == np.dtype("V2") and _text(dataset, "dtype") == "bfloat16"
    if not bfloat16 and (
        dtype.str not in DTYPES
        # HDF5 has more types of numbers, which it would convert on reading.
        or dataset.id.get_type() != h5py.h5t.py_create(dtype)
    ):
        raise UnfitError(
            f"Expected floating-point numbers in {name!r:.100} of {path}, found "
            f"{dtype!s:.100}."
        )
    # Chunks may be compressed, and expand to any size. Keras does not write chunks.
    layout = dataset.id.get_create_plist().get_layout()
    if layout != h5py.h5d.CONTIGUOUS or dataset.external:
        raise UnfitError(
            f"Expected {name!r:.100} of {path} to be one block of data in this file, "
            "as save_weights writes it; found chunks, or data in another file. Load "
            "the file with the program that wrote it, and save it without compression."
        )
    size = math.prod(dataset.shape or ()) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    if stored != size or dataset.shape is None:
        raise UnfitError(
            f"Expected {size} bytes of data in {name!r:.100} of {path}, found {stored}."
        )
    offset = dataset.id.get_offset() or 0  # None where there is nothing to store
    return list(dataset.shape), "bfloat16" if bfloat16 else dtype.str, offset
