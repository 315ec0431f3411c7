"""Whatever is done to the bytes of an HDF5 file: the one error, or numbers."""

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from mutations import Target, fuzz_mutations, mutate
from weight_files import KERAS_APPLICATIONS, TINY

from resnext_keras.weights.formats import hdf5_index


def places(path):
    """Where the file holds anything but numbers, and half as often any place."""
    whole = np.frombuffer(path.read_bytes(), "uint8")
    taken = whole == 0

    def mark(name, item):
        if isinstance(item, h5py.Dataset):
            start = item.id.get_offset()
            taken[start : start + item.nbytes] = True

    with h5py.File(path) as file:
        file.visititems(mark)
    assert not taken[whole.tobytes().index(b"GCOL")]  # the heap of names
    structure = np.flatnonzero(~taken)
    anywhere = np.linspace(0, len(whole) - 1, len(structure) // 2).astype(int)
    return np.concatenate([structure, anywhere])


@pytest.fixture(params=["keras 3", "keras-applications"])
def source(request, good_weights):
    """A good file, and the spec of its network."""
    if request.param == "keras 3":
        return good_weights[".weights.h5"], TINY
    return GOLDEN / "keras_applications_4x4d.h5", KERAS_APPLICATIONS


def fuzz(source, folder, examples, **options):
    path, spec = source
    where = places(path)
    fuzz_mutations(
        path.read_bytes(),
        lambda whole, steps: mutate(whole, where, steps),
        Target(folder.mktemp("fuzz") / "mutated.h5", spec),
        examples,
        **options,
    )


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    """Some of the files keep HDF5 busy for ever."""
    monkeypatch.setattr(hdf5_index, "SECONDS", 5)


def test_fifty_mutated_files_of_each_format(source, tmp_path_factory):
    # As many as of the other readers' formats would be ten seconds of processes.
    fuzz(source, tmp_path_factory, 50, derandomize=True)


@pytest.mark.long
def test_a_thousand_mutated_files(source, tmp_path_factory):
    fuzz(source, tmp_path_factory, 1000)
