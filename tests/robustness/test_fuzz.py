"""Whatever is done to the bytes of a weight file: the one error, or numbers.

Each run draws new examples.
"""

import functools
import io
import os
import random
import zipfile

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_programs import dict_of, literal, program, storage, tensor, write_zip
from weight_files import (
    CLASSES,
    KERAS_APPLICATIONS,
    SMALLEST,
    TINY,
    assert_same,
    build,
    keras_values,
    numbers,
)

from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.formats import hdf5_index
from resnext_keras.weights.loading import assign, open_weights
from resnext_keras.weights.tensors import WeightsError

pytestmark = pytest.mark.long

WORDS = [0, 1, 2**16, 2**31, 2**32 - 1, 2**63, *(2**64 - n for n in (1, 2, 8, 16))]

# What is done, and the seed of where and with what: most of hypothesis' own numbers
# would lie at the beginning.
KINDS = ("flip", "replace", "word", "copy", "insert", "delete", "cut")
mutations = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**32 - 1)), min_size=1, max_size=3
)


def mutate(data, places, steps):
    """Applies mutations at some of the places."""
    data = bytearray(data)
    for kind, seed in steps:
        rng = random.Random(seed)
        here, there = (min(int(rng.choice(places)), len(data) - 1) for _ in range(2))
        length = rng.randint(1, 16)
        if kind == "flip":
            data[here] ^= 1 << rng.randrange(8)
        elif kind == "replace":
            data[here] = rng.randrange(256)
        elif kind == "word":
            data[here : here + 8] = rng.choice(WORDS).to_bytes(8, "little")
        elif kind == "copy":
            data[here : here + length] = data[there : there + length]
        elif kind == "insert":
            data[here:here] = rng.randbytes(length)
        elif kind == "delete":
            del data[max(here, 1) : here + length]  # one byte stays
        else:
            del data[max(here, 1) :]
    return bytes(data)


class Target:
    """A network, and a file in a folder of its own that is loaded into it.

    `values` are the only numbers that may be loaded, where the format has checksums.
    """

    def __init__(self, path, spec, values=None):
        self.path, self.values = path, values
        self.model = build(spec=spec)
        self.shapes = variable_shapes(spec, 3, CLASSES)

    def loads(self, data):
        """Whether a file of these bytes loads; if not, for the one error."""
        self.path.write_bytes(data)
        before, environment = numbers(self.model), dict(os.environ)
        message = None
        try:
            with open_weights(self.path, self.shapes) as tensors:
                assign(self.model, tensors)
        except WeightsError as error:
            message = str(error)
        after = numbers(self.model)
        if message is None:
            if self.values is not None:
                assert_same(after, self.values)
            assert all(np.isfinite(value).all() for value in after.values())
        else:
            assert str(self.path) in message
            assert len(message) < 1000
            assert_same(after, before)
        assert self.path.read_bytes() == data
        assert [*self.path.parent.iterdir()] == [self.path]
        assert dict(os.environ) == environment
        return message is None


def fuzz(strategy, loads, examples):
    """Whether each of the examples loads."""
    outcomes = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example):
        outcomes.append(loads(example))

    run()
    return outcomes


# Where each format is mutated


def safetensors(whole, steps):
    """Mutates the header, and half as often any place."""
    header = 8 + int.from_bytes(whole[:8], "little")
    anywhere = np.linspace(0, len(whole) - 1, header).astype(int)
    return mutate(whole, np.concatenate([np.arange(header), anywhere]), steps)


