"""Each number of torch's own files arrives in its place."""

import tracemalloc

import numpy as np
import pytest
from torch_programs import (
    dict_of,
    program,
    tensor,
    write_legacy,
    write_zip,
)
from weight_files import SMALLEST, assert_same, build, keras_values, numbers, read

from resnext_keras.weights.formats.torch_file import open_torch_file

FIVE = np.arange(5, dtype="<f4")


@pytest.fixture(params=["zip", "legacy"])
def form(request):
    """The format of `torch.save`: since torch 1.6, or before."""
    return request.param


def test_a_network_gets_the_numbers_of_a_file_of_any_suffix(
    torch_files, form, tmp_path
):
    whole = torch_files[f"state.{form}.pth"].read_bytes()
    for suffix in (".pt", ".bin", ".pth.tar", ".PTH", ".ckpt"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(whole)
        assert_same(read(path, SMALLEST), keras_values(SMALLEST))
    assert_same(numbers(build(path, SMALLEST)), keras_values(SMALLEST))
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "name",
    [
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
def test_whatever_torch_saved_comes_back_exactly(torch_files, name, form):
    values = read(torch_files[f"{name}.{form}.pth"], SMALLEST)
    assert_same(values, keras_values(SMALLEST))


def test_shared_transposed_sliced_and_widened_storages(torch_files, form):
    values = read(torch_files[f"views.{form}.pth"], SMALLEST)
    widened = {"conv1_bn/moving_variance": np.full(64, 1.5, "float32")}
    assert_same(values, keras_values(SMALLEST) | widened)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types(torch_files, dtype, form):
    values = read(torch_files[f"{dtype}.{form}.pth"], SMALLEST)
    assert {value.dtype.name for value in values.values()} == {dtype}
    expected = {k: v.astype(dtype) for k, v in keras_values(SMALLEST).items()}
    assert_same(values, expected)


# What this torch no longer writes


def bias(path):
    with open_torch_file(path) as stored:
        (value,) = (tensor.read() for tensor in stored.values())
        return value


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, FIVE),
        ({"module": "torch.cuda"}, FIVE),  # saved from a GPU before torch 1.6
        ({"view": None}, FIVE),
        ({"view": ("7", 0, 5)}, FIVE),
        # A part of a storage, of 2017.
        ({"view": ("7", 2, 3), "shape": (2,), "offset": 1}, [3, 4]),
    ],
)
def test_storages_of_older_files(tmp_path, options, expected):
    pickled = program(dict_of({"fc.bias": tensor(**options)}))
    path = write_legacy(tmp_path / "old.pth", pickled, {"0": (5, FIVE.tobytes())})
    np.testing.assert_array_equal(bias(path), expected)


def test_the_averages_of_mmengine_are_its_state_dict(tmp_path, form, caplog):
    """It swaps the two networks when it saves a training run, with its log."""
    kernel = {"shape": (5, 1, 1, 1), "strides": (1, 1, 1, 1)}
    history = b"cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}b"
    run = {
        "message_hub": dict_of({"train/loss": history}),
        **{
            name: dict_of({f"{prefix}layer1.0.conv1.weight": tensor(key=key, **kernel)})
            for name, prefix, key in (
                ("ema_state_dict", "module.backbone.", "0"),
                ("state_dict", "backbone.", "1"),
            )
        },
    }
    path, pickled = tmp_path / "epoch_12.pth", program(dict_of(run))
    numbers = {"0": (5, bytes(20)), "1": (5, FIVE.tobytes())}
    if form == "zip":
        write_zip(path, pickled, {key: data for key, (_, data) in numbers.items()})
    else:
        write_legacy(path, pickled, numbers)
    with open_torch_file(path) as stored:
        (value,) = (tensor.read() for tensor in stored.values())
    np.testing.assert_array_equal(value.ravel(), FIVE)
    assert "averaged weights 'state_dict'" in caplog.text


def test_a_file_of_python_2(tmp_path):
    # Its texts are bytes, and its OrderedDict gets a list of lists.
    text = b"U\x07fc.bias"
    pairs = b"](" + b"](" + text + tensor() + b"ee"
    state = b"ccollections\nOrderedDict\n(" + pairs + b"tR"
    path = write_zip(tmp_path / "two.pth", program(state), {"0": FIVE.tobytes()})
    np.testing.assert_array_equal(bias(path), FIVE)


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "expected"),
    [
        ((), (), 3, 3.0),
        ((0,), (1,), 5, np.zeros(0)),
        ((2, 0, 3), (0, 3, 1), 0, np.zeros((2, 0, 3))),
        ((2, 3, 2), (1, 0, 2), 1, [[[1, 3]] * 3, [[2, 4]] * 3]),
        ((1, 1), (2**40, 2**62), 4, [[4]]),
    ],
)
def test_views_without_axes_or_numbers(tmp_path, shape, strides, offset, expected):
    state = program(dict_of({"bn1.bias": tensor(5, shape, strides, offset)}))
    path = write_zip(tmp_path / "view.pth", state, {"0": FIVE.tobytes()})
    np.testing.assert_array_equal(bias(path), expected)


def test_no_more_than_a_tensor_is_in_memory(tmp_path, form):
    count = 2**22  # 16 MB
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
    assert peak < 2**23
