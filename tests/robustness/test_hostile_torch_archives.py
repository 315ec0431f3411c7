"""A torch file that is damaged around its pickle gives one clear error."""

import io
import pickle
import re
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_programs import (
    FIVE,
    MAGIC,
    SYSTEM,
    dict_of,
    each,
    program,
    tensor,
    write_legacy,
    write_zip,
)
from weight_files import SMALLEST, assert_same, build, numbers

from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.loading import assign, open_weights
from resnext_keras.weights.tensors import WeightsError

pytestmark = pytest.mark.long

FORMATS = ("zip", "legacy")
GOOD = program(dict_of({"fc.bias": tensor()}))
READ = "missing"  # the error of a state_dict of one tensor that could be read


@pytest.fixture
def zipped(tmp_path):
    """Writes a zip file with a good pickle; gives its path."""

    def write(storages=(("0", FIVE),), pickled=GOOD, **options):
        return write_zip(tmp_path / "archive.pth", pickled, storages, **options)

    return write


@pytest.fixture
def legacy(tmp_path):
    """Writes a file in the older format with a good pickle; gives its path."""

    def write(storages=(("0", (5, FIVE)),), **parts):
        return write_legacy(tmp_path / "legacy.pth", GOOD, storages, **parts)

    return write


def test_the_undamaged_files_can_be_read(zipped, legacy, refused):
    refused(zipped(), READ)
    refused(legacy(), READ)


# Other files under these suffixes


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".tar"])
def test_other_content_under_the_suffix_is_refused(
    good_weights, tmp_path, refused, suffix
):
    path = tmp_path / f"model{suffix}"
    archive = io.BytesIO()
    np.savez(archive, **{"fc.bias": np.zeros(5)})
    for content in (
        b"",
        b"\n",
        b"\x80",
        b"PK",
        b"PK\3\4",
        b"PK\5\6" + b"\0" * 18,
        b"<!DOCTYPE html>" * 99,
        pickle.dumps({"fc.bias": [0.0]}, 2),
        pickle.dumps({"fc.bias": [0.0]}, 0),
        pickle.dumps(np.zeros(5)),
        archive.getvalue(),
        *(good.read_bytes() for good in good_weights.values()),
    ):
        path.write_bytes(content)
        refused(path, "found something else or a damaged file")


@pytest.mark.parametrize("compression", ["", "gz"])
def test_the_tar_files_of_early_torch_are_refused(tmp_path, refused, compression):
    path = tmp_path / "model.pth.tar"
    with tarfile.open(path, f"w:{compression}") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(GOOD)
            archive.addfile(entry, io.BytesIO(GOOD))
    tar = "a tar archive, of torch before"
    refused(path, "damaged pickle" if compression else tar)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_cut_off_is_refused(torch_files, tmp_path, refused, form):
    whole = torch_files[f"state.{form}.pth"].read_bytes()
    path = tmp_path / "cut.pth"
    rng = np.random.default_rng(0)
    ends = [1, 2, 8, 29, 96, 2048, len(whole) - 22, len(whole) - 1]
    for end in [*ends, *rng.integers(1, 6000, 20), *rng.integers(1, len(whole), 20)]:
        path.write_bytes(whole[:end])
        refused(path, "damaged", spec=SMALLEST)


# Zip files


def test_compressed_members_are_refused(zipped, refused):
    bomb = b"\0" * 2**27
    tracemalloc.start()
    path = zipped(pickled=bomb, compression=zipfile.ZIP_DEFLATED)
    del bomb
    tracemalloc.reset_peak()
    assert path.stat().st_size < 2**18
    refused(path, "'archive/data.pkl' compressed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", GOOD)
        archive.writestr("archive/data/0", FIVE, zipfile.ZIP_BZIP2)
    refused(path, "'archive/data/0' compressed")


@pytest.mark.parametrize(
    "names",
    [
        ["data.pkl"],
        ["/data.pkl"],
        ["../data.pkl", "../data/0"],
        ["./data.pkl", "./data/0"],
        ["archive/data.pkl", "archive/data/0", "../archive/more"],
        ["archive/data.pkl", "archive/data/0", "/etc/passwd"],
        ["archive/data.pkl", "other/data/0"],
        ["archive/data.pkl", "archive/data/0", "C:/more"],
        ["archive\\data.pkl", "archive\\data\\0"],
        [],
    ],
    ids=str,
)
def test_members_outside_of_the_folder_are_refused(tmp_path, refused, names):
    path = tmp_path / "outside.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, FIVE if name.endswith("0") else GOOD)
    refused(path, "outside of one folder|damaged file")
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0", "archive/more"])
def test_a_member_that_comes_twice_is_refused(tmp_path, refused, name):
    path = write_zip(tmp_path / "twice.pth", GOOD, {"0": FIVE}, {"archive/more": b""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, FIVE)
    refused(path, "two members of one name")


NO_SIZE = r"storage '0' of .* bytes, not 20"
WRONG_SIZES = (b"", FIVE[:-1], FIVE + b"\0", FIVE * 1000)
ORDER = "not little-endian"
ORDER_FILE = "archive/byteorder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storages": ()}, "no item named 'archive/data/0'"),
        *each("storages", ([("0", data)] for data in WRONG_SIZES), NO_SIZE),
        *each("members", ({ORDER_FILE: o} for o in (b"big", b"", b"middle")), ORDER),
        ({"members": {ORDER_FILE: b"little" * 2**21}}, "byteorder' of 12582912 bytes"),
    ],
    ids=lambda value: f"{value!s:.40}",
)
def test_wrong_members_are_refused(zipped, refused, options, message):
    refused(zipped(**options), message)


