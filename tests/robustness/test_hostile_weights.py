"""A weight file that is broken, hostile or of another kind gives one clear error."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from weight_files import (
    CLASSES,
    build,
    torch_state,
)

from resnext_keras.models.specs import get_spec
from resnext_keras.weights.tensors import WeightsError


@pytest.fixture
def state(tmp_path):
    """Saves an edited state_dict; gives its path."""

    def edited(edit):
        tensors = torch_state()
        edit(tensors)
        save_file(tensors, tmp_path / "edited.safetensors")
        return tmp_path / "edited.safetensors"

    return edited


# What is no weight file


def test_what_is_no_file_is_named_with_what_is_near(good_weights, tmp_path, refused):
    save_file({}, tmp_path / "resnext.safetensors")
    near = "resnext.safetensors"
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


@pytest.mark.parametrize("weights", ["digit", "Digits", "digits "])
def test_near_names_of_sets_are_suggested(weights):
    with pytest.raises(
        WeightsError, match=r"Did you mean digits\? Received: weights='"
    ):
        build(weights)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.keras", "load_model.* Received"),
        ("model.npz", r"a weight file \(\.h5, .*\)\. Received"),
        ("model", r"a weight file \(\.h5, .*\)\. Received"),
    ],
)
def test_other_formats_are_refused_with_a_remedy(tmp_path, refused, name, found):
    (tmp_path / name).write_bytes(b"PK\3\4")
    refused(tmp_path / name, found)


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


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_a_truncated_file_is_refused(good_weights, tmp_path, refused, suffix):
    whole = good_weights[suffix].read_bytes()
    path = tmp_path / f"cut{suffix}"
    rng = np.random.default_rng(0)
    ends = [1, 8, 96, 2048, len(whole) - 1, *rng.integers(1, len(whole), 40)]
    for end in ends:
        path.write_bytes(whole[:end])
        refused(path, "damaged")


# Weights of another network


def test_the_architecture_is_told(tmp_path, refused):
    listed = get_spec("resnext11_8x4d")
    path = tmp_path / "listed.safetensors"
    for classes in (10, None):
        save_file(torch_state(listed, classes), path)
        refused(
            path, r"\(.*, \.\.\.\); .* architecture 'resnext11_8x4d', for 3 channels"
        )


def test_missing_and_extra_tensors_are_counted_and_named(state, h5, refused):
    refused(
        state(lambda s: s.pop("bn1.running_var")), "1 missing .*conv1_bn/moving_var"
    )
    more = np.zeros(3, "float32")
    refused(state(lambda s: s.update({"layer9.0.bn3.weight": more})), "1 not expected")
    for key in (
        "fc.weird",
        "layer01.0.conv1.weight",
        "layer1.0.conv0.weight",
        "layer" + "9" * 5000 + ".0.bn1.bias",
        "a" * 10**6,
        "fc.bias.",
        "bn1",
        "",
    ):
        refused(state(lambda s, key=key: s.update({key: more})), "found a tensor '")
    refused(
        state(lambda s: s.update({"module.fc.bias": more})),
        "predictions/bias once in .*, found it twice",
    )
    refused(state(lambda s: s.clear()), "missing")
    for key in ("fc.bias", "fc.weight"):
        refused(state(lambda s, key=key: s.pop(key)), "1 missing")

    def drop(file):
        del file["layers/grouped_conv2d"]

    refused(h5(drop), "1 missing .*conv2_block1_2_conv/kernel")
    refused(
        h5(lambda file: file["layers"].create_group("more")), "no 'vars' of its own"
    )

    def rename(file):
        file["layers/conv2d/vars"].attrs["name"] = "e" * 10_000

    refused(h5(rename), "1 missing .*1 not expected")


@pytest.mark.parametrize(
    "shape", [(), (0,), (5, 1), (1,), (2**20,), (512, CLASSES + 1), (1,) * 32]
)
@pytest.mark.parametrize("name", ["fc.bias", "fc.weight", "conv1.weight"])
def test_wrong_shapes_are_named(state, refused, shape, name):
    path = state(lambda s: s.update({name: np.zeros(shape, "float32")}))
    refused(path, "1 of another shape .* nothing was loaded")


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_whole_numbers_are_refused(state, h5, refused, dtype):
    refused(
        state(lambda s: s.update({"fc.bias": np.zeros(CLASSES, dtype)})),
        "floating-point numbers in predictions/bias",
    )

    def edit(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.zeros(CLASSES, dtype)

    refused(h5(edit), "floating-point numbers in '/layers/dense/vars/1'")


# safetensors


def write(path, header, data=b"", length=None):
    """A file whose header says what it likes."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    length = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + header + data)


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
    ids=str,
)
def test_impossible_safetensors_headers_are_refused(tmp_path, refused, header):
    path = tmp_path / "header.safetensors"
    write(path, header, b"\0" * 12)
    refused(path, "damaged|to be one of .*, found")


def test_a_long_header_is_refused_before_it_is_parsed(tmp_path, refused):
    path = tmp_path / "long.safetensors"
    names = {f"{n}": entry(0, 0, (0,)) for n in range(80_000)}
    write(path, names)
    refused(path, "header of at most")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**63, 2**64 - 1])
def test_a_wrong_header_length_is_refused(tmp_path, refused, length):
    path = tmp_path / "length.safetensors"
    write(path, {"fc.bias": entry(0, 4)}, b"\0" * 4, length)
    refused(path, "damaged")


def test_a_name_that_stands_twice_is_refused(tmp_path, refused):
    path = tmp_path / "twice.safetensors"
    one, other = (json.dumps(entry(0, 8, shape)) for shape in ((2, 1), (1, 2)))
    write(path, f'{{"fc.bias":{one},"fc.bias":{other}}}'.encode(), b"\0" * 8)
    refused(path, "each name once")
