"""Reads image files with Pillow, as upright RGB pixels."""

import io
import os
import stat
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
        TypeError: `preprocessing` is not a `Preprocessing`.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            "Expected `preprocessing` to be a `Preprocessing`, such as "
            f"weights_preprocessing gives. Received: preprocessing={preprocessing!r}"
        )
    return resize_and_crop(read_rgb(path), preprocessing)


def read_rgb(path: str | os.PathLike, digest=None) -> Image.Image:
    """Reads an image as `read_image` does, without resizing and cropping.

    Updates `digest`, a hash of `hashlib`, with all bytes of the file. Returns a
    `PIL.Image` of mode RGB.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("a folder" if stat.S_ISDIR(mode) else "not a regular file")
        with open(path, "rb") as file:
            return _decode(file, digest)
    except Exception as error:
        raise ImageError(_reason(error), path) from error


def decode_rgb(contents: bytes) -> Image.Image:
    """Decodes the contents of an image file, as `read_rgb` does.

    Raises:
        ImageError: See `read_image`; the message gives only the reason.
    """
    try:
        return _decode(io.BytesIO(contents))
    except Exception as error:
        raise ImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Why an image cannot be read.

    Broken files make Pillow raise nearly anything: OSError, SyntaxError, struct.error,
    zlib.error, OverflowError, MemoryError, ...
    """
    if isinstance(error, ImageError):
        return error.reason
    missing = isinstance(error, FileNotFoundError)
    return "no such file" if missing else f"{type(error).__name__}: {error}"


def _decode(file, digest=None) -> Image.Image:
    _quiet_pillow()
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


def _quiet_pillow() -> None:
    """Hides Pillow's warnings of odd metadata and large images, in all threads.

    The filter stays: `warnings.catch_warnings` works in one thread only.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


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
    _quiet_pillow()
    try:
        with Image.open(io.BytesIO(contents), formats=["JPEG"]) as jpeg:
            number = jpeg.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds for broken data
        return 1
    return number if number in range(1, 9) else 1


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
