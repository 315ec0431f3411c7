"""The zip files that `torch.save` writes since torch 1.6.

They hold one folder: the pickle `data.pkl`, and a member `data/{key}`, neither
compressed nor encrypted, for each storage.
"""

import functools
import io
import zipfile
from typing import BinaryIO

from resnext_keras.weights.formats.torch_pickle import MAX_BYTES, load
from resnext_keras.weights.formats.torch_tensors import Contents, Storage

ENCRYPTED = 0x61  # flags: encryption, patches, strong encryption
LOCAL_HEADER = 30  # bytes before a member's name, whose length is at byte 26


def read_zip(file: BinaryIO) -> Contents:
    """Reads all but the storages of a zip file.

    Args:
        file: The file. No `read` may give more than `MAX_BYTES`: zipfile reads
            the directory at once, and makes far larger objects of it.

    Raises:
        Exception: The file is damaged, or not torch's. zipfile raises what comes.
    """
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    folder = names[0].partition("/")[0] if names else ""
    if len(set(names)) < len(names):
        raise zipfile.BadZipFile("two members of one name")
    if folder in ("", ".", "..") or not all(n.startswith(f"{folder}/") for n in names):
        raise zipfile.BadZipFile("members outside of one folder")
    order = f"{folder}/byteorder"  # since torch 2.1
    if order in names and _read(archive, order) != b"little":
        raise zipfile.BadZipFile("numbers that are not little-endian")
    storages: dict[str, Storage] = {}
    root = load(io.BytesIO(_read(archive, f"{folder}/data.pkl")), storages)
    offsets = {
        key: _offset(file, _member(archive, f"{folder}/data/{key}"), storage)
        for key, storage in storages.items()
    }

    @functools.cache
    def check(key: str) -> None:
        with archive.open(f"{folder}/data/{key}") as member:
            while member.read(2**20):  # the last read compares the checksums
                pass

    return Contents(root, offsets, check)


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """A member whose bytes lie in the file as they are."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
        raise zipfile.BadZipFile(f"{name!r:.100} compressed or encrypted")
    return member


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a small member, compared with its checksum."""
    member = _member(archive, name)
    if member.file_size > MAX_BYTES:
        raise zipfile.BadZipFile(f"{name!r:.100} of {member.file_size} bytes")
    return archive.read(member)


def _offset(file: BinaryIO, member: zipfile.ZipInfo, storage: Storage) -> int:
    """Where the numbers of a storage begin, once they are known to be all there."""
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
