"""Mutated torch files give the one error or numbers, whatever was mutated.

100 examples a format by default, 1000 with `pytest -m long`.
"""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import CLASSES, SMALLEST, keras_values

from resnext_keras.shapes import variable_shapes
from resnext_keras.weights import WeightsError, open_weights

SHAPES = variable_shapes(SMALLEST, 3, CLASSES)

# One mutation: what is done, where (in 0..1 of the interesting places), with what.
mutation = st.tuples(
    st.sampled_from(["flip", "replace", "insert", "delete", "copy", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
)
mutations = st.lists(mutation, min_size=1, max_size=4)


def mutate(data, places, steps):
    """Applies mutations at some of the places."""
    data = bytearray(data)
    for kind, where, other, byte in steps:
        here = int(places[int(where * len(places))])
        there = int(places[int(other * len(places))])
        here, there = min(here, len(data) - 1), min(there, len(data) - 1)
        if kind == "flip":
            data[here] ^= 1 << byte % 8
        elif kind == "replace":
            data[here] = byte
        elif kind == "insert":
            data[here:here] = bytes([byte]) * (1 + byte % 5)
        elif kind == "delete":
            del data[here : here + 1 + byte % 8]
        elif kind == "copy":
            data[here : here + byte % 32] = data[there : there + byte % 32]
        elif byte < 64:
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


def check(path, exact):
    """Reads all of a file as `assign` would; only the one error may come of it."""
    before = path.read_bytes()
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
            for name, value in keras_values(SMALLEST).items():
                np.testing.assert_array_equal(values[name], value)
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


def fuzz(case, files, folder, examples, **options):
    mutated, name, exact = CASES[case]
    whole = files[name].read_bytes()
    path = folder.mktemp("fuzz") / "mutated.pth"

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(mutations)
    def run(steps):
        path.write_bytes(mutated(whole, steps))
        check(path, exact)

    run()


@pytest.mark.parametrize("case", CASES)
def test_mutated_files_give_the_one_error_or_numbers(
    torch_files, tmp_path_factory, case
):
    fuzz(case, torch_files, tmp_path_factory, 100, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_many_mutated_files_give_the_one_error_or_numbers(
    torch_files, tmp_path_factory, case
):
    fuzz(case, torch_files, tmp_path_factory, 1000)
