"""Whatever is done to the bytes of an HDF5 file: the one error, or numbers."""

import os
from unittest import mock

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_files import CLASSES, KERAS_APPLICATIONS, TINY, assert_same, build, numbers

from resnext_keras.shapes import variable_shapes
from resnext_keras.weights import WeightsError, assign, open_weights
from resnext_keras.weights.formats import hdf5_index

WORDS = [0, 1, 2**16, 2**31, 2**32 - 1, 2**63, *(2**64 - n for n in (1, 2, 8, 16))]


class Target:
    """A good file, and a network that it fits, to be loaded from spoilt copies."""

    def __init__(self, path, spec, folder):
        self.whole, self.folder = path.read_bytes(), folder
        self.shapes = variable_shapes(spec, 3, CLASSES)
        self.model = build(spec=spec)
        self.structure = self._structure(path)

    def _structure(self, path):
        """Where the file holds anything but numbers, its heap of names among it."""
        taken = np.frombuffer(self.whole, "uint8") == 0

        def mark(name, item):
            if isinstance(item, h5py.Dataset):
                start = item.id.get_offset()
                taken[start : start + item.nbytes] = True

        with h5py.File(path) as file:
            file.visititems(mark)
        assert not taken[self.whole.index(b"GCOL")]
        return np.flatnonzero(~taken)

    def edits(self):
        """Changes to a few places: a bit, a byte, a word, or the end cut off."""
        inside = st.integers(0, len(self.structure) - 1).map(
            lambda i: int(self.structure[i])
        )
        place = st.one_of(inside, inside, st.integers(0, len(self.whole) - 1))
        edit = st.one_of(
            st.tuples(st.just("bit"), place, st.integers(0, 7)),
            st.tuples(st.just("byte"), place, st.integers(0, 255)),
            st.tuples(st.just("word"), place, st.sampled_from(WORDS)),
            st.tuples(st.just("copy"), place, place),
        )
        cut = st.tuples(st.just("cut"), st.integers(0, len(self.whole)), st.just(0))
        return st.lists(st.one_of(*[edit] * 9, cut), min_size=1, max_size=3)

    def spoilt(self, edits):
        """The file with these changes."""
        data = bytearray(self.whole)
        for kind, place, value in edits:
            if kind == "cut":
                del data[place:]
            elif kind == "word":
                data[place : place + 8] = value.to_bytes(8, "little")
            elif kind == "copy":
                data[place : place + 16] = data[value : value + 16]
            elif place < len(data):
                data[place] = data[place] ^ 1 << value if kind == "bit" else value
        return bytes(data)

    def check(self, data):
        """Loads a file; tells whether that went well."""
        path = self.folder / "spoilt.h5"
        path.write_bytes(data)
        before, environment = numbers(self.model), dict(os.environ)
        message = None
        try:
            with (
                mock.patch.object(hdf5_index, "SECONDS", 5),
                open_weights(path, self.shapes) as tensors,
            ):
                assign(self.model, tensors)
        except WeightsError as error:
            message = str(error)
        if message is not None:
            assert str(path) in message
            assert len(message) < 1000
            assert_same(numbers(self.model), before)
        assert all(np.isfinite(v).all() for v in numbers(self.model).values())
        assert path.read_bytes() == data
        assert [*self.folder.iterdir()] == [path]
        assert dict(os.environ) == environment
        return message is None


@pytest.fixture(scope="module", params=["keras 3", "keras-applications"])
def target(request, good_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt")
    if request.param == "keras 3":
        return Target(good_weights[".weights.h5"], TINY, folder)
    return Target(GOLDEN / "keras_applications_4x4d.h5", KERAS_APPLICATIONS, folder)


def fuzz(target, examples, **options):
    """Loads so many spoilt files; the good file loads before and after."""
    assert target.check(target.whole)
    outcomes = []

    @settings(max_examples=examples, deadline=None, database=None, **options)
    @given(target.edits())
    def load(edits):
        outcomes.append(target.check(target.spoilt(edits)))

    load()
    assert target.check(target.whole)
    # Neither outcome is rare, or the changes are of the wrong kind.
    assert examples / 20 <= sum(outcomes) <= examples * 19 / 20


def test_a_hundred_spoilt_files(target):
    fuzz(target, 100, derandomize=True)


@pytest.mark.long
def test_a_thousand_spoilt_files(target):
    fuzz(target, 1000)
