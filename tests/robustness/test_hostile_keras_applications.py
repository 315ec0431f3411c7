"""A file in the format of keras-applications that is built to do harm is refused."""

import os

import h5py
import numpy as np
import pytest
from helpers import GOLDEN
from weight_files import CLASSES, KERAS_APPLICATIONS

GOOD = GOLDEN / "keras_applications_4x4d.h5"
BIAS = "probs/probs/bias:0"
DEPTHWISE = "conv2_block1_2_conv/conv2_block1_2_conv/depthwise_kernel:0"


@pytest.fixture
def spoilt(legacy_h5, refused, tmp_path, monkeypatch):
    """Checks that an edited file gives the one error, and does nothing else."""
    monkeypatch.chdir(tmp_path)

    def check(edit, found):
        path = legacy_h5(edit)
        before = {*tmp_path.iterdir()}, dict(os.environ)
        refused(path, found, spec=KERAS_APPLICATIONS)
        assert ({*tmp_path.iterdir()}, dict(os.environ)) == before

    return check


def replace(place, **options):
    """An edit that makes a dataset anew."""

    def edit(file):
        del file[place]
        file.create_dataset(place, **options)

    return edit


def set_table(attribute, value, place="/"):
    """An edit that sets a table of names."""

    def edit(file):
        file[place].attrs[attribute] = value

    return edit


# Places in the file and outside


@pytest.mark.parametrize("place", ["probs", "probs/probs", BIAS])
@pytest.mark.parametrize("kind", ["soft", "dangling", "external"])
def test_links_are_not_followed(spoilt, place, kind):
    link = {
        "soft": h5py.SoftLink("/moved"),
        "dangling": h5py.SoftLink("/nowhere"),
        "external": h5py.ExternalLink(GOOD, f"/{place}"),
    }[kind]

    def edit(file):
        file.move(place, "moved")
        file[place] = link

    spoilt(edit, f"no '{place.rpartition('/')[2]}' of its own")


def test_a_whole_model_behind_a_link_is_refused(spoilt):
    for link in (h5py.ExternalLink(GOOD, "/"), h5py.SoftLink("/"), h5py.SoftLink("/a")):

        def edit(file, link=link):
            file["model_weights"] = link

        spoilt(edit, "no 'model_weights' of its own")
    spoilt(lambda file: file.create_dataset("model_weights", data=3), "to be a Group")
    spoilt(lambda file: file.create_group("model_weights"), "found none")


def test_data_outside_the_file_are_refused(spoilt, tmp_path):
    (tmp_path / "raw").write_bytes(b"\0" * 4 * CLASSES)
    options = {"shape": (CLASSES,), "dtype": "float32"}
    external = [(str(tmp_path / "raw"), 0, 4 * CLASSES)]
    spoilt(replace(BIAS, **options, external=external), "data in another file")
    layout = h5py.VirtualLayout(**options)
    layout[:] = h5py.VirtualSource(GOOD, BIAS, (CLASSES,))

    def virtual(file):
        del file[BIAS]
        file.create_virtual_dataset(BIAS, layout)

    spoilt(virtual, "data in another file")


def test_huge_declared_shapes_take_no_memory(spoilt):
    huge = {"shape": (10**6, 10**6), "dtype": "float32"}
    spoilt(replace(BIAS, **huge), "Expected 4000000000000 bytes .* found 0")
    spoilt(replace(BIAS, **huge, chunks=(10, 10)), "found chunks")
    data = np.zeros(CLASSES, "f4")
    spoilt(replace(BIAS, data=data, compression="gzip"), "found chunks")
    spoilt(replace(BIAS, data=data, maxshape=(None,)), "found chunks")
    spoilt(replace(BIAS, shape=(CLASSES,), dtype="f4"), "found 0")
    spoilt(replace(BIAS, data=h5py.Empty("f4")), "Expected 4 bytes")