@functools.cache
def hdf5_places(whole):
    """The places of anything but numbers, and half as many of any kind."""
    content = np.frombuffer(whole, "uint8")
    free = content == 0

    def mark(name, item):
        if isinstance(item, h5py.Dataset):
            start = item.id.get_offset()
            free[start : start + item.nbytes] = True

    with h5py.File(io.BytesIO(whole)) as file:
        file.visititems(mark)
    assert not free[whole.index(b"GCOL")]  # the heap of names
    structure = np.flatnonzero(~free)
    anywhere = np.linspace(0, len(whole) - 1, len(structure) // 2).astype(int)
    return np.concatenate([structure, anywhere])


def hdf5(whole, steps):
    """Mutates the structure, and half as often any place."""
    return mutate(whole, hdf5_places(whole), steps)


def zip_file(whole, steps):
    """Mutates all but the storages: local headers, the pickle, the directory."""
    inside = np.zeros(len(whole), bool)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for member in archive.infolist():
            if "/data/" in member.filename:
                start = member.header_offset + 200
                inside[start : member.header_offset + member.file_size] = True
    return mutate(whole, np.flatnonzero(~inside), steps)


def pickle_in_zip(whole, steps):
    """Mutates the pickle, and lets the checksum be right again."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as archive,
        zipfile.ZipFile(file, "w") as mutated,
    ):
        for member in archive.infolist():
            data = archive.read(member)
            if member.filename.endswith("/data.pkl"):
                data = mutate(data, np.arange(len(data)), steps)
            mutated.writestr(member.filename, data)
    return file.getvalue()


def legacy_file(whole, steps):
    """Mutates the five pickles, and the count of the first storage."""
    start = whole.rindex(b"\x80\2]q\0(")  # the list of the storages
    start = whole.index(b"e.", start) + 2
    return mutate(whole, np.arange(start + 8), steps)


# How a good file is mutated, its network, and the count of examples. Each HDF5 file
# takes a process of its own.
KERAS_FILE = "keras_applications_4x4d.h5"
CASES = {
    ".safetensors": (safetensors, TINY, 250),
    ".weights.h5": (hdf5, TINY, 60),
    KERAS_FILE: (hdf5, KERAS_APPLICATIONS, 60),
    "state.zip.pth": (zip_file, SMALLEST, 250),
    "views.zip.pth": (pickle_in_zip, SMALLEST, 500),
    "protocol4.zip.pth": (pickle_in_zip, SMALLEST, 500),  # newer opcodes
    "state.legacy.pth": (legacy_file, SMALLEST, 250),
    "timm.legacy.pth": (legacy_file, SMALLEST, 250),  # a state within other objects
}


@pytest.fixture
def fuzz_file(good_weights, torch_files, tmp_path, monkeypatch):
    """Loads mutated copies of a file; the good file loads before and after."""
    files = good_weights | torch_files | {KERAS_FILE: GOLDEN / KERAS_FILE}

    def check(name):
        mutated, spec, examples = CASES[name]
        # Numbers that load are the right ones: only zip files have checksums.
        values = keras_values(spec) if mutated is zip_file else None
        whole = files[name].read_bytes()
        target = Target(tmp_path / f"mutated{files[name].suffix}", spec, values)
        assert target.loads(whole)
        with monkeypatch.context() as patch:
            patch.setattr(hdf5_index, "SECONDS", 5)  # some keep HDF5 busy for ever
            outcomes = fuzz(
                mutations,
                lambda steps: target.loads(mutated(whole, steps)),
                examples,
            )
        assert target.loads(whole)
        # Either happens, or the changes are of the wrong kind; few pickles survive one.
        assert 0 < sum(outcomes) <= examples * 19 / 20

    return check


@pytest.mark.parametrize("name", CASES)
def test_mutated_files(fuzz_file, name):
    fuzz_file(name)


# Programs of whole operations, which get further than mutated bytes.

number = st.sampled_from([-1, 0, 1, 2, 4, 5, 6, 2**31, 2**62, 2**63 - 1, 10**30])
axes = st.lists(number, max_size=3).map(tuple)
tensors = st.builds(
    tensor,
    numel=st.sampled_from([5, 5, 5, 0, 6, 2**62]),
    shape=axes,
    strides=axes,
    offset=number,
    key=st.sampled_from(["0", "0", "1"]),
    kind=st.sampled_from(["FloatStorage", "DoubleStorage", "LongStorage"]),
)
# Opcodes without arguments, then with them.
SINGLE = (
    *(bytes([code]) for code in b"N\x88}])(t\x85\x86\x87aesu\x94\x93R\x81bQ"),
    b"q\1",
    b"h\1",
    b"G" + b"\x7f\xf8" * 4,
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"cargparse\nNamespace\n",
    b"c__builtin__\ngetattr\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
)
TEXTS = ("fc.bias", "bn1.weight", "state_dict", "model", "storage", "0", "torch", "")
operations = st.one_of(
    st.sampled_from(SINGLE),
    st.sampled_from(TEXTS).map(literal),
    number.map(literal),
    tensors,
    st.sampled_from([storage(5), tensor()]),
)
bodies = st.one_of(
    st.lists(operations, max_size=40).map(b"".join),
    st.dictionaries(
        st.sampled_from(TEXTS) | number,
        st.lists(operations, min_size=1, max_size=3).map(b"".join),
        max_size=4,
    ).map(dict_of),
)


def test_programs_of_operations(tmp_path):
    target = Target(tmp_path / "program.pth", SMALLEST)

    def loads(body):
        write_zip(
            target.path, program(body), {"0": bytes(20)}, {"archive/data/1": bytes(40)}
        )
        return target.loads(target.path.read_bytes())

    fuzz(bodies, loads, 1000)
