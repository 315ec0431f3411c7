"""Reads the pickles that `torch.save` writes, and executes nothing.

A pickle is a program for a stack machine, and Python's own machine imports and
calls whatever the program names. The machine here knows only the opcodes and names
that a `state_dict` needs: names are looked up in a table, and what they make are
descriptions of tensors. It is bounded, too: Python's machine takes memory for any
place in its memo that a pickle mentions.

Sources: CPython's `pickletools`, on what the opcodes do; torch's `serialization.py`
and `_utils.py`, on what the names mean.
"""

import io
import math
import pickle
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from resnext_keras.weights.tensors import BFLOAT16

# The network of most layers, with its average and the state of AdamW, needs 0.5 MB
# and 180,000.
MAX_BYTES = 2**22
MAX_OPERATIONS = 2**20

# What an operation raises that makes no sense where it stands.
DAMAGE = (IndexError, KeyError, TypeError, ValueError, struct.error)

# NumPy before 2.0 has no more.
MAX_AXES = 32

# Numbers of a tensor that repeats those of its storage: enough for a vector of
# equal numbers, and no memory to speak of.
MAX_REPEATED = 2**20

DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Storage(NamedTuple):
    """Numbers of one type that lie in the file under a key."""

    key: str
    dtype: np.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.numel * self.dtype.itemsize


class Part(NamedTuple):
    """A storage, or the part of one that older files give a key of its own."""

    storage: Storage
    start: int
    numel: int


class Tensor(NamedTuple):
    """A view of a storage; its offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many numbers there are from its first to its last."""
        if 0 in self.shape:
            return 0
        pairs = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in pairs)


def part_of_storage(reference: object) -> Part:
    """What a persistent id stands for: `("storage", type, key, device, numel)`.

    Files of the older format have `(key, start, numel)` or None behind these.
    """
    if type(reference) is not tuple or len(reference) not in (5, 6):
        raise TypeError("no reference")
    kind, dtype, key, _, numel, view = (*reference, None)[:6]
    if type(kind) is not str or kind != "storage" or type(key) is not str:
        raise TypeError("no storage")
    if not isinstance(dtype, np.dtype):
        raise TypeError("no type of a storage")
    storage = Storage(key, dtype, _count(numel))
    start, size = (0, numel) if view is None else view[1:]
    if _count(start) + _count(size) > numel:
        raise pickle.UnpicklingError(f"a part that exceeds its storage {key!r:.100}")
    return Part(storage, start, size)


def fill(target: dict, pairs: Iterable) -> None:
    """Adds pairs to a dictionary, which has to have none of their keys."""
    for key, value in pairs:
        # A tuple may be nested too deeply to be hashed, and large numbers may be
        # chosen to have one hash.
        if type(key) is not str and not (type(key) is int and abs(key) < 2**60):
            raise TypeError("no key")
        if key in target:
            raise pickle.UnpicklingError(f"the name {key!r:.100} twice")
        target[key] = value


def _ordered_dict(pairs: Iterable = ()) -> dict:
    """Filled later, except by Python 2, which lists the pairs."""
    found = {}
    fill(found, pairs)
    return found


def _rebuild_tensor_v2(
    part, offset, shape, strides, requires_grad, hooks, metadata=None
) -> Tensor:
    if type(part) is not Part or metadata:  # conjugated or negated numbers
        raise TypeError("no plain tensor")
    shape, strides = _counts(shape), _counts(strides)
    if len(shape) != len(strides):
        raise ValueError("no strides of this shape")
    tensor = Tensor(part.storage, part.start + _count(offset), shape, strides)
    if offset + tensor.span > part.numel:
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} and strides {strides}, which exceeds its "
            f"storage of {part.numel} numbers"
        )
    if math.prod(shape) > max(part.numel, MAX_REPEATED):
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} that repeats {part.numel} numbers"
        )
    return tensor


def _rebuild_parameter(tensor, requires_grad, hooks) -> Tensor:
    if type(tensor) is not Tensor:
        raise TypeError("no tensor")
    return tensor


CONSTRUCTORS: dict[str, Callable] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    # The options of a training run, which timm saves beside the state.
    "argparse.Namespace": _ordered_dict,
}


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("no count")
    return value


def _counts(values: object) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MAX_AXES:
        raise ValueError("no shape")
    return tuple(_count(value) for value in values)


def load(data: io.BytesIO, storages: dict[str, Storage]) -> object:
    """Runs one pickle.

    Args:
        data: The pickle; left standing behind it.
        storages: Gets each storage that the pickle mentions, by its key.

    Returns:
        What the pickle describes: dictionaries, lists, tuples, texts, numbers and
        `Tensor`s within their storages. It may contain itself.

    Raises:
        UnpicklingError: The pickle is damaged, or is not of a `state_dict`.
    """
    try:
        return _Machine(data, storages).run()
    except DAMAGE as error:
        raise pickle.UnpicklingError(
            f"a damaged pickle, near byte {data.tell()}"
        ) from error


