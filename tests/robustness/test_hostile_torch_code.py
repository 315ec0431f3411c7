"""No code that a torch file names is run, and no name in it is imported."""

import os
import pickle

import pytest
from torch_programs import (
    FIVE,
    dict_of,
    literal,
    program,
    tensor,
    tuple_of,
    write_legacy,
    write_zip,
)

GOOD = program(dict_of({"fc.bias": tensor()}))
REFUSED = "which no state_dict needs|which a state_dict does not need"


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A shell command and a Python one that leave a trace; checks that none did."""
    path = tmp_path / "canary"
    monkeypatch.delenv("CANARY", raising=False)

    def traces():
        found = path.exists() or "CANARY" in os.environ
        path.unlink(missing_ok=True)
        os.environ.pop("CANARY", None)
        return found

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
        "numpy.core.multiarray._reconstruct",
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


@pytest.mark.parametrize("code", set(range(256)) - {ord(".")})
def test_any_opcode_without_its_arguments_is_refused(tmp_path, refused, code):
    path = write_zip(tmp_path / "code.pth", b"\x80\2" + bytes([code]))
    refused(path, f"damaged pickle|cut off|{REFUSED}")
