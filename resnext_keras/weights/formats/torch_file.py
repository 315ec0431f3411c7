"""Reads the `state_dict` of a torchvision or timm ResNeXt from torch's own files.

Neither torch nor Python's pickle is used, and nothing in a file is executed, as
`torch_pickle` explains. Each tensor is read from the file only when it is needed, and
only its own part of a storage.

`torch.save` has two formats:
- Since torch 1.6, a zip file with one folder. It holds the pickle `data.pkl`, and for
  each storage a member `data/{key}`, neither compressed nor encrypted.
- Before, and still as an option, five pickles (a magic number, the version, facts about
  the system, the object, the keys of its storages). Then follow, for each key, the
  count of its numbers in 8 bytes, and the numbers.
"""

import contextlib
import functools
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from resnext_keras.weights.formats.torch_names import (
    ANCHOR,
    AVERAGED,
    keras_tensors,
    preferred,
)
from resnext_keras.weights.formats.torch_pickle import (
    MAX_BYTES,
    MAX_BYTES_WITH_LOG,
    Storage,
    Tensor,
    load,
)
from resnext_keras.weights.tensors import (
    LazyTensor,
    LazyTensors,
    WeightsError,
    lazy_block,
)

# mmengine swaps the two networks when it saves a training run, which has this key:
# those of `ema_state_dict` are not averaged.
MMENGINE, MMENGINE_AVERAGED = "message_hub", re.compile("state_dict")
MMENGINE_LOG = b"mmengine.logging"  # the module of its log's classes

MAX_DEPTH = 3  # of dicts in which training scripts save a `state_dict`

ENCRYPTED = 0x61  # flags: encryption, patches, strong encryption
LOCAL_HEADER = 30  # bytes before a member's name, whose length is at byte 26

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
VERSION = 1001


class Contents(NamedTuple):
    """The contents of a file, except for the numbers.

    Attributes:
        root: The object that was saved.
        offsets: Where the numbers of each storage begin, in bytes, by its key.
        check: Raises for the key of a damaged storage.
    """

    root: object
    offsets: dict[str, int]
    check: Callable[[str], None] = lambda key: None


@contextlib.contextmanager
def open_torch_file(path: Path) -> Iterator[LazyTensors]:
    """Context manager: opens a file that `torch.save` wrote."""
    with contextlib.ExitStack() as stack:
        with _as_weights_error(path):
            file = stack.enter_context(_BoundedReader(path.open("rb", buffering=0)))
            contents = (read_zip if file.peek(2)[:2] == b"PK" else read_legacy)(file)
        state = {
            key: _stored(tensor, contents, file, path)
            for key, tensor in _state(contents.root, path).items()
        }
        yield keras_tensors(state, path)


