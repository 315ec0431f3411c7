"""Torch files that are written opcode by opcode, so that they may hold anything."""

import pickle
import struct
import zipfile

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
VERSION = pickle.dumps(1001, 2)
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}

# The numbers of a tensor without arguments.
FIVE = struct.pack("<5f", *range(5))

ORDERED_DICT = b"ccollections\nOrderedDict\n"
EMPTY_TUPLE = b")"


def literal(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def tuple_of(*programs):
    return b"(" + b"".join(programs) + b"t"


def dict_of(pairs):
    """Pushes a dictionary; keys are plain values, values are programs."""
    items = b"".join(literal(key) + program for key, program in pairs.items())
    return b"}(" + items + b"u"


def storage(numel, key="0", kind="FloatStorage", module="torch", **view):
    """Pushes a storage, by a persistent id; older files have a `view`, or None."""
    reference = (literal("storage"), f"c{module}\n{kind}\n".encode(), literal(key))
    numbers = (literal("cpu"), literal(numel), *map(literal, view.values()))
    return tuple_of(*reference, *numbers) + b"Q"


def tensor(numel=5, shape=(5,), strides=(1,), offset=0, extra=(), **options):
    """Pushes a tensor; without arguments that of five numbers."""
    arguments = (storage(numel, **options), *map(literal, (offset, shape, strides)))
    hooks = ORDERED_DICT + EMPTY_TUPLE + b"R"
    arguments = tuple_of(*arguments, literal(False), hooks, *map(literal, extra))
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def program(body):
    """A whole pickle."""
    return b"\x80\x02" + body + b"."


def write_zip(path, pickled, storages=(), members=(), compression=zipfile.ZIP_STORED):
    """A zip file as torch's, with further members."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in dict(storages).items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in dict(members).items():
            archive.writestr(name, data)
    return path


def write_legacy(path, pickled, storages=(), **parts):
    """A file in the older format; storages are key: (count, bytes)."""
    storages = dict(storages)
    head = {
        "magic": MAGIC,
        "version": VERSION,
        "system": pickle.dumps(SYSTEM, 2),
        "pickled": pickled,
        "keys": pickle.dumps(list(storages), 2),
    } | parts
    data = (
        count.to_bytes(8, "little") + numbers for count, numbers in storages.values()
    )
    path.write_bytes(b"".join(head.values()) + b"".join(data))
    return path


def each(name, values, message):
    """Rows of a table of hostile files: one option for each value, and the error."""
    return [({name: value}, message) for value in values]
