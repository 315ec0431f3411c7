"""Reads the pickles that `torch.save` writes, and executes nothing.

A pickle is a program for a stack machine, and Python's own machine imports and
calls whatever the program names. The machine here supports only the opcodes and names
that a `state_dict` needs: it looks names up in a table, and they create descriptions
of tensors. Its memory and time are bounded, too; Python's machine would allocate any
memo size that a pickle asks for. `pickletools` only splits a pickle into operations.

Sources: CPython's `pickletools` for the opcodes; torch's `serialization.py` and
`_utils.py` for the names.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from resnext_keras.weights.tensors import BFLOAT16

# The largest pickle of the family (ResNeXt-201 with averaged weights and the state of
# AdamW) has 0.5 MB and 180,000 operations.
MAX_BYTES = 2**22
MAX_OPERATIONS = 2**20

# The log of mmengine takes 200 bytes a step, 17 MB in a run of 12 epochs on COCO.
MAX_BYTES_WITH_LOG = 2**26

# Exceptions of operations in a damaged pickle.
DAMAGE = (IndexError, KeyError, TypeError, ValueError)

# The limit of NumPy before 2.0.
MAX_AXES = 32

# Largest size of a tensor that repeats numbers of its storage (stride 0): enough for a
# vector of equal numbers, and little memory.
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
    """The numbers of one type that the file stores under a key."""

    key: str
    dtype: np.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.numel * self.dtype.itemsize


class StorageView(NamedTuple):
    """A storage, or a part of one; in older files a part can have its own key."""

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
        """Count of numbers in the storage from its first element to its last."""
        if 0 in self.shape:
            return 0
        pairs = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in pairs)


def part_of_storage(reference: object) -> StorageView:
    """The storage of a persistent id, `("storage", type, key, device, numel)`.

    In files of the older format `(key, start, numel)` or None follows.
    """
    if type(reference) is not tuple or len(reference) not in (5, 6):
        raise TypeError("not a reference")
    kind, dtype, key, _, numel, view = (*reference, None)[:6]
    if type(kind) is not str or kind != "storage" or type(key) is not str:
        raise TypeError("not a storage")
    if not isinstance(dtype, np.dtype):
        raise TypeError("not the type of a storage")
    storage = Storage(key, dtype, _count(numel))
    start, size = (0, numel) if view is None else view[1:]
    if _count(start) + _count(size) > numel:
        raise pickle.UnpicklingError(f"a part that exceeds its storage {key!r:.100}")
    return StorageView(storage, start, size)


def fill(target: dict, pairs: Iterable) -> None:
    """Adds pairs to a dictionary; an error if a key comes twice."""
    for key, value in pairs:
        # Other keys could be an attack: tuples nested too deeply to be hashed, or
        # large numbers with equal hashes.
        if type(key) is not str and not (type(key) is int and abs(key) < 2**60):
            raise TypeError("not a key")
        if key in target:
            raise pickle.UnpicklingError(f"the name {key!r:.100} twice")
        target[key] = value


def _ordered_dict(pairs: Iterable = ()) -> dict:
    """A dictionary; empty unless Python 2 wrote the pickle, which passes the pairs."""
    filled = {}
    fill(filled, pairs)
    return filled


def _rebuild_tensor_v2(
    part, offset, shape, strides, requires_grad, hooks, metadata=None
) -> Tensor:
    if type(part) is not StorageView or metadata:  # conjugated or negated numbers
        raise TypeError("not a plain tensor")
    shape, strides = _counts(shape), _counts(strides)
    if len(shape) != len(strides):
        raise ValueError("not the strides of this shape")
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
        raise TypeError("not a tensor")
    return tensor


def _ignored(*_) -> dict:
    """An object that no tensor depends on, as an empty dictionary."""
    return {}


# mmengine (of mmdetection, mmpretrain and mmsegmentation) saves its log and schedules
# beside the state: arrays of NumPy, and the methods that average them.
LOG = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "__builtin__.getattr",
    "_codecs.encode",
    "collections.Counter",
    "numpy.dtype",
    "numpy.ndarray",
    # Before and since NumPy 2.
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)

CONSTRUCTORS: dict[str, Callable] = {
    **dict.fromkeys(LOG, _ignored),
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    # The options of a training run, which timm saves beside the state.
    "argparse.Namespace": _ordered_dict,
}


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("not a count")
    return value


def _counts(values: object) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MAX_AXES:
        raise ValueError("not a shape")
    return tuple(_count(value) for value in values)


def load(data: io.BytesIO, storages: dict[str, Storage]) -> object:
    """Runs one pickle; the position of `data` moves to its end.

    Adds each storage of the pickle to `storages` by its key. Returns dictionaries,
    lists, tuples, strings, numbers and `Tensor`s within their storages. The object may
    contain itself.

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
    """A stack machine with a stack, the stacks that marks put aside, and a memo."""

    def __init__(self, data: io.BytesIO, storages: dict[str, Storage]):
        self.data = data
        self.storages = storages
        self.stack = []
        self.aside = []
        self.memo = {}
        self.operations = 0

    def run(self) -> object:
        for opcode, argument, _ in pickletools.genops(self.data):
            self.count(1)
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name not in OPERATIONS:
                raise pickle.UnpicklingError(
                    f"the pickle opcode {opcode.name}, which no state_dict needs"
                )
            OPERATIONS[opcode.name](self, argument)

    def count(self, operations: int) -> None:
        """Counts operations, so that no pickle runs for ever."""
        self.operations += operations
        if self.operations > MAX_OPERATIONS:
            raise pickle.UnpicklingError(
                f"a pickle of over {MAX_OPERATIONS} operations"
            )

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
        """Pushes the object of a name, looked up in the tables only."""
        if type(module) is not str or type(name) is not str:
            raise TypeError("not a name")
        if module in ("torch", "torch.cuda") and name in DTYPES:
            self.push(DTYPES[name])
        elif constructor := CONSTRUCTORS.get(f"{module}.{name}"):
            self.push(constructor)
        else:
            raise pickle.UnpicklingError(
                f"{f'{module}.{name}'!r:.100}, which a state_dict does not need and "
                "which was not imported; if you trust the file, load it with torch and "
                "torch.save only the model's state_dict()"
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
            raise TypeError("not a call")
        # The same list may be an argument of many calls, and is copied each time.
        self.count(sum(len(a) for a in arguments if type(a) in (dict, list)))
        self.push(constructor(*arguments))

    def build(self) -> None:
        """Ignores an object's attributes, such as torch's module versions."""
        target, _ = self.pop(2)
        if type(target) is not dict:
            raise TypeError("not an object with attributes")
        self.push(target)

    def append(self, items: list | tuple) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list | tuple) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError("not a dictionary")
        fill(self.stack[-1], zip(items[::2], items[1::2], strict=True))


PUSHES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE"),
    *("BINSTRING", "SHORT_BINSTRING"),  # Python 2's strings
)

OPERATIONS: dict[str, Callable[[_Machine, object], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    **dict.fromkeys(PUSHES, _Machine.push),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.push(m.pop(1)),
    "TUPLE2": lambda m, _: m.push(m.pop(2)),
    "TUPLE3": lambda m, _: m.push(m.pop(3)),
    "APPEND": lambda m, _: m.append(m.pop(1)),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "BINPUT": lambda m, place: m.memo.update({place: m.stack[-1]}),
    "LONG_BINPUT": lambda m, place: m.memo.update({place: m.stack[-1]}),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "BINGET": lambda m, place: m.push(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.push(m.memo[place]),
    "GLOBAL": lambda m, names: m.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.find(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.find_storage(),
}
