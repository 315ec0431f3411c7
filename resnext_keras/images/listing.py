"""Lists the files in folders that may be images, in a fixed order."""

import mimetypes
import os
import re
from collections.abc import Iterable, Iterator

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif"),
)
"""Usual endings of images. A file is known by its contents, whatever its ending."""

# Files and folders that programs leave beside images, besides those with a dot:
# thumbnails of NAS systems, archives of macOS, waste and settings of Windows.
LEFT_BY_PROGRAMS = (
    *("@eadir", "@__thumb", "#recycle", "__macosx", "$recycle.bin"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
)

TYPES = mimetypes.MimeTypes()  # those of Python alone, the same on every machine

CIRCLE = "a link to a folder that contains it; not followed"
IRREGULAR = "not a regular file"  # such as a pipe, which could block for ever


def list_images(
    roots: Iterable[str | os.PathLike],
) -> Iterator[tuple[str, str | None]]:
    """Lists what may be an image in folders, in the order of the names.

    These are all files, at any depth, except for hidden ones, such as the thumbnails of
    a file manager, and those whose ending is of another type, such as `.txt`. Links are
    followed, except for a link to a folder that contains it.

    Args:
        roots: Folders, and files with any name.

    Yields:
        The path of each file, and None; or a path that cannot be listed or read, and
        the reason.
    """
    for root in map(os.fspath, roots):
        if os.path.isdir(root):
            yield from _in_folder(root)
        else:
            yield root, None


def _in_folder(
    folder: str, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, str | None]]:
    """Lists one folder; `above` identifies the folders that contain it."""
    try:
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        if identity in above:
            yield folder, CIRCLE
            return
        with os.scandir(folder) as entries:
            # In the order of bytes, so that it is the same in any locale.
            entries = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield folder, f"a folder that cannot be listed: {error.strerror or error}"
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if _is_folder(entry):
            yield from _in_folder(entry.path, (*above, identity))
        elif not is_other(entry.name):
            yield entry.path, IRREGULAR if _is_irregular(entry) else None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is for a program and not for the user, by its name."""
    return name.startswith(".") or name.lower() in LEFT_BY_PROGRAMS


def is_other(name: str) -> bool:
    """Whether the ending of a file is of another type than images."""
    ending = os.path.splitext(name.lower())[1]
    kind = TYPES.types_map[True].get(ending, "image/unknown")
    return ending in TYPES.encodings_map or not kind.startswith("image/")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links
        return False


def _is_irregular(entry: os.DirEntry) -> bool:
    """Whether an entry exists and is not a regular file; broken links do not exist."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def readable(path: str | os.PathLike) -> str:
    """A path as text, with bytes that are not UTF-8 in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def spellings(path: str) -> list[str]:
    """The paths for which `readable` gives this text, the more likely first."""
    raw = re.sub(
        rb"\\x([89a-f][0-9a-f])",
        lambda match: bytes.fromhex(match[1].decode()),
        os.fsencode(path),
    )
    # The name itself may hold a backslash.
    return list(dict.fromkeys((path, os.fsdecode(raw))))
