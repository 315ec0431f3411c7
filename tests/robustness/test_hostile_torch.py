"""A torch file with a hostile or broken pickle gives one clear error.

Nothing in it is executed, and no memory is taken that it only claims to need.
"""

import tracemalloc

import pytest
from torch_programs import (
    ORDERED_DICT,
    dict_of,
    literal,
    program,
    storage,
    tensor,
    write_legacy,
    write_zip,
)

from resnext_keras.weights.formats.torch_pickle import MAX_OPERATIONS

FORMATS = ("zip", "legacy")
GOOD = program(dict_of({"fc.bias": tensor()}))

REFUSED = "which no state_dict needs|which a state_dict does not need"


@pytest.fixture
def limited():
    """Limits the memory that the test may use from here on; tracing is slow."""
    limits = []

    def limit(most):
        limits.append(most)
        tracemalloc.start()

    yield limit
    if limits:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < limits[0]


# Pickles that grow


def test_memo_places_and_lengths_take_no_memory(written, refused, limited):
    limited(2**24)
    for body in (
        b"Nr\xff\xff\xff\x7f",
        b"Nr\xff\xff\xff\xff0",
        b"X\xff\xff\xff\xff",
        b"T\xff\xff\xff\xff",
        b"\x8a\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"\x8d" + b"\xff" * 8,
        b"\x95" + b"\xff" * 8,
        b"h\5",
        b"j\xff\xff\xff\xff",
    ):
        refused(written(b"\x80\2" + body), f"damaged pickle|cut off|{REFUSED}")


@pytest.mark.parametrize("code", [b"]", b"(", b"\x94", b"\x85"])
def test_endless_operations_are_stopped(tmp_path, refused, limited, code):
    if code == b"]":  # the largest objects
        limited(2**27)
    path = write_zip(tmp_path / "many.pth", program(b"N" + code * 2**21))
    refused(path, f"over {MAX_OPERATIONS} operations")


@pytest.mark.parametrize(
    ("before", "after"), [(b"", b"a"), (b"}", b"b")], ids=["kept", "dropped"]
)
def test_copies_of_a_list_count_as_operations(
    tmp_path, refused, limited, before, after
):
    """A small pickle names one list of pairs again and again."""
    if not before:
        limited(2**27)
    pairs = b"".join(b"J" + n.to_bytes(4, "little") + b"N\x86" for n in range(50_000))
    calls = (before + b"h\0h\1R" + after) * 300
    body = ORDERED_DICT + b"q\0](" + pairs + b"e\x85q\1]" + calls
    path = write_zip(tmp_path / "copies.pth", program(body))
    refused(path, f"over {MAX_OPERATIONS} operations")


def test_a_pickle_of_many_bytes_is_refused(tmp_path, refused, limited):
    texts = program(literal("a" * 2**20) * 20)
    limited(2**27)  # the test reads the file itself, which takes 2**26
    refused(write_zip(tmp_path / "long.pth", texts), "data.pkl' of 2097")
    refused(write_legacy(tmp_path / "long.pth", texts), "cut off|damaged pickle")


def test_what_contains_itself_or_is_nested_deeply_is_refused(written, refused):
    itself = b"}q\7" + literal("fc.bias") + b"h\7s"
    refused(written(program(itself)), "'fc.bias' of type dict")
    listed = b"]q\0h\0a"
    refused(written(program(listed)), "found an object of type list")
    refused(written(program(dict_of({"fc.bias": listed}))), "'fc.bias' of type list")
    state = b"}q\7" + literal("state_dict") + b"h\7s"
    refused(written(program(state)), "'state_dict' of type dict")
    deep = b"N" + b"\x85" * 10_000
    refused(written(program(deep)), "found an object of type tuple")
    refused(written(program(dict_of({"fc.bias": deep}))), "'fc.bias' of type tuple")


