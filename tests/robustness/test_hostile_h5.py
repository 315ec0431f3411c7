"""An HDF5 file that is built to do harm gives one clear error.

Both kinds: of Keras 3, and of keras-applications on Keras 2.
"""

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from weight_files import CLASSES, KERAS_APPLICATIONS, TINY, edited_copy

from resnext_keras import ResNeXtSpec
from resnext_keras.weights.formats import hdf5_index

pytestmark = pytest.mark.long

BIAS = "probs/probs/bias:0"
DEPTHWISE = "conv2_block1_2_conv/conv2_block1_2_conv/depthwise_kernel:0"


@pytest.fixture(autouse=True)
def _hdf5_in_this_process(hdf5_in_this_process):
    """What is refused is the same there; test_hdf5_process.py has the process."""


class Kind(NamedTuple):
    """A kind of HDF5 file: a good file, its network, and places in it."""

    source: Path
    spec: ResNeXtSpec
    places: tuple[str, ...]

    @property
    def bias(self):
        return self.places[-1]


@pytest.fixture
def keras3(good_weights):
    places = ("layers", "layers/dense", "layers/dense/vars", "layers/dense/vars/1")
    return Kind(good_weights[".weights.h5"], TINY, places)


@pytest.fixture
def legacy():
    source = GOLDEN / "keras_applications_4x4d.h5"
    return Kind(source, KERAS_APPLICATIONS, ("probs", "probs/probs", BIAS))


