"""Reads image files with Pillow, as upright RGB pixels."""

import contextlib
import errno
import functools
import importlib
import os
import re
import stat
import warnings
from importlib import resources
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resnext_keras.images.preprocessing import IMAGENET, INTERPOLATIONS, Preprocessing

# Pillow's other decoders are rarely tested, or start programs (EPS runs Ghostscript).
# A Pillow before 11.3 has no AVIF, and HEIF needs the package pillow-heif.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")

# How the files of formats that an installation may lack begin, from byte 4, and how to
# read them.
REMEDIES = {
    b"ftypavif": "AVIF, which needs Pillow 11.3 or later",
    b"ftypavis": "AVIF, which needs Pillow 11.3 or later",
    b"ftyphei": 'HEIC, which needs: pip install "resnext-keras[heic]"',
    b"ftyphev": 'HEIC, which needs: pip install "resnext-keras[heic]"',
    b"ftypmif1": 'HEIF, which needs: pip install "resnext-keras[heic]"',
}

# A JPEG that is decoded with fewer pixels keeps this many for each pixel of the resized
# image, along a side. Then the resized pixels differ by less than 1 of 255 on average.
LEAST_FOR_ONE = 3

# Resized to a short side of 256, an image of this aspect takes 26 MB.
MAX_ASPECT = 100

FAULTS_OF_FILES = (
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR),
    *(errno.EACCES, errno.EPERM, errno.ENXIO),
    *(errno.EINVAL, errno.EOVERFLOW),  # an offset that no file can have
)
"""The `errno` of an `OSError` that concerns one file only. With any other a disk, a
network or the machine has failed, and the next files would fail too."""

# Chelsea the cat, by Stefan van der Walt, public domain (CC0), as in
# skimage.data.chelsea.
SAMPLE_PHOTO = resources.files("resnext_keras") / "data" / "chelsea.jpg"


class ImageError(ValueError):
    """A file cannot be read as an image; the message names the file and the reason.

    Attributes:
        reason: The reason alone.
    """

    def __init__(self, reason: str, path: str | os.PathLike | None = None):
        self.reason = reason
        if path is not None:
            reason = (
                f"Expected an image ({', '.join(FORMATS)}) at {os.fspath(path)!r}. "
                f"Found: {reason}"
            )
        super().__init__(reason)


def read_image(
    path: str | os.PathLike, preprocessing: Preprocessing = IMAGENET
) -> np.ndarray:
    """Reads an image, resized and cropped as a weight set expects it.

    The pixels equal those of torchvision's `Resize(resize)` and `CenterCrop(size)` on
    a Pillow image. The image is turned upright as its EXIF or XMP data say,
    transparency becomes white, and the first frame of an animation is taken. Grey
    images of more than 8 bits are scaled to 8: 16-bit ones from 0 to 65535, float ones
    from 0 to 1. A TIFF of 32-bit integers or floats with whole numbers from 0 to 255 is
    taken as it is.

    Args:
        path: A JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF or HEIC file, by its contents
            and whatever its ending. HEIC needs the extra `heic`.
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3), the input of
        `preprocess_input`.

    Raises:
        ImageError: The file is missing, unreadable, broken or of another format; has
            more pixels than Pillow allows (178,956,970, twice
            `PIL.Image.MAX_IMAGE_PIXELS`, which you may set); its long side is over 100
            times its short side; or its values have no known range.
        TypeError: `preprocessing` is not a `Preprocessing`.

    Examples:
        >>> rk.read_image("cat.jpg", rk.Preprocessing(size=224, resize=232)).shape
        (224, 224, 3)
    """
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "Expected `preprocessing` to be a `Preprocessing`, such as "
            f"weights_preprocessing gives. Received: preprocessing={preprocessing!r}"
        )
    return resize_and_crop(read_rgb(path), preprocessing)


def read_rgb(
    path: str | os.PathLike, digest=None, short: int | None = None
) -> Image.Image:
    """Reads an image as `read_image` does, without resizing and cropping.

    Updates `digest`, a hash of `hashlib`, with all bytes of the file. With `short`, the
    length that the short side will be resized to, a large JPEG is decoded faster, at
    1/2, 1/4 or 1/8 of its sides; the divisor is in `info["divisor"]`. Returns a
    `PIL.Image` of mode RGB.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("a folder" if stat.S_ISDIR(mode) else "not a regular file")
        with open(path, "rb") as file:
            return decode_rgb(file, digest, short)
    except Exception as error:
        raise ImageError(reason_of(error), path) from error


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file begins like an image of `FORMATS`. Its pixels are not decoded."""
    if os.path.isfile(path):
        with contextlib.suppress(Exception), Image.open(path, formats=_formats()):
            return True
    return False


