"""Reads image files with Pillow, as upright RGB pixels."""

import contextlib
import io
import os
import stat
import threading
import warnings
from importlib import resources

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resnext_keras.images.preprocessing import IMAGENET, INTERPOLATIONS, Preprocessing

# Pillow's other decoders are rarely tested, or start programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# Resized to a short side of 256, an image of this aspect takes 26 MB.
MAX_ASPECT = 100

# Chelsea the cat, by Stefan van der Walt, public domain (CC0), as in
# skimage.data.chelsea.
SAMPLE_PHOTO = resources.files("resnext_keras") / "data" / "chelsea.jpg"


class ImageError(ValueError):
    """A file cannot be read as an image. The message names it and gives the reason."""


def read_image(
    path: str | os.PathLike, preprocessing: Preprocessing = IMAGENET
) -> np.ndarray:
    """Reads an image, resized and cropped as a weight set expects it.

    The pixels equal those of torchvision's `Resize(resize)` and `CenterCrop(size)` on
    a Pillow image. EXIF rotation is applied, transparency becomes white, 16-bit grey
    is scaled to 8 bits, and the first frame of an animation is taken.

    Args:
        path: A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3), the input of
        `preprocess_input`.

    Raises:
        ImageError: The file is missing, unreadable, broken or of another format,
            has more pixels than Pillow accepts (about 179 million), or its long side
            is over 100 times its short side.
        TypeError: `path` is not a path, or `preprocessing` not a `Preprocessing`.
    """
    path = os.fspath(path)
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "Expected `preprocessing` to be a Preprocessing. "
            f"Received: preprocessing={preprocessing!r}"
        )
    return resize_and_crop(read_rgb(path), preprocessing)


def read_rgb(path: str | os.PathLike, digest=None) -> Image.Image:
    """Reads an image as `read_image` does, without resizing and cropping.

    Args:
        path: A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        digest: A `hashlib` hash to update with all bytes of the file.

    Returns:
        A `PIL.Image` of mode RGB.

    Raises:
        ImageError: See `read_image`.
    """
    try:
        return _read_rgb(path, digest)
    # Broken files make Pillow raise nearly anything: OSError, SyntaxError,
    # struct.error, zlib.error, OverflowError, MemoryError, ...
    except Exception as error:
        own = isinstance(error, ImageError)
        reason = str(error) if own else f"{type(error).__name__}: {error}"
        raise ImageError(
            f"Expected an image ({', '.join(FORMATS)}) at {os.fspath(path)!r}. "
            f"Found: {reason}"
        ) from error


def decode_rgb(contents: bytes) -> Image.Image:
    """Decodes the contents of an image file, as `read_rgb` does.

    Args:
        contents: Contents of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.

    Returns:
        A `PIL.Image` of mode RGB.

    Raises:
        ImageError: See `read_image`; the message gives only the reason.
    """
    try:
        return _decode(io.BytesIO(contents))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{type(error).__name__}: {error}") from error


def _read_rgb(path, digest) -> Image.Image:
    """The upright image in RGB; the message of an `ImageError` is only the reason."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ImageError("no such file") from None
    if not stat.S_ISREG(mode):
        raise ImageError("a folder" if stat.S_ISDIR(mode) else "not a regular file")
    with open(path, "rb") as file:
        return _decode(file, digest)


def _decode(file, digest=None) -> Image.Image:
    with _quiet_pillow():
        start = file.read(16)
        if not start:
            raise ImageError("an empty file")
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ImageError(f"a file that begins with {start!r}") from None
        width, height = image.size
        if not 0 < max(width, height) <= MAX_ASPECT * min(width, height):
            raise ImageError(
                f"{width} x {height} pixels; the long side may be at most "
                f"{MAX_ASPECT} times the short one"
            )
        image.load()
        try:
            rgb = _to_rgb(ImageOps.exif_transpose(image))
        except ImageError:
            raise
        except Exception:  # broken EXIF data, which must not hide intact pixels
            rgb = _to_rgb(image)
        if digest is not None:  # last, because a file that is not an image may be huge
            file.seek(0)
            while block := file.read(2**20):
                digest.update(block)
        return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB, with 16-bit grey scaled to 8 bits and transparency over white."""
    if image.mode == "F":
        raise ImageError("float pixels, which have no agreed range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image)  # Pillow's own `convert` would clip it
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(
                f"grey values from {grey.min()} to {grey.max()}, not within 0 to 65535"
            )
        grey = (grey.astype("uint32") + 128) // 257  # 65535 becomes 255
        return Image.fromarray(grey.astype("uint8")).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba)
        return rgb
    return image.convert("RGB")


def exif_orientation(contents: bytes) -> int:
    """The EXIF orientation of a JPEG: how to turn it upright.

    Args:
        contents: Contents of an image file.

    Returns:
        A number from 1, which is upright, to 8; 1 also for other formats, and for a
        JPEG without an orientation or with broken EXIF data.
    """
    if not contents.startswith(b"\xff\xd8"):
        return 1
    try:
        with (
            _quiet_pillow(),
            Image.open(io.BytesIO(contents), formats=["JPEG"]) as jpeg,
        ):
            number = jpeg.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # see `read_rgb`
        return 1
    return number if number in range(1, 9) else 1


def resize_and_crop(rgb: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes the short side and crops the centre, with torchvision's rounding.

    Args:
        rgb: A `PIL.Image` of mode RGB.
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3).
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


_quiet_lock = threading.Lock()
_quiet_readers = 0


@contextlib.contextmanager
def _quiet_pillow():
    """Hides Pillow's warnings (odd metadata, large images) while a file is read.

    `warnings.catch_warnings` restores a saved list of filters, so threads that end in
    another order than they began would restore each other's. Here the first reader
    adds one filter, and the last reader removes it.
    """
    global _quiet_readers
    with _quiet_lock:
        _quiet_readers += 1
        warnings.filterwarnings("ignore", module=r"PIL\.")
        quiet = warnings.filters[0]
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_readers -= 1
            if _quiet_readers == 0 and quiet in warnings.filters:
                warnings.filters.remove(quiet)
