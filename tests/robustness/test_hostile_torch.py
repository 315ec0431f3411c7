"""A torch file with a hostile or broken pickle gives one clear error.

No code that it names is run, no name in it is imported, and no memory is taken that
it only claims to need.
"""

import os
import pickle
import tracemalloc

import pytest
from torch_programs import (
    FIVE,
    ORDERED_DICT,
    dict_of,
    each,
    literal,
    program,
    storage,
    tensor,
    tuple_of,
    write_legacy,
    write_zip,
)

from resnext_keras.weights.formats.torch_pickle import MAX_OPERATIONS

pytestmark = pytest.mark.long

FORMATS = ("zip", "legacy")
GOOD = program(dict_of({"fc.bias": tensor()}))

READ = "missing"  # the error of a state_dict of one tensor that could be read
REFUSED = "which no state_dict needs|which a state_dict does not need"


@pytest.fixture(params=FORMATS)
def written(request, tmp_path):
    """Writes a pickle into a torch file of either format; gives its path."""

    def write(pickled):
        path = tmp_path / f"{request.param}.pth"
        if request.param == "zip":
            return write_zip(path, pickled, {"0": FIVE})
        storages = {"0": (5, FIVE)} if b"storage" in pickled else {}
        return write_legacy(path, pickled, storages)

    return write


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


@pytest.mark.parametrize("call", [b"h\0h\1Ra", b"}h\0h\1Rb"], ids=["kept", "dropped"])
def test_copies_of_a_list_count_as_operations(tmp_path, refused, limited, call):
    """A small pickle names one list of pairs again and again."""
    limited(2**27)
    pairs = b"".join(b"J" + n.to_bytes(4, "little") + b"N\x86" for n in range(50_000))
    body = ORDERED_DICT + b"q\0](" + pairs + b"e\x85q\1]" + call * 300
    path = write_zip(tmp_path / "copies.pth", program(body))
    refused(path, f"over {MAX_OPERATIONS} operations")


def test_a_pickle_of_many_bytes_is_refused(tmp_path, refused, limited):
    texts = program(literal("a" * 2**20) * 20)
    limited(2**27)  # the test reads the file itself, which takes 2**26
    refused(write_zip(tmp_path / "long.pth", texts), "data.pkl' of 2097")
    refused(write_legacy(tmp_path / "long.pth", texts), "cut off|damaged pickle")


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