@pytest.fixture(params=["keras3", "legacy"])
def kind(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def spoilt(refused, tmp_path, monkeypatch):
    """Checks that an edited file gives the one error, and that nothing else happens."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").write_bytes(b"\0" * 4 * CLASSES)

    def check(kind, edit, message):
        path = edited_copy(kind.source, tmp_path / "edited.h5", edit)
        before = {*tmp_path.iterdir()}, dict(os.environ)
        refused(path, message, spec=kind.spec)
        assert ({*tmp_path.iterdir()}, dict(os.environ)) == before

    return check


def replaced(place, **options):
    """An edit that makes a dataset anew."""

    def edit(file):
        del file[place]
        file.create_dataset(place, **options)

    return edit


def linked(place, link):
    """An edit that puts a link in the place of a member."""

    def edit(file):
        file.move(place, "moved")
        file[place] = link

    return edit


# Data


ODD_TYPES = [
    h5py.string_dtype(),
    h5py.vlen_dtype("float32"),
    h5py.ref_dtype,
    "complex64",
    "S4",
    "V2",
    "bool",
    "uint8",
    "int32",
    "int64",
    "longdouble",
    [("a", "float32")],
    np.dtype(("float32", (2,))),
]
FIVE = {"shape": (CLASSES,), "dtype": "float32"}
ZEROS = {"data": np.zeros(CLASSES, "float32")}
HUGE = {"shape": (10**6, 10**6), "dtype": "float32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            (FIVE | {"dtype": dtype}, "floating-point numbers in")
            for dtype in ODD_TYPES
        ),
        (HUGE, "Expected 4000000000000 bytes .* found 0"),
        (HUGE | {"chunks": (10, 10)}, "found chunks"),
        (ZEROS | {"compression": "gzip"}, "found chunks"),
        (ZEROS | {"maxshape": (None,)}, "found chunks"),
        (FIVE, "found 0"),
        ({"data": h5py.Empty("f4")}, "Expected 4 bytes .* found 0"),
        (FIVE | {"external": [("raw", 0, 4 * CLASSES)]}, "data in another file"),
    ],
    ids=lambda value: f"{value!s:.40}",
)
def test_data_that_are_not_a_block_of_floats_are_refused(
    kind, spoilt, options, message
):
    names_it = f"(?=.*'/{kind.bias}')"
    spoilt(kind, replaced(kind.bias, **options), names_it + f".*{message}")


def test_data_of_another_file_are_refused(kind, spoilt):
    layout = h5py.VirtualLayout(**FIVE)
    layout[:] = h5py.VirtualSource(kind.source, kind.bias, (CLASSES,))

    def virtual(file):
        del file[kind.bias]
        file.create_virtual_dataset(kind.bias, layout)

    spoilt(kind, virtual, "data in another file")


def test_numbers_that_hdf5_would_have_to_convert_are_refused(kind, spoilt):
    def edit(file):
        number = h5py.h5t.IEEE_F32LE.copy()
        number.set_ebias(100)
        del file[kind.bias]
        space = h5py.h5s.create_simple((CLASSES,))
        dataset = h5py.h5d.create(file.id, kind.bias.encode(), number, space)
        h5py.Dataset(dataset)[...] = np.ones(CLASSES)

    spoilt(kind, edit, f"floating-point numbers in '/{kind.bias}'")


def test_links_are_not_followed(kind, spoilt):
    for place in kind.places:
        for link in (
            h5py.SoftLink("/moved"),
            h5py.SoftLink("/nowhere"),
            h5py.ExternalLink(kind.source, f"/{place}"),
        ):
            message = f"no '{place.rpartition('/')[2]}' of its own"
            spoilt(kind, linked(place, link), message)


def test_a_truncated_file_is_refused(kind, refused, tmp_path):
    whole = kind.source.read_bytes()
    path = tmp_path / "cut.h5"
    ends = np.random.default_rng(0).integers(1, len(whole), 40)
    for end in (0, 1, 8, 96, 2048, len(whole) - 1, *ends):
        path.write_bytes(whole[:end])
        refused(path, "damaged", spec=kind.spec)


# Groups of Keras 3


def member(place, value):
    """An edit that sets a member, in place of another; None removes it."""

    def edit(file):
        if place in file:
            del file[place]
        if value is h5py.Group:
            file.create_group(place)
        elif value is not None:
            file[place] = file[value] if isinstance(value, str) else value

    return edit


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("layers/again", "layers", "no 'vars' of its own"),  # a circle
        ("layers/dense/vars", "layers", "found the group"),  # and another
        ("layers/again", "layers/dense", r"predictions/kernel. once in .* twice"),
        ("layers/more", h5py.Group, "no 'vars' of its own"),
        ("layers/dense/vars/1", h5py.Group, "to be a Dataset, found a Group"),
        ("layers/dense", np.zeros(3), "to be a Group, found a Dataset"),
        ("layers/dense", np.dtype("f4"), "to be a Group, found a Datatype"),
        ("layers/grouped_conv2d", None, "1 missing .*conv2_block1_2_conv/kernel"),
    ],
)
def test_circles_doubles_and_wrong_kinds_are_refused(
    keras3, spoilt, place, value, message
):
    spoilt(keras3, member(place, value), message)


@pytest.mark.parametrize(
    "name",
    [None, 5, [1, 2], ["dense"], "", b"\xff\xfe", h5py.Empty("S1"), "e" * 10_000],
    ids=lambda name: f"{name!r:.40}",
)
def test_layers_without_their_name_are_refused(keras3, spoilt, name):
    def edit(file):
        attributes = file["layers/dense/vars"].attrs
        del attributes["name"]
        if name is not None:
            attributes["name"] = name

    spoilt(keras3, edit, "found the group|missing|not expected")


# Tables of names of keras-applications


LIST = "to be a list of names"
NO_TABLE = "an attribute 'weight_names' of '/probs' .* found none"
RECORD = [("a", "S5")]
NOTHING = ("", "/probs", "probs/", "probs//probs")


def table(place, value):
    """An edit that sets the table of names of the file or a layer; None removes it."""

    def edit(file):
        name = "layer_names" if place == "/" else "weight_names"
        del file[place].attrs[name]
        if value is not None:
            file[place].attrs[name] = value

    return edit


@pytest.mark.parametrize(
    ("place", "names", "message"),
    [
        *(("/", [name], "no '' of its own") for name in NOTHING),
        ("/", ["nothing"], "no 'nothing' of its own"),
        ("/", [".."], r"no '\.\.' of its own"),
        ("/", ["n" * 10_000], "no 'nnn"),
        ("/", np.array([b"a" * 60_000]), "no 'aaa"),
        ("/", np.array([b"\xff\xfe"]), "of its own"),
        ("/", ["."], "damaged"),
        ("/", ["probs", "probs"], "predictions?/kernel. once|probs/kernel. once"),
        ("/", ["probs/probs"], "'weight_names' of '/probs/probs'"),
        ("/", [BIAS], "to be a Group, found a Dataset"),
        ("/", [], "has no depthwise kernel"),
        *(("/", value, LIST) for value in ("probs", 5, [1, 2], [["probs"]])),
        *(("/", value, LIST) for value in (h5py.Empty("S1"), np.zeros(3, RECORD))),
        ("probs", ["probs/kernel:0", "probs/kernel:0"], "probs/kernel. once"),
        ("probs", ["../conv1_bn/conv1_bn/beta:0"], r"no '\.\.' of its own"),
        ("probs", ["/conv1_bn/conv1_bn/beta:0"], "no '' of its own"),
        ("probs", ["probs"], "to be a Dataset, found a Group"),
        ("probs", ["probs/kernel:0/more"], "to be a Group, found a Dataset"),
        ("probs", [], "include_top=False"),
        *(("probs", value, LIST) for value in ("probs/kernel:0", [1.0])),
        ("/", None, "no 'layers' of its own"),
        ("probs", None, NO_TABLE),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_impossible_tables_of_names_are_refused(legacy, spoilt, place, names, message):
    spoilt(legacy, table(place, names), message)


def test_a_gap_in_a_table_is_refused(legacy, spoilt):
    def gap(file):
        attributes = file["probs"].attrs
        attributes["weight_names1"] = attributes["weight_names"]
        del attributes["weight_names"]

    spoilt(legacy, gap, NO_TABLE)


@pytest.mark.parametrize(
    ("place", "name"), [("/", "probs"), ("probs", "probs/kernel:0")]
)
def test_endless_tables_are_refused(legacy, spoilt, monkeypatch, place, name):
    monkeypatch.setattr(hdf5_index, "MAX_TENSORS", 1000)

    def edit(file):
        item = file[place]
        attribute = next(iter({"layer_names", "weight_names"} & set(item.attrs)))
        del item.attrs[attribute]
        for number in range(6):
            item.attrs[f"{attribute}{number}"] = np.array([name] * 200, "S")

    spoilt(legacy, edit, "at most 1000 tensors")


@pytest.mark.parametrize("dtype", ["S1", "S5000000"])
def test_a_huge_table_is_not_read(refused, tmp_path, dtype):
    # Attributes of any size are of a later version of HDF5's format.
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w", libver="latest") as file:
        count = 5_000_000 // np.dtype(dtype).itemsize
        file.attrs.create("layer_names", np.zeros(count, dtype))
    refused(path, LIST)


def test_a_whole_model_behind_a_link_is_refused(legacy, spoilt):
    for value, message in (
        (h5py.ExternalLink(legacy.source, "/"), "no 'model_weights' of its own"),
        (h5py.SoftLink("/"), "no 'model_weights' of its own"),
        (h5py.SoftLink("/a"), "no 'model_weights' of its own"),
        (np.array(3), "to be a Group"),
        (h5py.Group, "found none"),
    ):
        spoilt(legacy, member("model_weights", value), message)


# Networks that are not the ResNeXt of keras-applications


def test_other_networks_are_refused(legacy, spoilt):
    def no_depthwise(file):
        for block in (1, 2):
            layer = f"conv2_block{block}_2_conv"
            file[layer].attrs["weight_names"] = [f"{layer}/kernel:0"]
            file.move(
                f"{layer}/{layer}/depthwise_kernel:0", f"{layer}/{layer}/kernel:0"
            )

    message = "to be a ResNeXt of keras-applications; .*save_weights"
    spoilt(legacy, no_depthwise, message)

    def with_bias(file):
        names = ["conv1_conv/kernel:0", "conv1_conv/bias:0"]
        file["conv1_conv"].attrs["weight_names"] = names
        file["conv1_conv/conv1_conv/bias:0"] = np.zeros(64, "float32")

    spoilt(legacy, with_bias, r"1 not expected \(conv1_conv/bias\)")

    def two_heads(file):
        file["predictions"] = file["probs"]
        file.attrs["layer_names"] = [*file.attrs["layer_names"], "predictions"]

    spoilt(legacy, two_heads, "predictions/kernel. once in .* twice")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            [(), (16,), (3, 3, 16), (3, 3, 16, 5), (3, 3, 16, 0), (3, 3, 16, 4, 1)],
            "to be .height, width, filters, channels",
        ),
        (
            [(3, 3, 16, 2), (3, 3, 8, 4), (1, 1, 16, 4)],
            "1 of another shape .*block1_2_conv/kernel",
        ),
    ],
)
def test_depthwise_kernels_of_other_shapes_are_refused(legacy, spoilt, shapes, message):
    for shape in shapes:
        spoilt(legacy, replaced(DEPTHWISE, data=np.zeros(shape, "float32")), message)


SUM = "conv2_block1_2_gconv"
SUM_SHAPE = (1, 1, 64, 16)


@pytest.mark.parametrize(
    ("layer", "weights", "shape", "message"),
    [
        (SUM, ["kernel:0"], (1, 64, 16), r"of shape \(1, 1, 64, 16\)"),
        (SUM, ["kernel:0"], (1, 1, 16, 16), r"of shape \(1, 1, 64, 16\)"),
        (SUM, ["kernel:0"], (3, 3, 64, 16), r"of shape \(1, 1, 64, 16\)"),
        (SUM, ["kernel:0", "bias:0"], SUM_SHAPE, "not expected .*gconv/bias"),
        (SUM, ["kernel:0", "again/kernel:0"], SUM_SHAPE, "gconv/kernel. once"),
        ("conv9_block1_2_gconv", ["kernel:0"], SUM_SHAPE, "before .conv9_block1_2_gco"),
    ],
)
def test_impossible_sums_of_groups_are_refused(
    legacy, spoilt, layer, weights, shape, message
):
    def add(file):
        for weight in weights:
            file[f"{layer}/{weight}"] = np.zeros(shape, "float32")
        file[layer].attrs["weight_names"] = weights
        file.attrs["layer_names"] = [*file.attrs["layer_names"], layer]

    spoilt(legacy, add, message)
