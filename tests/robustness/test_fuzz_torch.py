"""Mutated torch files give the one error or numbers, whatever was mutated.

100 examples a format by default, 1000 with `pytest -m long`.
"""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import Target, fuzz, fuzz_mutations, mutate
from torch_programs import dict_of, literal, program, storage, tensor, write_zip
from weight_files import SMALLEST, keras_values


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


def fuzz_case(case, files, folder, examples, **options):
    mutated, name, exact = CASES[case]
    values = keras_values(SMALLEST) if exact else None
    target = Target(folder.mktemp("fuzz") / "mutated.pth", SMALLEST, values)
    whole = files[name].read_bytes()
    fuzz_mutations(whole, mutated, target, examples, **options)


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_mutated_files(torch_files, tmp_path_factory, case):
    fuzz_case(case, torch_files, tmp_path_factory, 100, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_thousand_mutated_files(torch_files, tmp_path_factory, case):
    fuzz_case(case, torch_files, tmp_path_factory, 1000)


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


def fuzz_programs(folder, examples, **options):
    target = Target(folder.mktemp("fuzz") / "program.pth", SMALLEST)

    def loads(body):
        write_zip(
            target.path, program(body), {"0": bytes(20)}, {"archive/data/1": bytes(40)}
        )
        return target.loads(target.path.read_bytes())

    fuzz(bodies, loads, examples, **options)


def test_programs_of_operations_give_the_one_error(tmp_path_factory):
    fuzz_programs(tmp_path_factory, 200, derandomize=True)


@pytest.mark.long
def test_many_programs_of_operations_give_the_one_error(tmp_path_factory):
    fuzz_programs(tmp_path_factory, 5000)