def test_a_zip_file_without_pickle_is_refused(tmp_path, refused):
    path = tmp_path / "no.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", b"3\n")
    refused(path, "no item named 'archive/data.pkl'")


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40])
def test_encrypted_members_are_refused(zipped, refused, flag):
    path = zipped()
    whole = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        for header in re.finditer(signature, bytes(whole)):
            whole[header.start() + place] |= flag
    path.write_bytes(whole)
    refused(path, "compressed or encrypted")


ENTRY, END = b"archive/data/0", b"PK\5\6"


@pytest.mark.parametrize(
    ("start", "place", "number", "message"),
    [
        # The entry of a storage in the directory; its name is at byte 46.
        (ENTRY, 20 - 46, 2**31, "storage '0' of"),  # its size as it is stored
        (ENTRY, 24 - 46, 2**31, "storage '0' of"),  # its size
        (ENTRY, 20 - 46, 2**32 - 1, "damaged"),
        (ENTRY, 24 - 46, 2**32 - 1, "damaged"),
        (ENTRY, 42 - 46, 2**31, "damaged"),  # where it is
        (ENTRY, 42 - 46, 2**32 - 1, "damaged"),
        (ENTRY, 10 - 46, 8, "compressed"),  # how it is compressed
        (ENTRY, 10 - 46, 99, "compressed"),
        # The end of the directory: its size, and where it begins.
        *((END, 12, number, "damaged") for number in (0, 2**31, 2**32 - 1)),
        *((END, 16, number, "damaged") for number in (0, 2**31, 2**32 - 1)),
    ],
)
def test_a_wrong_directory_is_refused(zipped, refused, start, place, number, message):
    path = zipped()
    whole = bytearray(path.read_bytes())
    place += whole.rindex(start)
    size = 2 if number < 100 and start == ENTRY else 4
    whole[place : place + size] = number.to_bytes(size, "little")
    path.write_bytes(whole)
    refused(path, message)


def test_a_huge_directory_takes_little_memory(tmp_path, refused):
    """The smaller one is read as a whole; of the larger one no more than that."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", *[0] * 9, 4, *[0] * 6)
    path = tmp_path / "directory.pth"
    for count in (80_000, 1_000_000):
        size = count * len(entry + b"a/bc")
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, size, 0, 0)
        path.write_bytes((entry + b"a/bc") * count + end)
        if count == 80_000:
            refused(path, "damaged")
    tracemalloc.start()
    with pytest.raises(WeightsError, match="damaged"):
        resolve(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**28


def test_damage_within_a_member_changes_no_variable(torch_files, tmp_path):
    source = torch_files["state.zip.pth"]
    whole = source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        storages = [m for m in archive.infolist() if "/data/" in m.filename]
    last = max(storages, key=lambda member: member.header_offset)
    data = whole.index(b"PK\7\x08", last.header_offset) - 1
    name = last.header_offset + 30
    checksum = whole.rindex(last.filename.encode()) - 46 + 16
    path = tmp_path / "broken.pth"
    model = build(spec=SMALLEST)
    before = numbers(model)
    for place in (data, name, checksum):
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        with (
            open_weights(path, variable_shapes(SMALLEST, 3, 5)) as tensors,
            pytest.raises(WeightsError, match=f"damaged file: {path}"),
        ):
            assign(model, tensors)
        assert_same(numbers(model), before)


# Files in the older format


def pickled(value):
    return pickle.dumps(value, 2)


NOT_TORCH = "torch.save did not write"
OTHERS = "other storages"
NO_LIST = "no list of storages"
STORAGE_TYPE = b"\x80\2ctorch\nFloatStorage\n."
BIG_ENDIAN = SYSTEM | {"little_endian": False}
COUNTS = (0, 4, 6, 2**31, 2**63, 2**64 - 1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        *each("magic", map(pickled, (5, {})), NOT_TORCH),
        *each("magic", (GOOD, b"", MAGIC + MAGIC, STORAGE_TYPE), NOT_TORCH),
        *each("version", map(pickled, (1002, "1001")), NOT_TORCH),
        *each("system", map(pickled, (BIG_ENDIAN, {}, None)), "endian"),
        *each("keys", map(pickled, ([], ["0", "1"], ["1"], ["0", "0"])), OTHERS),
        *each("keys", map(pickled, ([0], [["0"]], "0", {"0": 0})), NO_LIST),
        ({"keys": b"\x80\2]q\0h\0a."}, NO_LIST),
        ({"keys": b""}, "damaged"),
        *each("storages", ({"0": (count, FIVE)} for count in COUNTS), "numbers, not 5"),
        *each("storages", ({"0": (5, cut)} for cut in (FIVE[:-1], b"")), "cut off"),
    ],
    ids=lambda value: f"{value!r:.50}",
)
def test_wrong_parts_are_refused(legacy, refused, parts, message):
    refused(legacy(**parts), message)