def reason_of(error: Exception) -> str:
    """Why an image cannot be read.

    Broken files make Pillow raise nearly anything: OSError, SyntaxError, struct.error,
    zlib.error, OverflowError, MemoryError, ...
    """
    if isinstance(error, ImageError):
        return error.reason
    if isinstance(error, Image.DecompressionBombError):
        # Its text begins "Image size (3600000000 pixels) exceeds limit of 178956970".
        pixels, limit = map(int, re.findall(r"\d+", str(error))[:2])
        return (
            f"{pixels:,} pixels, more than the limit of {limit:,}; they would take "
            f"{4 * pixels / 1e6:,.0f} MB. To read them, pass --max-pixels {pixels}, or "
            f"in Python set PIL.Image.MAX_IMAGE_PIXELS = {-(-pixels // 2)}"
        )
    missing = isinstance(error, FileNotFoundError)
    return "no such file" if missing else f"{type(error).__name__}: {error}"


def check_machine(error: Exception, name: str, remedy: str = "") -> None:
    """Checks that an image could not be read because of its file.

    Args:
        error: The error.
        name: Name of the image, for the message.
        remedy: What to do when the disk is repaired or the file removed.

    Raises:
        OSError: A disk, a network or the machine has failed.
    """
    if getattr(error, "errno", None) not in (None, *FAULTS_OF_FILES):
        raise OSError(
            f"Expected a file that can be read. Received: {name!r}: "
            f"{reason_of(error)}. Repair the disk or remove the file, then "
            f"{remedy or 'try again'}."
        ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The `FORMATS` that this installation reads."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_rgb(file: BinaryIO, digest=None, short: int | None = None) -> Image.Image:
    """Decodes an open file, as `read_rgb` does.

    Raises:
        Exception: The file cannot be read as an image; `reason_of` says why.
    """
    _quiet_pillow()
    start = file.read(16)
    if not start:
        raise ImageError("an empty file")
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        for kind, remedy in REMEDIES.items():
            if start.startswith(kind, 4):
                raise ImageError(remedy) from None
        raise ImageError(f"a file that begins with {start!r}") from None
    width, height = image.size
    if not 0 < max(width, height) <= MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{width} x {height} pixels; the long side may be at most "
            f"{MAX_ASPECT} times the short one"
        )
    if short:
        _decode_smaller(image, short)
    divisor = width // image.width
    image.load()
    image.info["divisor"] = divisor
    is_wide = image.mode == "F" or (image.mode == "I" and image.format == "TIFF")
    with contextlib.suppress(Exception):  # broken EXIF data hide no intact pixels
        ImageOps.exif_transpose(image, in_place=True)
    rgb = _to_rgb(image, is_wide)
    if digest is not None:  # last, because a file that is not an image may be huge
        file.seek(0)
        while block := file.read(2**20):
            digest.update(block)
    return rgb


def _decode_smaller(image: Image.Image, short: int) -> None:
    """Lets a JPEG, unlike other formats, be decoded with fewer pixels before a resize.

    Its sides are divided evenly, so that the resized image has the same size.
    """
    width, height = image.size
    for divisor in (8, 4, 2):
        is_whole = width % divisor == height % divisor == 0
        if is_whole and min(image.size) >= divisor * short * LEAST_FOR_ONE:
            image.draft("RGB", (width // divisor, height // divisor))
            return


def _quiet_pillow() -> None:
    """Hides Pillow's warnings of odd metadata and large images, in all threads.

    The filter stays: `warnings.catch_warnings` works in one thread only. It is added
    once, since adding it makes Python forget which warnings it has shown.
    """
    pattern = re.compile(r"PIL\.")
    if not any(entry[3] == pattern for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=pattern.pattern)


def _to_rgb(image: Image.Image, is_wide: bool) -> Image.Image:
    """RGB of 8 bits, with transparency over white.

    `is_wide` says whether the file has grey values of 32 bits; in other formats Pillow
    may use 32 bits for 16.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        grey = np.asarray(image)  # Pillow's own `convert` would clip it
        scaled = grey.astype("float32") * _scale(grey, is_wide) + 0.5
        return Image.fromarray(scaled.astype("uint8")).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba)
        return rgb
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale(grey: np.ndarray, is_wide: bool) -> float:
    """The factor that scales grey values to 0 to 255."""
    low, high, is_float = grey.min(), grey.max(), grey.dtype.kind == "f"
    if is_float and low >= 0 and high <= 1:
        return 255.0
    if is_wide and low >= 0 and high <= 255 and (grey == np.round(grey)).all():
        return 1.0
    if not is_float and low >= 0 and high <= 65535:
        return 1 / 257
    known = "0 to 1" if is_float else "0 to 65535"
    raise ImageError(f"grey values from {low} to {high}, not within {known}")


def resize_and_crop(rgb: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes the short side and crops the centre, with torchvision's rounding.

    `rgb` is a `PIL.Image` of mode RGB. Returns RGB, 0 to 255, uint8, (size, size, 3).
    """
    filter_ = INTERPOLATIONS[preprocessing.interpolation]
    for short in preprocessing.short_sides:
        rgb = _resize_short_side(rgb, short, filter_)
    size = preprocessing.size
    left, top = round((rgb.width - size) / 2), round((rgb.height - size) / 2)
    return np.array(rgb.crop((left, top, left + size, top + size)))


def _resize_short_side(rgb: Image.Image, short: int, filter_) -> Image.Image:
    long = int(short * max(rgb.size) / min(rgb.size))
    size = (long, short) if rgb.width > rgb.height else (short, long)
    return rgb.resize(size, filter_)