@pytest.mark.parametrize(
    "dtype",
    [
        h5py.string_dtype(),
        h5py.vlen_dtype("float32"),
        h5py.ref_dtype,
        "complex64",
        "S4",
        "V2",
        "int32",
        "longdouble",
        [("a", "float32")],
        np.dtype(("float32", (2,))),
    ],
    ids=str,
)
def test_odd_types_are_refused(spoilt, dtype):
    spoilt(replace(BIAS, shape=(CLASSES,), dtype=dtype), f"numbers in '/{BIAS}'")


def test_numbers_that_hdf5_would_have_to_convert_are_refused(spoilt):
    def edit(file):
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_ebias(100)
        del file[BIAS]
        space = h5py.h5s.create_simple((CLASSES,))
        dataset = h5py.h5d.create(file.id, BIAS.encode(), kind, space)
        h5py.Dataset(dataset)[...] = np.ones(CLASSES)

    spoilt(edit, f"floating-point numbers in '/{BIAS}'")


# The tables of names


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["probs", "probs"], "predictions?/kernel. once|probs/kernel. once"),
        (["nothing"], "no 'nothing' of its own"),
        ([""], "no '' of its own"),
        (["."], "damaged"),
        ([".."], r"no '\.\.' of its own"),
        (["/probs"], "no '' of its own"),
        (["probs/"], "no '' of its own"),
        (["probs//probs"], "no '' of its own"),
        (["n" * 10_000], "no 'nnn"),
        (["probs/probs"], "'weight_names' of '/probs/probs'"),
        ([BIAS], "to be a Group, found a Dataset"),
        (np.array([b"\xff\xfe"]), "of its own"),
        (np.array([b"a" * 60_000]), "no 'aaa"),
        ([], "has no depthwise kernel"),
        ("probs", "to be a list of names"),
        (5, "to be a list of names"),
        ([1, 2], "to be a list of names"),
        ([["probs"]], "to be a list of names"),
        (h5py.Empty("S1"), "to be a list of names"),
        (np.zeros(3, [("a", "S5")]), "to be a list of names"),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_tables_of_layers_that_cannot_be_are_refused(spoilt, names, found):
    spoilt(set_table("layer_names", names), found)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["probs/kernel:0", "probs/kernel:0"], "probs/kernel. once"),
        (["../conv1_bn/conv1_bn/beta:0"], r"no '\.\.' of its own"),
        (["/conv1_bn/conv1_bn/beta:0"], "no '' of its own"),
        (["probs"], "to be a Dataset, found a Group"),
        (["probs/kernel:0/more"], "to be a Group, found a Dataset"),
        ([], "include_top=False"),
        ("probs/kernel:0", "to be a list of names"),
        ([1.0], "to be a list of names"),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_tables_of_weights_that_cannot_be_are_refused(spoilt, names, found):
    spoilt(set_table("weight_names", names, "probs"), found)


def test_tables_that_are_not_there_are_refused(spoilt):
    def no_weights(file):
        del file["probs"].attrs["weight_names"]

    spoilt(no_weights, "an attribute 'weight_names' of '/probs' .* found none")

    def gap(file):
        file["probs"].attrs["weight_names1"] = file["probs"].attrs["weight_names"]
        no_weights(file)

    spoilt(gap, "an attribute 'weight_names' of '/probs' .* found none")

    def no_layers(file):
        del file.attrs["layer_names"]

    spoilt(no_layers, "no 'layers' of its own")


@pytest.mark.parametrize(
    ("place", "name"), [("/", "probs"), ("probs", "probs/kernel:0")]
)
def test_endless_tables_are_refused(spoilt, place, name):
    def edit(file):
        item = file[place]
        attribute = next(iter({"layer_names", "weight_names"} & set(item.attrs)))
        del item.attrs[attribute]
        for number in range(6):
            item.attrs[f"{attribute}{number}"] = np.array([name] * 2000, "S")

    spoilt(edit, "at most 10000 tensors")


