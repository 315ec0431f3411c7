"""Reads the `.weights.h5` files that `save_weights` writes, with h5py alone.

Keras stores layer after layer: the group `layers/{class}_{count}/vars` has the
layer's name as an attribute, and the layer's variables as datasets 0, 1, ...
Keras' own loader is not used, since it follows whatever a file points at.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from resnext_keras.weights.stored import StoredTensor, StoredTensors, WeightsError

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
        try:
            stored = _stored_tensors(file, path)
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(f"{path} is damaged: {error}") from error
        yield stored


def _stored_tensors(file: h5py.File, path: Path) -> dict[str, StoredTensor]:
    groups = _member(file, "layers", h5py.Group, path)
    stored = {}
    for key in groups:
        variables = _member(
            _member(groups, key, h5py.Group, path), "vars", h5py.Group, path
        )
        if not len(variables):
            continue
        layer = variables.attrs.get("name")
        names = VARIABLES.get(len(variables))
        if not isinstance(layer, str) or names is None:
            raise WeightsError(
                f"Expected the weights of a ResNeXt in {path}; found the group "
                f"{variables.name!r} with {len(variables)} variables of the layer "
                f"{layer!r}."
            )
        for index, name in enumerate(names):
            dataset = _member(variables, str(index), h5py.Dataset, path)
            if f"{layer}/{name}" in stored:
                raise WeightsError(f"{path} holds {layer}/{name} twice.")
            stored[f"{layer}/{name}"] = StoredTensor(
                dataset.shape, functools.partial(_read, dataset, path)
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
    if kind is h5py.Dataset:
        if member.external or member.is_virtual:
            raise WeightsError(f"{member.name!r} of {path} lies in another file.")
        if member.shape is None or not np.issubdtype(member.dtype, np.floating):
            raise WeightsError(
                f"Expected numbers with a fraction in {member.name!r} of {path}, "
                f"found {member.dtype}."
            )
    return member


def _read(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    try:
        return dataset[...]
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged at {dataset.name!r}: {error}") from error