def test_what_is_nested_too_deeply_to_be_hashed_is_refused(tmp_path, refused):
    deep = b"N" + b"\x85" * 200_000  # Python itself would crash
    doubled = b"N" + b"q\0h\0\x86" * 1000  # and at this go on for ever
    for nested in (deep, doubled):
        for body in (
            b"}" + nested + b"Ns",
            literal("torch") + nested + b"\x93",
            storage(5)[:-2] + nested + b"tQ",
            b"ccollections\nOrderedDict\n](" + nested + b"Ne\x85R",
        ):
            path = write_zip(tmp_path / "nested.pth", program(body))
            refused(path, "damaged pickle")


def test_keys_of_one_hash_are_refused(tmp_path, refused):
    keys = (i * (2**61 - 1) for i in range(1, 200_000))
    pairs = b"".join(
        b"\x8a\x0b" + key.to_bytes(11, "little", signed=True) + b"N" for key in keys
    )
    path = write_zip(tmp_path / "hash.pth", program(b"}(" + pairs + b"u"))
    refused(path, "damaged pickle")


# Tensors that cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": -1}, "damaged pickle"),
        ({"offset": 1}, "exceeds its storage of 5 numbers"),
        ({"offset": 2**62}, "exceeds its storage"),
        ({"offset": 10**30}, "damaged pickle"),
        ({"offset": True}, "damaged pickle"),
        ({"offset": 0.0}, "damaged pickle"),
        ({"strides": (-1,), "offset": 4}, "damaged pickle"),
        ({"strides": (2,)}, "exceeds its storage"),
        ({"strides": (2**62,)}, "exceeds its storage"),
        ({"strides": (1, 1)}, "damaged pickle"),
        ({"strides": ()}, "damaged pickle"),
        ({"strides": None}, "damaged pickle"),
        ({"shape": (0,), "strides": ()}, "damaged pickle"),
        ({"shape": (0,), "strides": (1, 1)}, "damaged pickle"),
        ({"shape": (6,)}, "exceeds its storage"),
        ({"shape": (-5,)}, "damaged pickle"),
        ({"shape": (2**62,)}, "exceeds its storage"),
        ({"shape": (2**62, 2**62), "strides": (0, 0)}, "repeats 5 numbers"),
        ({"shape": (2**40,), "strides": (0,)}, "repeats 5 numbers"),
        ({"shape": (2**20 + 1,), "strides": (0,)}, "repeats 5 numbers"),
        ({"shape": (2**20,), "strides": (0,)}, "missing"),
        ({"shape": (2**62, 0), "strides": (2**62, 1)}, "missing"),
        ({"shape": (10**30,)}, "damaged pickle"),
        ({"shape": (1,) * 33, "strides": (1,) * 33}, "damaged pickle"),
        ({"shape": (5,) * 10**5, "strides": (0,) * 10**5}, "damaged pickle"),
        ({"shape": [5]}, "damaged pickle"),
        ({"shape": "5"}, "damaged pickle"),
        ({"numel": 4}, "exceeds its storage"),
        ({"numel": 6}, "bytes, not 24|5 numbers, not 6"),
        ({"numel": 2**62}, "bytes, not|5 numbers, not"),
        ({"numel": 2**62, "shape": (2**62,)}, "bytes, not|5 numbers, not"),
        ({"numel": -5}, "damaged pickle"),
        ({"numel": 10**30}, "damaged pickle"),
        ({"numel": None}, "damaged pickle"),
        ({"numel": True}, "damaged pickle"),
        ({"kind": "DoubleStorage"}, "bytes, not 40|cut off"),
        ({"kind": "HalfStorage", "numel": 10}, "5 numbers, not 10| missing"),
        ({"key": "1"}, "no item named|other storages"),
        ({"key": "../data/0"}, "no item named|other storages"),
        ({"key": "k" * 10_000}, "no item named|other storages"),
        ({"key": 0}, "damaged pickle"),
        ({"view": ("1", 0, 6)}, "exceeds its storage '0'"),
        ({"view": ("1", 3, 3)}, "exceeds its storage '0'"),
        ({"view": ("1", 2, 3)}, "exceeds its storage of 3 numbers"),
        ({"view": ("1", -2, 5)}, "damaged pickle"),
        ({"view": ("1", 0, -1)}, "damaged pickle"),
        ({"view": "view"}, "damaged pickle"),
        ({"view": None, "more": None}, "damaged pickle"),
        ({"extra": ({"conj": True},)}, "damaged pickle"),
        ({"extra": (None, None)}, "damaged pickle"),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_impossible_tensors_are_refused(written, refused, limited, options, message):
    path = written(program(dict_of({"fc.bias": tensor(**options)})))
    limited(2**24)
    refused(path, message)