class _BoundedReader(io.BufferedReader):
    """A file whose `read` returns at most `MAX_BYTES`, whatever its headers claim."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_BYTES:
            size = MAX_BYTES
        return super().read(size)


@contextlib.contextmanager
def _as_weights_error(path: Path) -> Iterator[None]:
    """Context manager: turns any error of a damaged file into a `WeightsError`."""
    try:
        yield
    except Exception as error:  # zipfile raises BadZipFile, NotImplementedError, ...
        raise WeightsError(
            "Expected a state_dict that torch.save wrote, found something else or a "
            f"damaged file: {path} ({error!s:.400})"
        ) from error


def _states(value: object, name: str = "", depth: int = 0) -> Iterator[tuple]:
    """Name and contents of each dict with the tensors of a network, at any key."""
    if type(value) is not dict:
        return
    if any(type(key) is str and ANCHOR.fullmatch(key) for key in value):
        yield name, value
    elif depth < MAX_DEPTH:
        for key, inner in value.items():
            if type(key) is str:
                yield from _states(inner, f"{name}.{key}".lstrip("."), depth + 1)


def _state(root: object, path: Path) -> dict[str, Tensor]:
    """The `state_dict` in a file: the object itself, or a dict in it.

    Of several, that of averaged weights.
    """
    states = dict(_states(root))
    is_mmengine = type(root) is dict and MMENGINE in root
    averages = MMENGINE_AVERAGED if is_mmengine else AVERAGED
    state = states[preferred(states, path, averages)] if states else root
    if type(state) is not dict:
        raise WeightsError(
            f"Expected a state_dict in {path}, found an object of type "
            f"{type(state).__name__}."
        )
    for key, value in state.items():
        if type(key) is not str or type(value) is not Tensor:
            raise WeightsError(
                f"Expected only tensors in the state_dict of {path}, found "
                f"{key!r:.100} of type {type(value).__name__}. Save the state_dict "
                "by itself: torch.save(model.state_dict(), path)."
            )
    return state


def _stored(
    tensor: Tensor, contents: Contents, file: BinaryIO, path: Path
) -> LazyTensor:
    """A tensor that is read from the file in one block."""
    storage = tensor.storage
    size = storage.dtype.itemsize
    block = lazy_block(
        file,
        path,
        contents.offsets[storage.key] + tensor.offset * size,
        storage.dtype,
        (tensor.span,),
    )
    # Strides of axes of length 1 and of empty tensors have no meaning.
    strides = tuple(
        stride * size if length > 1 and tensor.span else 0
        for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    )

    def read() -> np.ndarray:
        with _as_weights_error(path):
            contents.check(storage.key)
        return np.ndarray(tensor.shape, storage.dtype, block.read(), strides=strides)

    return LazyTensor(tensor.shape, storage.dtype, path, read)


def read_zip(file: BinaryIO) -> Contents:
    """Reads a zip file, except for its storages.

    The file's `read` has to return at most `MAX_BYTES`, since zipfile reads the
    directory at once, and makes far larger objects of it.
    """
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    folder = names[0].partition("/")[0] if names else ""
    if len(set(names)) < len(names):
        raise zipfile.BadZipFile("two members of one name")
    if folder in ("", ".", "..") or not all(n.startswith(f"{folder}/") for n in names):
        raise zipfile.BadZipFile("members outside of one folder")
    order = f"{folder}/byteorder"  # since torch 2.1
    if order in names and _small_member(archive, order) != b"little":
        raise zipfile.BadZipFile("numbers that are not little-endian")
    storages: dict[str, Storage] = {}
    pickled = f"{folder}/data.pkl"
    with archive.open(_plain_member(archive, pickled)) as member:
        has_log = MMENGINE_LOG in member.read(MAX_BYTES)
    most = MAX_BYTES_WITH_LOG if has_log else MAX_BYTES
    root = load(io.BytesIO(_small_member(archive, pickled, most)), storages)
    offsets = {
        key: _offset_in_zip(
            file, _plain_member(archive, f"{folder}/data/{key}"), storage
        )
        for key, storage in storages.items()
    }

    @functools.cache
    def check(key: str) -> None:
        with archive.open(f"{folder}/data/{key}") as member:
            while member.read(2**20):  # the last read compares the checksums
                pass

    return Contents(root, offsets, check)


def _plain_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """A member that is neither compressed nor encrypted."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
        raise zipfile.BadZipFile(f"{name!r:.100} compressed or encrypted")
    return member


def _small_member(archive: zipfile.ZipFile, name: str, most: int = MAX_BYTES) -> bytes:
    """The bytes of a small member; zipfile compares its checksum."""
    member = _plain_member(archive, name)
    if member.file_size > most:
        raise zipfile.BadZipFile(f"{name!r:.100} of {member.file_size} bytes")
    return archive.read(member)


def _offset_in_zip(file: BinaryIO, member: zipfile.ZipInfo, storage: Storage) -> int:
    """Offset of a storage's numbers; an error unless all of them are in the file."""
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER)
    lengths = header[26:28], header[28:30]  # of the name, and of torch's padding
    offset = member.header_offset + LOCAL_HEADER
    offset += sum(int.from_bytes(length, "little") for length in lengths)
    sizes = {member.file_size, member.compress_size}
    if sizes != {storage.nbytes}:
        raise zipfile.BadZipFile(
            f"storage {storage.key!r:.100} of {sizes} bytes, not {storage.nbytes}"
        )
    if offset + storage.nbytes > file.seek(0, io.SEEK_END):
        raise zipfile.BadZipFile(f"storage {storage.key!r:.100} cut off")
    return offset


def read_legacy(file: BinaryIO) -> Contents:
    """Reads a file in the older format, except for its storages."""
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
    offsets, start = {}, data.tell()
    for storage in (storages[key] for key in keys):
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
    return Contents(root, offsets)