class _Machine:
    """The stack, the stacks that marks have put aside, and the memo."""

    def __init__(self, data: io.BytesIO, storages: dict[str, Storage]):
        self.data = data
        self.storages = storages
        self.stack = []
        self.aside = []
        self.memo = {}
        self.operations = 0

    def run(self) -> object:
        while True:
            self.count(1)
            code = self.data.read(1)
            if code == pickle.STOP:
                return self.stack.pop()
            if not code:
                raise pickle.UnpicklingError("a pickle that is cut off, or too long")
            if code not in OPERATIONS:
                raise pickle.UnpicklingError(
                    f"the pickle opcode {code!r}, which no state_dict needs"
                )
            OPERATIONS[code](self)

    def count(self, operations: int) -> None:
        """Counts what is done, so that no pickle takes for ever."""
        self.operations += operations
        if self.operations > MAX_OPERATIONS:
            raise pickle.UnpicklingError(
                f"a pickle of over {MAX_OPERATIONS} operations"
            )

    # Arguments that stand behind an opcode

    def number(self, layout: str) -> int | float:
        (number,) = struct.unpack(layout, self.data.read(struct.calcsize(layout)))
        return number

    def raw(self, layout: str) -> bytes:
        """As many bytes as the number before them says."""
        length = self.number(layout)
        found = self.data.read(length)
        if len(found) < length:
            raise ValueError("cut off")
        return found

    def line(self) -> str:
        return self.data.readline().removesuffix(b"\n").decode()

    # What operations do

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> tuple:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError("empty stack")
        del self.stack[-count:]
        return items

    def mark(self) -> None:
        self.aside.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list:
        items, self.stack = self.stack, self.aside.pop()
        return items

    def find(self, module: str, name: str) -> None:
        """Finds what a name stands for, in the tables alone."""
        if type(module) is not str or type(name) is not str:
            raise TypeError("no name")
        if module in ("torch", "torch.cuda") and name in DTYPES:
            self.push(DTYPES[name])
        elif found := CONSTRUCTORS.get(f"{module}.{name}"):
            self.push(found)
        else:
            raise pickle.UnpicklingError(
                f"{f'{module}.{name}'!r:.100}, which a state_dict does not need and "
                "which was not imported; where you trust the file and have torch, "
                "load it there and torch.save the model's state_dict() alone"
            )

    def find_storage(self) -> None:
        (reference,) = self.pop(1)
        part = part_of_storage(reference)
        key = part.storage.key
        if self.storages.setdefault(key, part.storage) != part.storage:
            raise pickle.UnpicklingError(f"two sizes or types of storage {key!r:.100}")
        self.push(part)

    def call(self) -> None:
        constructor, arguments = self.pop(2)
        if not callable(constructor) or type(arguments) is not tuple:
            raise TypeError("no call")
        # A list may be named again and again, and is copied each time.
        self.count(sum(len(a) for a in arguments if type(a) in (dict, list)))
        self.push(constructor(*arguments))

    def build(self) -> None:
        """Drops an object's attributes: torch's versions of modules, options."""
        target, _ = self.pop(2)
        if type(target) is not dict:
            raise TypeError("no attributes")
        self.push(target)

    def append(self, items: list | tuple) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list | tuple) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError("no dictionary")
        fill(self.stack[-1], zip(items[::2], items[1::2], strict=True))


OPERATIONS: dict[bytes, Callable[[_Machine], object]] = {
    pickle.PROTO: lambda m: m.number("<B"),
    pickle.FRAME: lambda m: m.number("<Q"),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.raw("<B"), "little", signed=True)),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.BINUNICODE: lambda m: m.push(m.raw("<I").decode()),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.raw("<B").decode()),
    pickle.BINSTRING: lambda m: m.push(m.raw("<I").decode()),  # Python 2's texts
    pickle.SHORT_BINSTRING: lambda m: m.push(m.raw("<B").decode()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.MARK: _Machine.mark,
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_to_mark())),
    pickle.TUPLE1: lambda m: m.push(m.pop(1)),
    pickle.TUPLE2: lambda m: m.push(m.pop(2)),
    pickle.TUPLE3: lambda m: m.push(m.pop(3)),
    pickle.APPEND: lambda m: m.append(m.pop(1)),
    pickle.APPENDS: lambda m: m.append(m.pop_to_mark()),
    pickle.SETITEM: lambda m: m.set_items(m.pop(2)),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_to_mark()),
    pickle.BINPUT: lambda m: m.memo.update({m.number("<B"): m.stack[-1]}),
    pickle.LONG_BINPUT: lambda m: m.memo.update({m.number("<I"): m.stack[-1]}),
    pickle.MEMOIZE: lambda m: m.memo.update({len(m.memo): m.stack[-1]}),
    pickle.BINGET: lambda m: m.push(m.memo[m.number("<B")]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("<I")]),
    pickle.GLOBAL: lambda m: m.find(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.find(*m.pop(2)),
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.find_storage,
}
