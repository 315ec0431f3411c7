"""An HDF5 file that is built to do harm gives one clear error."""

import h5py
import numpy as np
import pytest
from weight_files import CLASSES


def bias(file, **options):
    """Makes the classifier's bias anew."""
    del file["layers/dense/vars/1"]
    return file["layers/dense/vars"].create_dataset("1", **options)


@pytest.mark.parametrize(
    "dtype",
    [
        h5py.string_dtype(),
        h5py.vlen_dtype("float32"),
        h5py.ref_dtype,
        "complex64",
        "S4",
        "V2",
        [("a", "float32")],
        np.dtype(("float32", (2,))),
    ],
    ids=str,
)
def test_odd_types_in_h5_are_refused(h5, refused, dtype):
    path = h5(lambda file: bias(file, shape=(CLASSES,), dtype=dtype))
    refused(path, "floating-point numbers in '/layers/dense/vars/1'")


def test_huge_declared_shapes_take_no_memory(h5, refused):
    huge = {"shape": (10**6, 10**6), "dtype": "float32"}
    refused(
        h5(lambda file: bias(file, **huge)), "Expected 4000000000000 bytes .* found 0"
    )
    refused(h5(lambda file: bias(file, **huge, chunks=(10, 10))), "found chunks")
    for options in ({"compression": "gzip"}, {"maxshape": (None,)}):
        path = h5(lambda file, o=options: bias(file, data=np.zeros(CLASSES, "f4"), **o))
        refused(path, "found chunks")
    refused(h5(lambda f: bias(f, shape=(CLASSES,), dtype="f4")), "found 0")
    refused(h5(lambda f: bias(f, data=h5py.Empty("f4"))), "Expected 4 bytes .* found 0")


def test_data_outside_the_file_are_refused(good_weights, h5, refused, tmp_path):
    (tmp_path / "raw").write_bytes(b"\0" * 4 * CLASSES)
    external = [(str(tmp_path / "raw"), 0, 4 * CLASSES)]
    options = {"shape": (CLASSES,), "dtype": "float32"}
    refused(h5(lambda f: bias(f, **options, external=external)), "data in another file")

    layout = h5py.VirtualLayout(**options)
    layout[:] = h5py.VirtualSource(
        good_weights[".weights.h5"], "layers/dense/vars/1", (CLASSES,)
    )

    def virtual(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars"].create_virtual_dataset("1", layout)

    refused(h5(virtual), "data in another file")


@pytest.mark.parametrize(
    "place", ["layers", "layers/dense", "layers/dense/vars", "layers/dense/vars/1"]
)
@pytest.mark.parametrize("kind", ["soft", "dangling", "external"])
def test_links_are_not_followed(good_weights, h5, refused, place, kind):
    link = {
        "soft": h5py.SoftLink("/moved"),
        "dangling": h5py.SoftLink("/nowhere"),
        "external": h5py.ExternalLink(good_weights[".weights.h5"], f"/{place}"),
    }[kind]

    def edit(file):
        file.move(place, "moved")
        file[place] = link

    refused(h5(edit), f"no '{place.rpartition('/')[2]}' of its own")


def test_circles_and_doubles_are_refused(h5, refused):
    def circle(file):
        file["layers/again"] = file["layers"]

    refused(h5(circle), "no 'vars' of its own")

    def inner_circle(file):
        del file["layers/dense/vars"]
        file["layers/dense/vars"] = file["layers"]

    refused(h5(inner_circle), "found the group")

    def double(file):
        file["layers/again"] = file["layers/dense"]

    refused(h5(double), r"predictions/kernel. once in .* twice")


def test_wrong_kinds_of_members_are_refused(h5, refused):
    def group_for_data(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars"].create_group("1")

    refused(h5(group_for_data), "to be a Dataset, found a Group")

    def data_for_group(file):
        del file["layers/dense"]
        file["layers/dense"] = np.zeros(3)

    refused(h5(data_for_group), "to be a Group, found a Dataset")

    def type_for_group(file):
        del file["layers/dense"]
        file["layers/dense"] = np.dtype("float32")

    refused(h5(type_for_group), "to be a Group, found a Datatype")


@pytest.mark.parametrize(
    "name", [None, 5, [1, 2], ["dense"], "", b"\xff\xfe", h5py.Empty("S1")], ids=repr
)
def test_layers_without_a_name_are_refused(h5, refused, name):
    def edit(file):
        del file["layers/dense/vars"].attrs["name"]
        if name is not None:
            file["layers/dense/vars"].attrs["name"] = name

    refused(h5(edit), "found the group|missing|not expected")