@pytest.mark.parametrize("dtype", ["S1", "S5000000"])
def test_a_huge_table_is_not_read(refused, tmp_path, dtype):
    # Attributes of any size are of a later version of HDF5's format.
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w", libver="latest") as file:
        count = 5_000_000 // np.dtype(dtype).itemsize
        file.attrs.create("layer_names", np.zeros(count, dtype))
    refused(path, "to be a list of names")


# Another network


def test_other_networks_are_refused(spoilt):
    def no_depthwise(file):
        for block in (1, 2):
            layer = f"conv2_block{block}_2_conv"
            file[layer].attrs["weight_names"] = [f"{layer}/kernel:0"]
            file.move(
                f"{layer}/{layer}/depthwise_kernel:0", f"{layer}/{layer}/kernel:0"
            )

    spoilt(no_depthwise, "to be a ResNeXt of keras-applications; .*save_weights")

    def with_bias(file):
        names = ["conv1_conv/kernel:0", "conv1_conv/bias:0"]
        file["conv1_conv"].attrs["weight_names"] = names
        file["conv1_conv/conv1_conv/bias:0"] = np.zeros(64, "float32")

    spoilt(with_bias, r"1 not expected \(conv1_conv/bias\)")

    def two_heads(file):
        file["predictions"] = file["probs"]
        file.attrs["layer_names"] = [*file.attrs["layer_names"], "predictions"]

    spoilt(two_heads, "predictions/kernel. once in .* twice")


@pytest.mark.parametrize(
    "shape", [(), (16,), (3, 3, 16), (3, 3, 16, 5), (3, 3, 16, 0), (3, 3, 16, 4, 1)]
)
def test_depthwise_kernels_of_other_shapes_are_refused(spoilt, shape):
    data = np.zeros(shape, "float32")
    spoilt(replace(DEPTHWISE, data=data), "to be .height, width, filters, channels")


@pytest.mark.parametrize("shape", [(3, 3, 16, 2), (3, 3, 8, 4), (1, 1, 16, 4)])
def test_other_groups_are_told(spoilt, shape):
    data = np.zeros(shape, "float32")
    spoilt(replace(DEPTHWISE, data=data), "1 of another shape .*block1_2_conv/kernel")


def test_sums_that_cannot_be_are_refused(spoilt):
    def add(file, layer, kernel, *others):
        weights = [f"{layer}/kernel:0", *others]
        for weight in weights:
            file[f"{layer}/{weight}"] = kernel
        file[layer].attrs["weight_names"] = weights
        file.attrs["layer_names"] = [*file.attrs["layer_names"], layer]

    kernel = np.zeros((1, 1, 64, 16), "float32")
    for wrong in (kernel[0], kernel[:, :, :16], np.zeros((3, 3, 64, 16), "float32")):
        spoilt(
            lambda file, wrong=wrong: add(file, "conv2_block1_2_gconv", wrong),
            r"of shape \(1, 1, 64, 16\)",
        )
    spoilt(
        lambda file: add(file, "conv9_block1_2_gconv", kernel),
        "none before .conv9_block1_2_gconv",
    )
    spoilt(
        lambda file: add(
            file, "conv2_block1_2_gconv", kernel, "conv2_block1_2_gconv/bias:0"
        ),
        "not expected .*gconv/bias",
    )
    spoilt(
        lambda file: add(file, "conv2_block1_2_gconv", kernel, "again/kernel:0"),
        "gconv/kernel. once",
    )


def test_a_truncated_file_is_refused(legacy_h5, refused):
    whole = GOOD.read_bytes()
    path = legacy_h5()
    ends = np.random.default_rng(0).integers(1, len(whole), 12)
    for end in (0, 1, 8, 96, 2048, len(whole) - 1, *ends):
        path.write_bytes(whole[:end])
        refused(path, "damaged", spec=KERAS_APPLICATIONS)
