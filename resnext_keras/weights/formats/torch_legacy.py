"""The files that `torch.save` wrote before torch 1.6, and still writes on demand.

They hold five pickles (a magic number, the version, facts of the system, the
object, the keys of its storages) and then, for each key, the count of its
numbers, in 8 bytes, and these numbers.
"""

import io
import pickle
from typing import BinaryIO

from resnext_keras.weights.formats.torch_pickle import MAX_BYTES, load
from resnext_keras.weights.formats.torch_tensors import Contents, Storage

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read_legacy(file: BinaryIO) -> Contents:
    """Reads all but the storages of a file in the older format.

    Args:
        file: The file.

    Raises:
        UnpicklingError: The file is damaged, or not torch's.
    """
    file.seek(0)
    data = io.BytesIO(file.read(MAX_BYTES))
    if data.getvalue()[257:262] == b"ustar":
        raise pickle.UnpicklingError("a tar archive, of torch before 0.2")
    if load(data, {}) != MAGIC_NUMBER or load(data, {}) != VERSION:
        raise pickle.UnpicklingError("a pickle that torch.save did not write")
    system = load(data, {})
    if type(system) is not dict or system.get("little_endian") is not True:
        raise pickle.UnpicklingError("numbers that are not little-endian")
    storages: dict[str, Storage] = {}
    root = load(data, storages)
    keys = load(data, {})
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise pickle.UnpicklingError("no list of storages")
    if len(keys) != len(storages) or set(keys) != storages.keys():
        raise pickle.UnpicklingError("other storages than those of its tensors")
    return Contents(root, _offsets(file, data.tell(), [storages[key] for key in keys]))


def _offsets(file: BinaryIO, start: int, storages: list[Storage]) -> dict[str, int]:
    """Where the numbers of each storage begin, once they are known to be there."""
    offsets = {}
    for storage in storages:
        file.seek(start)
        count = int.from_bytes(file.read(8), "little")
        if count != storage.numel:
            raise pickle.UnpicklingError(
                f"{count} numbers, not {storage.numel}, in storage {storage.key!r:.100}"
            )
        offsets[storage.key] = start + 8
        start += 8 + storage.nbytes
    if start > file.seek(0, io.SEEK_END):
        raise pickle.UnpicklingError("numbers that are cut off")
    return offsets