DAMAGED, EXCEEDS = "damaged pickle", "exceeds its storage"
NO_KEY = "no item named|other storages"
NO_SIZE = "bytes, not|5 numbers, not"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *each("offset", (-1, 10**30, True, 0.0), DAMAGED),
        *each("offset", (1, 2**62), f"{EXCEEDS} of 5 numbers"),
        *each("strides", ((1, 1), (), None), DAMAGED),
        *each("strides", ((2,), (2**62,)), EXCEEDS),
        ({"strides": (-1,), "offset": 4}, DAMAGED),
        *each("shape", ((-5,), (10**30,), [5], "5"), DAMAGED),
        *each("shape", ((6,), (2**62,)), EXCEEDS),
        ({"shape": (0,), "strides": ()}, DAMAGED),
        ({"shape": (0,), "strides": (1, 1)}, DAMAGED),
        ({"shape": (1,) * 33, "strides": (1,) * 33}, DAMAGED),
        ({"shape": (5,) * 10**5, "strides": (0,) * 10**5}, DAMAGED),
        ({"shape": (2**62, 2**62), "strides": (0, 0)}, "repeats 5 numbers"),
        ({"shape": (2**40,), "strides": (0,)}, "repeats 5 numbers"),
        ({"shape": (2**20 + 1,), "strides": (0,)}, "repeats 5 numbers"),
        ({"shape": (2**20,), "strides": (0,)}, READ),
        ({"shape": (2**62, 0), "strides": (2**62, 1)}, READ),
        *each("numel", (-5, 10**30, None, True), DAMAGED),
        *each("numel", (6, 2**62), NO_SIZE),
        ({"numel": 2**62, "shape": (2**62,)}, NO_SIZE),
        ({"numel": 4}, EXCEEDS),
        ({"kind": "DoubleStorage"}, "bytes, not 40|cut off"),
        ({"kind": "HalfStorage", "numel": 10}, f"5 numbers, not 10| {READ}"),
        *each("key", ("1", "../data/0", "k" * 10_000), NO_KEY),
        ({"key": 0}, DAMAGED),
        *each("view", (("1", 0, 6), ("1", 3, 3)), f"{EXCEEDS} '0'"),
        ({"view": ("1", 2, 3)}, f"{EXCEEDS} of 3 numbers"),
        *each("view", (("1", -2, 5), ("1", 0, -1), "view"), DAMAGED),
        ({"view": None, "more": None}, DAMAGED),
        *each("extra", (({"conj": True},), (None, None)), DAMAGED),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_impossible_tensors_are_refused(written, refused, limited, options, message):
    path = written(program(dict_of({"fc.bias": tensor(**options)})))
    limited(2**24)
    refused(path, message)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"NNNNR", b"}NR"),
        b"ctorch\nFloatStorage\n)R",
        b"ccollections\nOrderedDict\nNR",
        b"ccollections\nOrderedDict\n" + literal(([1, 2],)) + b"R",
        b"ccollections\nOrderedDict\n" + literal((["abc"],)) + b"R",
        b"ctorch._utils\n_rebuild_parameter\n" + literal((1, True, None)) + b"R",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        tensor() + b"Nb",
        *(b"N}b", b"Na", b"NNNs", b"}NNs", b"](NNu", b"}(Ne", b"}(Nu", b"NN\x93"),
        literal(("storage",)) + b"Q",
        literal(("module", 1, 2, 3, 4)) + b"Q",
        literal(("storage", "FloatStorage", "0", "cpu", 5)) + b"Q",
        literal("0") + b"Q",
        tensor() + b"Q",
        *(b"}Q", b"X\2\0\0\0\xff\xfe", b"t", b"u"),
    ],
    ids=repr,
)
def test_operations_on_objects_of_other_types_are_refused(written, refused, body):
    refused(written(program(body)), "damaged pickle")
    refused(written(program(body) + GOOD), "damaged pickle")


# Objects other than a state_dict

TWO = "two sizes or types of storage '0'"
LIST = b"]q\0h\0a"
DEEP = b"N" + b"\x85" * 10_000


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
        (dict_of({"model": dict_of({"lr": literal(0.1)})}), "'model' of type dict"),
        (dict_of({"e" * 10_000: tensor()}), "found a tensor 'eee"),
        (dict_of({"fc.weight.weight": tensor()}), "found a tensor 'fc.weight.weight'"),
        (b"}" + (literal("fc.bias") + tensor() + b"s") * 2, "'fc.bias' twice"),
        (dict_of({"fc.bias": tensor(), "module.fc.bias": tensor()}), "tensor 'module"),
        (dict_of({"fc.bias": tensor(), "bn1.bias": tensor(4, (4,))}), TWO),
        (dict_of({"fc.bias": tensor(), "bn1.bias": tensor(kind="IntStorage")}), TWO),
        # Objects that contain themselves, or are nested deeply.
        (LIST, "found an object of type list"),
        (DEEP, "found an object of type tuple"),
        (dict_of({"fc.bias": LIST}), "'fc.bias' of type list"),
        (dict_of({"fc.bias": DEEP}), "'fc.bias' of type tuple"),
        (b"}q\7" + literal("fc.bias") + b"h\7s", "'fc.bias' of type dict"),
        (b"}q\7" + literal("state_dict") + b"h\7s", "'state_dict' of type dict"),
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


