"""What `weights=` promises of torch's own files: each number arrives in its place."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from torch_programs import (
    dict_of,
    program,
    tensor,
    write_legacy,
    write_zip,
)
from weight_files import SMALLEST, assert_same, build, keras_values, numbers

from resnext_keras.weights.formats.torch_file import open_torch_file

FORMATS = ("zip", "legacy")
FIVE = np.arange(5, dtype="<f4")


def expected(**changed):
    return keras_values(SMALLEST) | changed


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name",
    [
        "state",
        "parameters",
        "protocol3",
        "protocol4",
        "protocol5",
        "timm",
        "averaged",
        "averaged_model",
        "fixres",
        "mmpretrain",
    ],
)
def test_what_torch_saved_comes_back_exactly(torch_files, name, form):
    path = torch_files[f"{name}.{form}.pth"]
    before = path.read_bytes()
    assert_same(numbers(build(path, SMALLEST)), expected())
    assert path.read_bytes() == before


@pytest.mark.parametrize("form", FORMATS)
def test_shared_transposed_sliced_and_widened_storages(torch_files, form):
    found = numbers(build(torch_files[f"views.{form}.pth"], SMALLEST))
    widened = {"conv1_bn/moving_variance": np.full(64, 1.5, "float32")}
    assert_same(found, expected(**widened))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types(torch_files, dtype, form):
    stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    found = numbers(build(torch_files[f"{dtype}.{form}.pth"], SMALLEST))
    values = expected().items()
    assert_same(found, {k: v.astype(stored).astype("float32") for k, v in values})


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth.tar", ".PTH"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_suffix_that_torch_users_give(torch_files, tmp_path, form, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(torch_files[f"state.{form}.pth"].read_bytes())
    assert_same(numbers(build(path, SMALLEST)), expected())


@pytest.mark.parametrize("form", FORMATS)
def test_a_classifier_is_left_out_without_the_top(torch_files, form):
    model = build(torch_files[f"state.{form}.pth"], SMALLEST, include_top=False)
    values = expected().items()
    backbone = {k: v for k, v in values if not k.startswith("predictions/")}
    assert_same(numbers(model), backbone)


# What this torch no longer writes


def bias(path):
    with open_torch_file(path) as stored:
        (found,) = (tensor.read() for tensor in stored.values())
        return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"module": "torch.cuda"},  # saved from a GPU before torch 1.6
        {"view": None},
        {"view": ("7", 0, 5)},
    ],
)
def test_storages_of_older_files(tmp_path, options):
    pickled = program(dict_of({"fc.bias": tensor(**options)}))
    path = write_legacy(tmp_path / "old.pth", pickled, {"0": (5, FIVE.tobytes())})
    np.testing.assert_array_equal(bias(path), FIVE)


def test_a_part_of_a_storage_in_files_of_2017(tmp_path):
    part = tensor(5, (2,), (1,), 1, view=("7", 2, 3))
    path = tmp_path / "part.pth"
    write_legacy(path, program(dict_of({"fc.bias": part})), {"0": (5, FIVE.tobytes())})
    np.testing.assert_array_equal(bias(path), [3, 4])


def test_a_file_of_python_2(tmp_path):
    # Its texts are bytes, and its OrderedDict gets a list of lists.
    text = b"U\x07fc.bias"
    pairs = b"](" + b"](" + text + tensor() + b"ee"
    state = b"ccollections\nOrderedDict\n(" + pairs + b"tR"
    path = write_zip(tmp_path / "two.pth", program(state), {"0": FIVE.tobytes()})
    np.testing.assert_array_equal(bias(path), FIVE)


def test_views_of_no_axis_and_of_no_number(tmp_path):
    for shape, strides, offset, numbers_ in [
        ((), (), 3, 3.0),
        ((0,), (1,), 5, np.zeros(0)),
        ((2, 0, 3), (0, 3, 1), 0, np.zeros((2, 0, 3))),
        ((2, 3, 2), (1, 0, 2), 1, [[[1, 3]] * 3, [[2, 4]] * 3]),
        ((1, 1), (2**40, 2**62), 4, [[4]]),
    ]:
        state = program(dict_of({"bn1.bias": tensor(5, shape, strides, offset)}))
        path = write_zip(tmp_path / "view.pth", state, {"0": FIVE.tobytes()})
        np.testing.assert_array_equal(bias(path), numbers_)


# Memory


@pytest.mark.parametrize("form", FORMATS)
def test_no_more_than_a_tensor_is_in_memory(tmp_path, form):
    count = 2**24  # 64 MB
    state = {
        "bn1.bias": tensor(count, (1000,), (1,), count - 1000),
        "fc.bias": tensor(count, (1000,), (1,)),
    }
    path, data = tmp_path / "large.pth", np.arange(count, dtype="<f4").tobytes()
    if form == "zip":
        write_zip(path, program(dict_of(state)), {"0": data})
    else:
        write_legacy(path, program(dict_of(state)), {"0": (count, data)})
    del data
    tracemalloc.start()
    with open_torch_file(path) as stored:
        last = stored["conv1_bn/beta"].read()
        first = stored["predictions/bias"].read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(last, np.arange(count - 1000, count))
    np.testing.assert_array_equal(first, np.arange(1000))
    assert peak < 2**24
