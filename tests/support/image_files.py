"""Image files of many kinds, and broken ones."""

import contextlib
import importlib
import io
import struct
import zlib

import numpy as np
from PIL import Image

from resnext_keras.digits import held_out_digits
from resnext_keras.images.read import FORMATS


def written_formats():
    """The formats that `read_image` reads and this installation writes."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.SAVE]


def encoded(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def digit_folder(folder, count=360):
    """Writes the first held-out digits as an image folder; returns the folder."""
    for number, (image, label) in enumerate(zip(*held_out_digits(), strict=True)):
        if number < count:
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / str(label) / f"{number:03}.png")
    return folder


def patched(contents, place, new):
    return contents[:place] + new + contents[place + len(new) :]


def png(values, depth, colour, interlaced=False, size=None):
    """A PNG that Pillow does not write: 16-bit colour, interlaced, of a wrong size."""
    values = np.asarray(values)
    offsets = [(0, 0, 1, 1)]
    if interlaced:  # Adam7
        offsets = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        offsets += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(
        b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes()
        for y, x, down, right in offsets
        for row in values[y::down, x::right]
    )
    width, height = size or values.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def with_alpha(image):
    """The image, from left to right ever more opaque."""
    image = image.copy()
    ramp = np.linspace(0, 255, image.width).astype("uint8")
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return image


def jpegs(photo):
    yield "4:2:0", encoded(photo, "JPEG", quality=90)
    yield "4:4:4", encoded(photo, "JPEG", quality=95, subsampling="4:4:4")
    yield "4:2:2", encoded(photo, "JPEG", quality=60, subsampling="4:2:2")
    yield "progressive", encoded(photo, "JPEG", progressive=True)
    yield "grey", encoded(photo.convert("L"), "JPEG")
    yield "CMYK", encoded(photo.convert("CMYK"), "JPEG")


def pngs(photo):
    grey, rgb = photo.convert("L"), np.asarray(photo)
    fine = np.asarray(grey, int) * 257 - (np.arange(photo.width) % 250) * (
        rgb[..., 0] > 0
    )
    fine = np.maximum(fine, 0).astype("uint16")
    wide = rgb.astype("uint16") * 257
    yield "RGB", encoded(photo, "PNG")
    yield "RGBA", encoded(with_alpha(photo.convert("RGBA")), "PNG")
    yield "RGB, one colour clear", encoded(photo, "PNG", transparency=(1, 2, 3))
    yield "grey", encoded(grey, "PNG")
    yield "grey and alpha", encoded(with_alpha(photo.convert("LA")), "PNG")
    yield "grey, one value clear", encoded(grey, "PNG", transparency=100)
    yield "1 bit", encoded(photo.convert("1"), "PNG")
    yield "1 bit, black clear", encoded(photo.convert("1"), "PNG", transparency=0)
    for colours in (2, 4, 16, 256):
        palette = photo.quantize(colours)
        clear = bytes(255 * n // colours for n in range(colours))
        yield f"{colours} colours", encoded(palette, "PNG")
        yield f"{colours}, clear", encoded(palette, "PNG", transparency=clear)
    yield "16-bit grey", encoded(Image.fromarray(fine), "PNG")
    yield "16-bit RGB", png(wide, 16, 2)
    yield "16-bit grey and alpha", png(np.stack([fine, fine], -1), 16, 4)
    yield "16-bit RGBA", png(np.concatenate([wide, wide[..., :1]], -1), 16, 6)
    yield "interlaced RGB", png(rgb, 8, 2, interlaced=True)
    yield "interlaced 16-bit grey", png(fine, 16, 0, interlaced=True)


def bmps(photo):
    yield "BMP", encoded(photo, "BMP")
    top_down = struct.pack("<i", -photo.height)
    yield "BMP, top down", patched(encoded(photo, "BMP"), 22, top_down)
    yield "BMP, 32 bits", encoded(photo.convert("RGBA"), "BMP")
    yield "BMP, a palette", encoded(photo.quantize(200), "BMP")
    yield "BMP, grey", encoded(photo.convert("L"), "BMP")


def webps(photo):
    alpha = with_alpha(photo.convert("RGBA"))
    yield "WebP", encoded(photo, "WEBP")
    yield "WebP and alpha", encoded(alpha, "WEBP")
    yield "lossless WebP", encoded(photo, "WEBP", lossless=True)
    yield "lossless WebP and alpha", encoded(alpha, "WEBP", lossless=True)
    for frame, what in ((photo, "WebP animation"), (alpha, "WebP animation and alpha")):
        frames = {"save_all": True, "append_images": [frame.transpose(0)] * 2}
        yield what, encoded(frame, "WEBP", **frames)
        yield f"lossless {what}", encoded(frame, "WEBP", lossless=True, **frames)


# How files of these formats begin.
MAGIC = [
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"RIFF\x00\x01\x00\x00WEBPVP8 ",
    b"BM",
    b"P6\n",
    b"P5 9 9 ",
]


def broken_files(photo):
    """Files of a good beginning and noise, with flipped bytes, and cut ones."""
    rng = np.random.default_rng(0)
    for magic in MAGIC:
        for length in (0, 1, 7, 40, 500):
            yield magic + rng.bytes(length)
    small = photo.resize((40, 30))
    deep = Image.fromarray(rng.integers(0, 65536, (30, 40), "uint16"))
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [(small, f) for f in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")]
    images += [(small.convert("P"), name) for name in ("PNG", "GIF", "BMP", "TIFF")]
    images += [(small.convert("RGBA"), name) for name in ("PNG", "WEBP", "TIFF")]
    images += [(small.convert("CMYK"), "JPEG"), (small.convert("LAB"), "TIFF")]
    images += [(small.convert("L"), "JPEG"), (deep, "PNG")]
    for image, name in images:
        options = {} if name in ("GIF", "BMP", "PPM") else {"exif": exif}
        whole = np.frombuffer(encoded(image, name, **options), "uint8")
        for spread in (64, 512, len(whole)):  # mostly headers, then all
            for _ in range(6):
                flipped = whole.copy()
                places = rng.integers(0, min(spread, len(whole)), rng.integers(1, 5))
                flipped[places] ^= rng.integers(1, 256, len(places), "uint8")
                yield flipped.tobytes()
        for end in rng.integers(1, len(whole), 3):
            yield whole[:end].tobytes()
