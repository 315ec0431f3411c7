"""Mutated torch files give the one error or numbers, whatever was mutated.

100 examples a format by default, 1000 with `pytest -m long`.
"""

import io
import random
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_programs import dict_of, literal, program, storage, tensor, write_zip
from weight_files import CLASSES, SMALLEST, assert_same, keras_values

from resnext_keras.shapes import variable_shapes
from resnext_keras.weights import WeightsError, open_weights

SHAPES = variable_shapes(SMALLEST, 3, CLASSES)

# What is done, and the seed of where and with what: most of hypothesis' own numbers
# would lie at the beginning.
KINDS = ("flip", "replace", "insert", "delete", "copy", "cut")
mutations = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**32 - 1)), min_size=1, max_size=4
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
        elif kind == "insert":
            data[here:here] = rng.randbytes(length)
        elif kind == "delete":
            del data[here : here + length]
        elif kind == "copy":
            data[here : here + length] = data[there : there + length]
        else:
            del data[max(here, 1) :]
    return bytes(data)


def zip_file(whole, steps):
    """Mutates what is no storage: local headers, the pickle, the directory."""
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


# Where a file came through, the numbers are the right ones: only in zip files do
# checksums see to that.
CASES = {
    "zip": (zip_file, "state.zip.pth", True),
    "pickle": (pickle_in_zip, "views.zip.pth", False),
    "newer pickle": (pickle_in_zip, "protocol4.zip.pth", False),
    "legacy": (legacy_file, "state.legacy.pth", False),
    "wrapped": (legacy_file, "timm.legacy.pth", False),
}


def loads(path, exact):
    """Whether all of a file can be read, as `assign` would; if not, for one error."""
    before = path.read_bytes()
    values = None
    try:
        with open_weights(path, SHAPES) as tensors:
            assert tensors.keys() == SHAPES.keys()
            values = {name: tensor.read() for name, tensor in tensors.items()}
    except WeightsError as error:
        assert str(path) in str(error)  # noqa: PT017 - either is right
        assert len(str(error)) < 1000  # noqa: PT017
    else:
        assert {name: value.shape for name, value in values.items()} == SHAPES
        if exact:
            assert_same(values, keras_values(SMALLEST))
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]
    return values is not None


def fuzz(strategy, write, folder, examples, exact=False, **options):
    """Writes and reads an example of the strategy again and again."""
    path = folder.mktemp("fuzz") / "mutated.pth"
    outcomes = set()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(strategy)
    def run(example):
        write(path, example)
        outcomes.add(loads(path, exact))

    run()
    return outcomes


def fuzz_mutations(case, files, folder, examples, **options):
    mutated, name, exact = CASES[case]
    whole = files[name].read_bytes()

    def write(path, steps):
        path.write_bytes(mutated(whole, steps))

    return fuzz(mutations, write, folder, examples, exact, **options)


@pytest.mark.parametrize("case", CASES)
def test_mutated_files_give_the_one_error_or_numbers(
    torch_files, tmp_path_factory, case
):
    options = {"examples": 100, "derandomize": True}
    assert False in fuzz_mutations(case, torch_files, tmp_path_factory, **options)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_many_mutated_files_give_the_one_error_or_numbers(
    torch_files, tmp_path_factory, case
):
    outcomes = fuzz_mutations(case, torch_files, tmp_path_factory, 1000)
    assert outcomes == {True, False}  # else the mutations would not reach far


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
SINGLE = (
    b"N",
    b"\x88",
    b"}",
    b"]",
    b")",
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"a",
    b"e",
    b"s",
    b"u",
    b"q\1",
    b"h\1",
    b"\x94",
    b"\x93",
    b"R",
    b"\x81",
    b"b",
    b"Q",
    b"G" + b"\x7f\xf8" * 4,
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"cargparse\nNamespace\n",
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


def write_program(path, body):
    write_zip(path, program(body), {"0": bytes(20)}, {"archive/data/1": bytes(40)})


def test_programs_of_operations_give_the_one_error(tmp_path_factory):
    fuzz(bodies, write_program, tmp_path_factory, 200, derandomize=True)


@pytest.mark.long
def test_many_programs_of_operations_give_the_one_error(tmp_path_factory):
    fuzz(bodies, write_program, tmp_path_factory, 5000)
