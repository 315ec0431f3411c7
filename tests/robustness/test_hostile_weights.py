"""A weight file that is broken, hostile or of another kind gives one clear error."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from weight_files import CLASSES, build, torch_state

from resnext_keras.models.specs import get_spec
from resnext_keras.weights.tensors import WeightsError

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("hdf5_in_this_process")]


@pytest.fixture(scope="module")
def good_state():
    return torch_state()


@pytest.fixture
def edited(good_state, tmp_path):
    """Saves a state_dict with other tensors, or without some; gives its path."""

    def save(changes=None, without=()):
        state = good_state | (changes or {})
        path = tmp_path / "edited.safetensors"
        save_file({k: v for k, v in state.items() if k not in without}, path)
        return path

    return save


# Files that are not weight files


def test_a_path_without_file_is_refused_with_similar_names(tmp_path, refused):
    near = "resnext.safetensors"
    save_file({}, tmp_path / near)
    refused(tmp_path / "resnet.safetensors", f"Did you mean .*{near}.*Received: ")
    refused(tmp_path / "nothing" / "else.h5", "found no such file. Received: ")
    refused(tmp_path, "found a folder")
    (tmp_path / "dangling.h5").symlink_to(tmp_path / "gone.h5")
    refused(tmp_path / "dangling.h5", "no such file")
    os.mkfifo(tmp_path / "pipe.h5")
    refused(tmp_path / "pipe.h5", "no such file")
    for odd in ("null\0byte.h5", "long" * 2000 + ".h5", "~nobody-of-this-name/a.h5"):
        with pytest.raises(WeightsError, match="no such file"):
            build(odd)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.keras", "load_model.* Received"),
        ("model.npz", r"a weight file \(\.h5, .*\)\. Received"),
        ("model", r"a weight file \(\.h5, .*\)\. Received"),
    ],
)
def test_other_formats_are_refused_with_a_remedy(tmp_path, refused, name, message):
    (tmp_path / name).write_bytes(b"PK\3\4")
    refused(tmp_path / name, message)


@pytest.mark.parametrize("suffix", [".weights.h5", ".H5", ".safetensors"])
def test_other_content_under_the_suffix_is_refused(
    good_weights, tmp_path, refused, suffix
):
    path = tmp_path / f"model{suffix}"
    other = ".weights.h5" if suffix == ".safetensors" else ".safetensors"
    for content in (
        b"",
        b"\n",
        b"<!DOCTYPE html>" * 99,
        good_weights[other].read_bytes(),
    ):
        path.write_bytes(content)
        refused(path, "found something else or a damaged file")


def test_a_truncated_file_is_refused(good_weights, tmp_path, refused):
    whole = good_weights[".safetensors"].read_bytes()
    path = tmp_path / "cut.safetensors"
    ends = np.random.default_rng(0).integers(1, len(whole), 40)
    for end in (1, 8, 96, 2048, len(whole) - 1, *ends):
        path.write_bytes(whole[:end])
        refused(path, "damaged")


# Weights of another network


def test_the_architecture_of_the_file_is_named(tmp_path, refused):
    path = tmp_path / "listed.safetensors"
    for classes in (10, None):
        save_file(torch_state(get_spec("resnext11_8x4d"), classes), path)
        refused(path, r"\(.* more\); .* architecture 'resnext11_8x4d', for 3 channels")


MORE = np.zeros(3, "float32")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("layer9.0.bn3.weight", "1 not expected"),
        ("module.fc.bias", "found a tensor 'module.fc.bias'"),
        *(
            (key, "found a tensor '")
            for key in (
                "fc.weird",
                "layer01.0.conv1.weight",
                "layer1.0.conv0.weight",
                "layer" + "9" * 5000 + ".0.bn1.bias",
                "a" * 10**6,
                "fc.bias.",
                "bn1",
                "",
            )
        ),
    ],
    ids=lambda value: f"{value:.40}",
)
def test_tensors_that_are_not_expected_are_named(edited, refused, key, message):
    refused(edited({key: MORE}), message)


def test_missing_tensors_are_counted_and_named(edited, good_state, refused):
    refused(edited(without=["bn1.running_var"]), "1 missing .*conv1_bn/moving_var")
    refused(edited(without=good_state), "missing")
    for key in ("fc.bias", "fc.weight"):
        refused(edited(without=[key]), "1 missing")


@pytest.mark.parametrize("name", ["fc.bias", "fc.weight", "conv1.weight"])
def test_wrong_shapes_are_named(edited, refused, name):
    odd = ((), (0,), (5, 1), (1,), (2**20,), (512, CLASSES + 1), (1,) * 32)
    for shape in odd:
        path = edited({name: np.zeros(shape, "float32")})
        refused(path, "1 of another shape .* nothing was loaded")


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_whole_numbers_are_refused(edited, refused, dtype):
    path = edited({"fc.bias": np.zeros(CLASSES, dtype)})
    refused(path, "floating-point numbers in predictions/bias")


# safetensors


def write(path, header, data=b"", length=None):
    """A file with any header."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    length = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + header + data)
    return path


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"fc.bias": entry(0, 4), "bn1.bias": entry(0, 4)},
        {"fc.bias": entry(0, 4), "bn1.bias": entry(8, 12)},
        {"fc.bias": entry(4, 12, (2,))},
        {"fc.bias": entry(0, 8, (2,))},
        {"fc.bias": entry(0, 400, (100,))},
        {"fc.bias": entry(0, 4, (-1,))},
        {"fc.bias": entry(-4, 12, (4,))},
        {"fc.bias": entry(12, 0, (3,))},
        {"fc.bias": entry(0, 12, (2**62, 8))},
        {"fc.bias": entry(0, 12, (10**30,))},
        {"fc.bias": entry(0, 12, (3,), "F99")},
        {"fc.bias": entry(0, 12, "3")},
        {"fc.bias": 5},
        [1, 2],
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        {"fc.bias": ["F32", [3], [0, 12]]},
        {"fc.bias": entry(0, 12, (3,), {"F32": None})},
    ],
    ids=lambda header: f"{header!s:.60}",
)
def test_impossible_safetensors_headers_are_refused(tmp_path, refused, header):
    path = write(tmp_path / "header.safetensors", header, b"\0" * 12)
    refused(path, "damaged|to be one of .*, found")


def test_a_long_header_is_refused_before_it_is_parsed(tmp_path, refused):
    names = {f"{n}": entry(0, 0, (0,)) for n in range(80_000)}
    refused(write(tmp_path / "long.safetensors", names), "header of at most")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**63, 2**64 - 1])
def test_a_wrong_header_length_is_refused(tmp_path, refused, length):
    path = tmp_path / "length.safetensors"
    refused(write(path, {"fc.bias": entry(0, 4)}, b"\0" * 4, length), "damaged")


def test_a_name_that_comes_twice_is_refused(tmp_path, refused):
    one, other = (json.dumps(entry(0, 8, shape)) for shape in ((2, 1), (1, 2)))
    header = f'{{"fc.bias":{one},"fc.bias":{other}}}'.encode()
    refused(write(tmp_path / "twice.safetensors", header, b"\0" * 8), "each name once")
