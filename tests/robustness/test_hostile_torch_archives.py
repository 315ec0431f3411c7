"""A torch file that is damaged around its pickle gives one clear error."""

import io
import pickle
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
    program,
    tensor,
    write_legacy,
    write_zip,
)
from weight_files import SMALLEST, assert_same, build, numbers

from resnext_keras.models.variables import variable_shapes
from resnext_keras.weights.loading import assign, open_weights
from resnext_keras.weights.tensors import WeightsError

FORMATS = ("zip", "legacy")
GOOD = program(dict_of({"fc.bias": tensor()}))
PASSES = "missing"  # what is said of a state of one tensor that could be read


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


def test_the_files_of_these_tests_can_be_read(zipped, legacy, refused):
    refused(zipped(), PASSES)
    refused(legacy(), PASSES)


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
    found = "damaged pickle" if compression else "a tar archive, of torch before"
    refused(path, found)


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
def test_a_member_that_stands_twice_is_refused(tmp_path, refused, name):
    path = write_zip(tmp_path / "twice.pth", GOOD, {"0": FIVE}, {"archive/more": b""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, FIVE)
    refused(path, "two members of one name")


def test_members_that_are_missing_are_named(tmp_path, zipped, refused):
    refused(zipped(storages=()), "no item named 'archive/data/0'")
    path = tmp_path / "no.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", b"3\n")
    refused(path, "no item named 'archive/data.pkl'")


@pytest.mark.parametrize("data", [b"", FIVE[:-1], FIVE + b"\0", FIVE * 1000])
def test_storages_of_another_size_are_refused(zipped, refused, data):
    refused(zipped([("0", data)]), f"storage '0' of .*{len(data)}.* bytes, not 20")


@pytest.mark.parametrize("order", [b"big", b"", b"middle", b"little" * 2**21])
def test_other_byte_orders_are_refused(zipped, refused, order):
    path = zipped(members={"archive/byteorder": order})
    refused(path, "not little-endian|byteorder' of 12582912 bytes")


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40])
def test_encrypted_members_are_refused(zipped, refused, flag):
    path = zipped()
    whole = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        start = 0
        while (start := whole.find(signature, start)) >= 0:
            whole[start + place] |= flag
            start += 4
    path.write_bytes(whole)
    refused(path, "compressed or encrypted")


@pytest.mark.parametrize(
    ("place", "number", "found"),
    [
        (20, 2**31, "storage '0' of"),  # its size as it is stored
        (24, 2**31, "storage '0' of"),  # its size
        (20, 2**32 - 1, "damaged"),
        (24, 2**32 - 1, "damaged"),
        (42, 2**31, "damaged"),  # where it is
        (42, 2**32 - 1, "damaged"),
        (10, 8, "compressed"),  # how it is compressed
        (10, 99, "compressed"),
    ],
)
def test_a_directory_that_is_wrong_is_refused(zipped, refused, place, number, found):
    path = zipped()
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"archive/data/0") - 46
    size = 2 if place == 10 else 4
    whole[entry + place : entry + place + size] = number.to_bytes(size, "little")
    path.write_bytes(whole)
    refused(path, found)


@pytest.mark.parametrize(
    ("place", "number"),
    [(12, 2**31), (12, 2**32 - 1), (12, 0), (16, 2**31), (16, 0), (16, 2**32 - 1)],
)
def test_an_end_of_the_directory_that_is_wrong_is_refused(
    zipped, refused, place, number
):
    path = zipped()
    whole = bytearray(path.read_bytes())
    end = whole.rindex(b"PK\5\6") + place
    whole[end : end + 4] = number.to_bytes(4, "little")
    path.write_bytes(whole)
    refused(path, "damaged")


@pytest.mark.parametrize("count", [80_000, 1_000_000])
def test_a_huge_directory_takes_little_memory(tmp_path, refused, count):
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", *[0] * 9, 4, *[0] * 6)
    directory = (entry + b"a/bc") * count
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    path = tmp_path / "directory.pth"
    path.write_bytes(directory + end)
    del directory
    tracemalloc.start()
    with pytest.raises(WeightsError, match="damaged"):
        build(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**28


@pytest.mark.parametrize("form", ["data", "name", "checksum"])
def test_damage_within_a_member_changes_no_variable(torch_files, tmp_path, form):
    whole = torch_files["state.zip.pth"].read_bytes()
    with zipfile.ZipFile(torch_files["state.zip.pth"]) as archive:
        last = max(
            (m for m in archive.infolist() if "/data/" in m.filename),
            key=lambda m: m.header_offset,
        )
    local = last.header_offset
    place = {
        "data": whole.index(b"PK\7\x08", local) - 1,
        "name": local + 30,
        "checksum": whole.rindex(last.filename.encode()) - 46 + 16,
    }[form]
    broken = bytearray(whole)
    broken[place] ^= 1
    path = tmp_path / "broken.pth"
    path.write_bytes(broken)
    model = build(spec=SMALLEST)
    before = numbers(model)
    with (
        open_weights(path, variable_shapes(SMALLEST, 3, 5)) as tensors,
        pytest.raises(WeightsError, match="damaged file: ") as caught,
    ):
        assign(model, tensors)
    assert str(path) in str(caught.value)
    assert_same(numbers(model), before)


# Files in the older format


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"magic": pickle.dumps(5, 2)}, "torch.save did not write"),
        ({"magic": pickle.dumps({}, 2)}, "torch.save did not write"),
        ({"magic": GOOD}, "torch.save did not write"),
        ({"magic": b""}, "torch.save did not write"),
        ({"magic": MAGIC + MAGIC}, "torch.save did not write"),
        ({"magic": b"\x80\2ctorch\nFloatStorage\n."}, "torch.save did not write"),
        ({"version": pickle.dumps(1002, 2)}, "torch.save did not write"),
        ({"version": pickle.dumps("1001", 2)}, "torch.save did not write"),
        ({"system": pickle.dumps(SYSTEM | {"little_endian": False}, 2)}, "endian"),
        ({"system": pickle.dumps({}, 2)}, "endian"),
        ({"system": pickle.dumps(None, 2)}, "endian"),
        ({"keys": pickle.dumps([], 2)}, "other storages"),
        ({"keys": pickle.dumps(["0", "1"], 2)}, "other storages"),
        ({"keys": pickle.dumps(["1"], 2)}, "other storages"),
        ({"keys": pickle.dumps(["0", "0"], 2)}, "other storages"),
        ({"keys": pickle.dumps([0], 2)}, "no list of storages"),
        ({"keys": pickle.dumps([["0"]], 2)}, "no list of storages"),
        ({"keys": pickle.dumps("0", 2)}, "no list of storages"),
        ({"keys": pickle.dumps({"0": 0}, 2)}, "no list of storages"),
        ({"keys": b""}, "damaged"),
        ({"keys": b"\x80\2]q\0h\0a."}, "no list of storages"),
    ],
    ids=repr,
)
def test_parts_that_are_wrong_are_refused(legacy, refused, parts, found):
    refused(legacy(**parts), found)


@pytest.mark.parametrize("count", [0, 4, 6, 2**31, 2**63, 2**64 - 1])
def test_another_count_of_numbers_is_refused(legacy, refused, count):
    refused(legacy({"0": (count, FIVE)}), f"{count} numbers, not 5, in storage '0'")


def test_numbers_that_are_cut_off_are_refused(legacy, refused):
    refused(legacy({"0": (5, FIVE[:-1])}), "numbers that are cut off")
    refused(legacy({"0": (5, b"")}), "numbers that are cut off")