# Code


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A shell command and a Python one that leave a trace; checks that none did."""
    path = tmp_path / "canary"
    monkeypatch.delenv("CANARY", raising=False)

    def traces():
        has_run = path.exists() or "CANARY" in os.environ
        path.unlink(missing_ok=True)
        os.environ.pop("CANARY", None)
        return has_run

    yield f"touch {path}", "import os; os.environ['CANARY'] = 'dead'", traces
    assert not traces()


def calls(shell, python):
    """Programs that run these commands when Python's own pickle reads them."""

    def call(module, name, *arguments):
        return f"c{module}\n{name}\n".encode() + tuple_of(*arguments) + b"R"

    command, code, nothing = literal(shell), literal(python), literal("")
    system = call("os", "system", command)
    shadow = literal("os") + literal("path.os.system") + b"\x93"
    return {
        "os.system": system,
        "posix.system": call("posix", "system", command),
        "by names on the stack": literal("os") + literal("system") + b"\x93"
        b"(" + command + b"tR",
        "by a name on the way to another": shadow + b"(" + command + b"tR",
        "builtins.exec": call("builtins", "exec", code),
        "builtins.exec by the name of Python 2": call("__builtin__", "exec", code),
        "subprocess": call("subprocess", "getoutput", command),
        "runpy": call("runpy", "_run_code", code, b"}"),
        "timeit": call("timeit", "timeit", nothing, code),
        "within arguments": call("builtins", "str", system),
        "as an instance": b"(" + command + b"ios\nsystem\n",
        "as an object": b"(cos\nsystem\n" + command + b"o",
        "in a pickle of its own": call("pickle", "loads", literal(program(system))),
        "as attributes": b"ccollections\nOrderedDict\n)R" + system + b"0}b",
        "and dropped": system + b"0N",
    }


@pytest.mark.parametrize("kind", calls("", ""))
def test_code_is_not_run(written, refused, canary, kind):
    shell, python, traces = canary
    body = calls(shell, python)[kind]
    pickle.loads((b"\x80\4" if b"\x93" in body else b"\x80\2") + body + b".")
    assert traces()
    state = dict_of({"fc.bias": tensor(), "bn1.bias": body})
    for attack in (body, state, tuple_of(body, dict_of({"fc.bias": tensor()}))):
        refused(written(program(attack)), REFUSED)
        assert not traces()


@pytest.mark.parametrize("part", ["magic", "version", "system", "keys"])
def test_code_is_not_run_in_any_part_of_an_older_file(tmp_path, refused, canary, part):
    shell, python, _ = canary
    attack = program(calls(shell, python)["os.system"])
    path = write_legacy(tmp_path / "part.pth", GOOD, {"0": (5, FIVE)}, **{part: attack})
    refused(path, "'os.system', which a state_dict does not need")


@pytest.mark.parametrize(
    "name",
    [
        "torch.load",
        "torch.hub.load",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch.nn.modules.linear.Linear",
        "torch.jit._pickle.build_intlist",
        "torch.FloatStorage.from_file",
        "torch.QInt8Storage",
        "numpy.load",
        "numpy.core.multiarray.fromstring",
        "collections.OrderedDict.__init__",
        "builtins.getattr",
        "builtins.dict",
        "resnext_keras.weights.formats.torch_pickle._ordered_dict",
        "os.FloatStorage",
        "." * 10_000,
    ],
)
def test_unknown_names_are_refused(written, refused, name):
    module, _, attribute = name.rpartition(".")
    refused(
        written(program(f"c{module}\n{attribute}\n".encode())),
        "was not imported; if you trust the file, load it with torch",
    )


@pytest.mark.parametrize(
    "name",
    [
        "__builtin__.getattr",
        "_codecs.encode",
        "collections.Counter",
        "mmengine.logging.history_buffer.HistoryBuffer",
        "numpy.core.multiarray._reconstruct",
    ],
)
def test_the_names_of_a_log_are_not_imported_either(written, refused, name):
    module, _, attribute = name.rpartition(".")
    called = f"c{module}\n{attribute}\n".encode()
    called += tuple_of(called, literal("__doc__")) + b"R"
    root = dict_of({"fc.bias": called, "log": called + b"(NtN\x86b"})
    refused(written(program(root)), "'fc.bias' of type dict")


def test_any_opcode_without_its_arguments_is_refused(tmp_path, refused):
    for code in set(range(256)) - {ord(".")}:
        path = write_zip(tmp_path / "code.pth", b"\x80\2" + bytes([code]))
        refused(path, f"damaged pickle|cut off|{REFUSED}")
