"""Lists the image files in folders, in a fixed order."""

import os
import re
from collections.abc import Iterable, Iterator

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

CIRCLE = "a link to a folder that contains it; not followed"
IRREGULAR = "not a regular file"  # such as a pipe, which could block for ever


def list_images(
    roots: Iterable[str | os.PathLike],
) -> Iterator[tuple[str, str | None]]:
    """Lists the images in folders and their subfolders, in the order of their names.

    Links are followed, except for a link to a folder that contains it. Memory holds
    only the names in the folders above the current image.

    Args:
        roots: Folders, and files with any suffix.

    Yields:
        The path of each file with the suffix of an image, and None; or a path that
        cannot be listed or read, and the reason.
    """
    for root in map(os.fspath, roots):
        if os.path.isdir(root):
            yield from _in_folder(root)
        else:
            yield root, None


def _in_folder(root: str) -> Iterator[tuple[str, str | None]]:
    """Lists one folder, not recursively: folders can be deeper than Python's stack."""
    way = []  # for each open folder its identity and the remaining entries
    folders = [root]  # the folder to open next, if any
    while folders or way:
        if folders:
            path = folders.pop()
            try:
                status = os.stat(path)
                identity = status.st_dev, status.st_ino
                if any(identity == above for above, _ in way):
                    yield path, CIRCLE
                    continue
                with os.scandir(path) as entries:
                    way.append((identity, _backwards(entries)))
            except OSError as error:
                yield path, f"a folder that cannot be listed: {error.strerror or error}"
            continue
        _, entries = way[-1]
        if not entries:
            way.pop()
            continue
        entry = entries.pop()
        if _is_folder(entry):
            folders.append(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path, IRREGULAR if _is_irregular(entry) else None


def _backwards(entries) -> list[os.DirEntry]:
    """Entries in reverse order of their names, compared as bytes in any locale."""
    return sorted(entries, key=lambda e: os.fsencode(e.name), reverse=True)


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
