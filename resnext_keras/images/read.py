"""From an image file to upright RGB pixels, by Pillow."""

import contextlib
import io
import os
import stat
import threading
import warnings
from importlib import resources

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from resnext_keras.images.preprocessing import IMAGENET, INTERPOLATIONS, Preprocessing

# Only decoders of plain images see a file: others start programs (EPS runs
# Ghostscript) or are seldom tried.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

# Resized to a short side of 256, an image of this aspect takes 26 MB.
MAX_ASPECT = 100

# Chelsea the cat, by Stefan van der Walt, public domain (CC0), as in
# skimage.data.chelsea.
SAMPLE_PHOTO = resources.files("resnext_keras") / "data" / "chelsea.jpg"


class ImageError(ValueError):
    """A file is no image that can be read; the message names it and says why."""


def read_image(
    path: str | os.PathLike, preprocessing: Preprocessing = IMAGENET
) -> np.ndarray:
    """Reads an image and cuts out of it the square that a weight set expects.

    The pixels are those of torchvision's `Resize(resize)` and
    `CenterCrop(size)` on a Pillow image. The EXIF rotation is carried out,
    transparency becomes white, 16-bit grey is scaled to 8 bit, and of an
    animation the first frame counts.

    Args:
        path: A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3). It has yet to go
        through `preprocess_input`.

    Raises:
        ImageError: The file is missing, cannot be read, is no such image, is
            a broken one, has more pixels than Pillow takes for an attack, or
            is over 100 times as long as wide.
        TypeError: `path` is no path, or `preprocessing` no `Preprocessing`.
    """
    path = os.fspath(path)
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "Expected `preprocessing` to be a Preprocessing. "
            f"Received: preprocessing={preprocessing!r}"
        )
    return resize_and_crop(read_rgb(path), preprocessing)


def read_rgb(path: str | os.PathLike, digest=None) -> Image.Image:
    """Reads an image whole, upright, as `read_image` does before it resizes.

    Args:
        path: A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        digest: A hash of `hashlib` that is given all bytes of the file.

    Returns:
        A `PIL.Image` of mode RGB.

    Raises:
        ImageError: As of `read_image`.
    """
    try:
        return _read_rgb(path, digest)
    # Broken files make Pillow raise nearly anything: OSError, SyntaxError,
    # struct.error, zlib.error, OverflowError, MemoryError, ...
    except Exception as error:
        own = isinstance(error, ImageError)
        found = str(error) if own else f"{type(error).__name__}: {error}"
        raise ImageError(
            f"Expected an image ({', '.join(FORMATS)}) at {os.fspath(path)!r}. "
            f"Found: {found}"
        ) from error


def decode_rgb(contents: bytes) -> Image.Image:
    """Decodes the contents of an image file, as `read_rgb` does.

    Args:
        contents: Of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.

    Returns:
        A `PIL.Image` of mode RGB.

    Raises:
        ImageError: As of `read_image`; the message says only what was found.
    """
    try:
        return _decode(io.BytesIO(contents))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{type(error).__name__}: {error}") from error


def _read_rgb(path, digest) -> Image.Image:
    """The upright image in RGB; an `ImageError` says only what was found."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise ImageError("no such file") from None
    if not stat.S_ISREG(mode):
        raise ImageError("a folder" if stat.S_ISDIR(mode) else "no regular file")
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
    """RGB as a viewer would show it: 16-bit grey scaled, transparency over white."""
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


def resize_and_crop(rgb: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes the short side and cuts out the centre, rounding as torchvision.

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

    `warnings.catch_warnings` puts back a saved list of filters: threads that
    end in another order than they began would put back each other's. Here the
    first reader puts one filter in, and the last takes it out.
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