def test_two_sizes_or_types_of_one_storage_are_refused(written, refused):
    for other in ({"numel": 4, "shape": (4,)}, {"kind": "IntStorage"}):
        state = {"fc.bias": tensor(), "bn1.bias": tensor(**other)}
        refused(written(program(dict_of(state))), "two sizes or types of storage '0'")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"NNNNR",
        b"}NR",
        b"ctorch\nFloatStorage\n)R",
        b"ccollections\nOrderedDict\nNR",
        b"ccollections\nOrderedDict\n" + literal(([1, 2],)) + b"R",
        b"ccollections\nOrderedDict\n" + literal((["abc"],)) + b"R",
        b"ctorch._utils\n_rebuild_parameter\n" + literal((1, True, None)) + b"R",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        tensor() + b"Nb",
        b"N}b",
        b"Na",
        b"NNNs",
        b"}NNs",
        b"](NNu",
        b"}(Ne",
        b"}(Nu",
        b"NN\x93",
        literal(("storage",)) + b"Q",
        literal(("module", 1, 2, 3, 4)) + b"Q",
        literal(("storage", "FloatStorage", "0", "cpu", 5)) + b"Q",
        literal("0") + b"Q",
        b"}Q",
        tensor() + b"Q",
        b"X\2\0\0\0\xff\xfe",
        b"t",
        b"u",
    ],
    ids=repr,
)
def test_operations_on_objects_of_other_types_are_refused(written, refused, body):
    refused(written(program(body)), "damaged pickle")
    refused(written(program(body) + GOOD), "damaged pickle")


# Objects other than a state_dict


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (tensor(), "found an object of type Tensor"),
        (storage(5), "found an object of type StorageView"),
        (literal([1]), "found an object of type list"),
        (literal(5), "found an object of type int"),
        (b"N", "found an object of type NoneType"),
        (b"]", "found an object of type list"),
        (dict_of({"fc.bias": tensor(), "epoch": b"K\3"}), "'epoch' of type int"),
        (dict_of({"fc.bias": tensor(), "best": b"N"}), "'best' of type NoneType"),
        (dict_of({"fc.bias": literal([1.0])}), "'fc.bias' of type list"),
        (dict_of({5: tensor()}), "found 5 of type Tensor"),
        (
            dict_of({"network": dict_of({"fc.bias": tensor()})}),
            "'network' of type dict",
        ),
        (dict_of({"state_dict": literal("x")}), "'state_dict' of type str"),
        (dict_of({"model": dict_of({"lr": literal(0.1)})}), "'lr' of type float"),
        (dict_of({"e" * 10_000: tensor()}), "found a tensor 'eee"),
        (dict_of({"fc.weight.weight": tensor()}), "found a tensor 'fc.weight.weight'"),
        (b"}" + (literal("fc.bias") + tensor() + b"s") * 2, "'fc.bias' twice"),
        (dict_of({"fc.bias": tensor(), "module.fc.bias": tensor()}), "found it twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_objects_than_a_state_dict_are_named(written, refused, root, message):
    refused(written(program(root)), message)


CODE = r".*only .*state_dict\(\)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchscript.pt", f"__torch__{CODE}"),
        ("module.zip.pth", f"'torchvision.models.resnet.BasicBlock'{CODE}"),
        *(
            (f"{name}.{form}.pth", message)
            for form in FORMATS
            for name, message in (
                ("tensor", "found an object of type Tensor"),
                ("sparse", "'torch._utils._rebuild_sparse_tensor', which"),
                ("quantized", "'torch._utils._rebuild_qtensor', which"),
                ("complex", "'torch.ComplexFloatStorage', which"),
                ("float8", "'torch._utils._rebuild_tensor_v3', which"),
            )
        ),
    ],
)
def test_files_of_torch_without_a_plain_state_dict(torch_files, refused, name, message):
    refused(torch_files[name], message)
