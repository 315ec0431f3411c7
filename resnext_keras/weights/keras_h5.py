"""Reads the `.weights.h5` files that `save_weights` writes, with h5py alone.

Keras stores layer after layer: the group `layers/{class}_{count}/vars` has the
layer's name as an attribute, and the layer's variables as datasets 0, 1, ...
Keras' own loader is not used, since it follows whatever a file points at.

HDF5 itself may hang at a damaged heap of texts, where the layers' names are
(https://github.com/HDFGroup/hdf5/issues/1707), and nothing here can tell in
advance: files from strangers are better taken as safetensors.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from resnext_keras.weights.stored import (
    BFLOAT16,
    StoredTensor,
    StoredTensors,
    WeightsError,
)

# Names of a layer's variables by their number: a convolution, a dense layer,
# a batch normalisation.
VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


@contextlib.contextmanager
def open_keras_h5(path: Path) -> Iterator[StoredTensors]:
    """Opens a `.weights.h5` file; yields its tensors by `"{layer}/{variable}"`.

    Raises:
        WeightsError: The file is no such file, is damaged, or holds a link or
            data outside itself.
    """
    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"Expected a Keras .weights.h5 file, found something else or a damaged "
            f"file: {path} ({error})"
        ) from error
    with file:
        with _damage_named(path):
            _check_generation(file, path)
            stored = _stored_tensors(file, path)
        yield stored


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns whatever h5py raises at a damaged file into the one promised error."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ...
        raise WeightsError(
            f"Expected an intact Keras .weights.h5 file, found a damaged one: {path} "
            f"({error})"
        ) from error


def _check_generation(file: h5py.File, path: Path) -> None:
    """Tells files of Keras 2 and keras-applications from those of Keras 3."""
    if "layer_names" in file.attrs or "model_weights" in file:
        raise WeightsError(
            f"Expected a .weights.h5 file of Keras 3; {path} is in the HDF5 format of "
            "Keras 2 and keras-applications. Load it into its model and save that "
            "with Keras 3: model.save_weights('model.weights.h5')."
        )


def _stored_tensors(file: h5py.File, path: Path) -> dict[str, StoredTensor]:
    groups = _member(file, "layers", h5py.Group, path)
    stored = {}
    for key in groups:
        group = _member(groups, key, h5py.Group, path)
        variables = _member(group, "vars", h5py.Group, path)
        if not len(variables):
            continue
        layer = _text(variables, "name")
        names = VARIABLES.get(len(variables))
        if not layer or names is None:
            raise WeightsError(
                f"Expected the weights of a ResNeXt in {path}; found the group "
                f"{variables.name!r} with {len(variables)} variables of the layer "
                f"{layer!r}."
            )
        for index, name in enumerate(names):
            dataset = _member(variables, str(index), h5py.Dataset, path)
            _check_dataset(dataset, path)
            if f"{layer}/{name}" in stored:
                raise WeightsError(
                    f"Expected {layer}/{name} once in {path}, found it twice."
                )
            stored[f"{layer}/{name}"] = StoredTensor(
                dataset.shape,
                BFLOAT16 if _is_bfloat16(dataset) else dataset.dtype,
                path,
                functools.partial(_read, dataset, path),
            )
    return stored


def _member(group: h5py.Group, key: str, kind: type, path: Path):
    """A member that lies in this very file, not behind a link."""
    link = group.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise WeightsError(
            f"Expected a Keras .weights.h5 file; {path} has no {key!r} of its own in "
            f"{group.name!r}."
        )
    member = group[key]
    if not isinstance(member, kind):
        raise WeightsError(
            f"Expected {member.name!r} of {path} to be a {kind.__name__}, found a "
            f"{type(member).__name__}."
        )
    return member


def _text(item: h5py.Group | h5py.Dataset, attribute: str) -> str:
    """An attribute as text, which some programs store as bytes; else nothing."""
    if attribute not in item.attrs:
        return ""
    stored = item.attrs.get_id(attribute)
    # HDF5 may crash at a damaged attribute of another type.
    if stored.shape != () or not isinstance(stored.get_type(), h5py.h5t.TypeStringID):
        return ""
    value = item.attrs[attribute]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _check_dataset(dataset: h5py.Dataset, path: Path) -> None:
    """Raises unless a dataset is one plain block of floating-point numbers."""
    name, dtype = dataset.name, dataset.dtype
    if not (np.issubdtype(dtype, np.floating) or _is_bfloat16(dataset)):
        raise WeightsError(
            f"Expected floating-point numbers in {name!r} of {path}, found {dtype}."
        )
    # Chunks may be compressed and so expand to any size; save_weights writes none.
    layout = dataset.id.get_create_plist().get_layout()
    if layout != h5py.h5d.CONTIGUOUS or dataset.external:
        raise WeightsError(
            f"Expected {name!r} of {path} to be one block of data in this file, as "
            "save_weights writes it; found chunks, or data elsewhere. Load the file "
            "with the program that wrote it and save it plainly."
        )
    size = math.prod(dataset.shape) * dtype.itemsize
    if dataset.id.get_storage_size() != size:
        raise WeightsError(
            f"Expected {size} bytes of data in {name!r} of {path}, found "
            f"{dataset.id.get_storage_size()}."
        )


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    """HDF5 has no such type: Keras stores two opaque bytes and says so beside."""
    return dataset.dtype == np.dtype("V2") and _text(dataset, "dtype") == "bfloat16"


def _read(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    with _damage_named(path):
        data = dataset[...]
        return data.view(BFLOAT16) if _is_bfloat16(dataset) else data
