"""Decoding and preprocessing of image files inside a TensorFlow graph."""

from collections.abc import Callable

import PIL
import tensorflow as tf
from PIL import Image

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import MAX_ASPECT

# Pillow 13 and later resize the height first if it shrinks by more than twice as many
# pixels as the width (https://github.com/python-pillow/Pillow/pull/9549).
VERTICAL_FIRST = int(PIL.__version__.split(".")[0]) >= 13

KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}  # as TensorFlow calls them

HEADER = 34  # bytes; they hold the format and, except in JPEG, the image size


def decode_images(image_bytes, preprocessing: Preprocessing):
    """Decodes, resizes and crops image files like `read_image`, in a graph.

    It uses only TensorFlow's own operations, so that it can be exported. A file that
    cannot be read affects only its own row.

    The formats are JPEG, PNG, uncompressed BMP of 8, 24 or 32 bits, and WebP if the
    TensorFlow that runs the function decodes it (2.19 does not). TIFF and PPM are not
    supported, nor is GIF, because TensorFlow would decode all frames at once. EXIF
    rotation is not applied. Because of rounding, pixels differ from `read_image` by at
    most 1 or 2, on average by 0.01 (for CMYK, which TensorFlow truncates, by 0.3).

    Args:
        image_bytes: Contents of image files, strings of shape (batch,).
        preprocessing: Sizes and interpolation.

    Returns:
        The pixels, RGB, 0 to 255, uint8, of shape (batch, size, size, 3); and
        whether each row could be decoded, bool, of shape (batch,). The pixels of
        other rows are 0.
    """
    rows = tf.size(image_bytes)
    square = [preprocessing.size, preprocessing.size, 3]

    def read(row, contents):
        rgb = decode_image(contents)
        valid = tf.size(rgb) > 0
        pixels = tf.cond(
            valid,
            lambda: resize_and_crop(rgb, preprocessing),
            lambda: tf.zeros(square, tf.uint8),
        )
        return row, pixels, valid

    # A graph cannot catch an error, but a dataset can drop the element that caused it.
    # An extra row at the end makes sure that the dataset is not empty.
    extra = tf.data.Dataset.from_tensors((rows, tf.zeros(square, tf.uint8), False))
    index, pixels, valid = (
        tf.data.Dataset.from_tensor_slices((tf.range(rows), image_bytes))
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
        .concatenate(extra)
        .batch(tf.cast(rows, tf.int64) + 1)
        .get_single_element()
    )
    index = index[:, tf.newaxis]
    pixels = tf.scatter_nd(index, pixels, [rows + 1, *square])
    valid = tf.scatter_nd(index, tf.cast(valid, tf.int32), [rows + 1]) > 0
    return pixels[:-1], valid[:-1]


def resize_and_crop(rgb, preprocessing: Preprocessing):
    """Resizes and crops like `images.read.resize_and_crop`, in a graph.

    `rgb` is one image, uint8, (height, width, 3). Returns RGB, 0 to 255, uint8, (size,
    size, 3).
    """
    kernel = KERNELS[preprocessing.interpolation]
    *first, last = preprocessing.short_sides
    for short in first:
        rgb = _resize(rgb, short, kernel)
    rgb = _resize(rgb, last, kernel, preprocessing.size)
    return tf.ensure_shape(rgb, [preprocessing.size, preprocessing.size, 3])


def _resize(rgb, short, kernel: str, size: int | None = None):
    """Resizes the short side to `short`; with `size`, then crops the centre.

    One axis is resized after the other, each rounded, in the order of Pillow.
    """
    before = tf.shape(rgb, tf.int64)[:2]
    after = tf.cast(short, tf.int64) * before // tf.reduce_min(before)
    height, width = tf.unstack(after)

    def transposed(rgb):
        return tf.transpose(rgb, [1, 0, 2])

    def resized(rgb, first, second):
        """Resizes the second axis, then the first."""
        rgb = _resample(transposed(rgb), first, kernel, size)
        return _resample(transposed(rgb), second, kernel, size)

    if not VERTICAL_FIRST:
        return resized(rgb, width, height)
    less_height, less_width = tf.unstack(before - after)
    return tf.cond(
        (less_height > 0) & (less_height > 2 * less_width),
        lambda: transposed(resized(transposed(rgb), height, width)),
        lambda: resized(rgb, width, height),
    )


def _resample(rgb, length, kernel: str, size: int | None):
    """Resizes the first axis; with `size`, only the centre is computed.

    The other axes become the channels of an image that is one pixel wide. Resizing the
    last axis would be half as fast, and copy the image in float32.
    """
    before, others, _ = tf.unstack(tf.shape(rgb))
    begin = 0.0
    after = tf.cast(length, tf.int32)
    if size is not None:
        # Half to even, as Python and torchvision round.
        begin = tf.round(tf.cast(after - size, tf.float32) / 2)
        after = size
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(rgb, [1, before, 1, others * 3]),
        size=[after, 1],
        scale=[tf.cast(length / tf.cast(before, tf.int64), tf.float32), 1.0],
        translation=[-begin, 0.0],
        kernel_type=kernel,
        antialias=True,
    )
    return tf.reshape(to_uint8(resized), [after, others, 3])


def to_uint8(pixels):
    """Rounds floats to pixels; values outside of 0 to 255 become 0 or 255."""
    # The cast truncates, so 0.5 is added before.
    return tf.cast(tf.clip_by_value(pixels + 0.5, 0.0, 255.0), tf.uint8)


def decode_image(contents):
    """Decodes the contents of an image file, to RGB, uint8, (height, width, 3).

    Height and width are 0 for another format, too many pixels or an aspect beyond
    `MAX_ASPECT`; a broken file gives that or an error of TensorFlow.
    """
    readers = {  # by the first bytes of a file; a dot is any byte
        b"\xff\xd8\xff": _jpeg,
        b"\x89PNG\r\n\x1a\n....IHDR": _png,
        b"RIFF....WEBP": _webp,
        b"BM": _bmp,
    }
    header = tf.cast(
        tf.io.decode_raw(contents, tf.uint8, fixed_length=HEADER), tf.int64
    )
    cases = [
        (_begins(header, start), lambda reader=reader: reader(contents, header))
        for start, reader in readers.items()
    ]
    return tf.ensure_shape(tf.case(cases, default=_no_pixels), [None, None, 3])


def _begins(header, start: bytes):
    places = [place for place, byte in enumerate(start) if byte != ord(".")]
    wanted = [start[place] for place in places]
    return tf.reduce_all(tf.equal(tf.gather(header, places), wanted))


def _no_pixels():
    return tf.zeros([0, 0, 3], tf.uint8)


def _unless_huge(height, width, pixels: Callable):
    """The pixels, or none if the image is too large or too long."""
    short, long = tf.minimum(height, width), tf.maximum(height, width)
    sane = (short > 0) & (long <= MAX_ASPECT * short)
    if Image.MAX_IMAGE_PIXELS:  # Pillow refuses more than twice that
        sane &= short <= 2 * Image.MAX_IMAGE_PIXELS // tf.maximum(long, 1)
    return tf.cond(sane, pixels, _no_pixels)


def _over_white(pixels):
    """RGB from RGB or RGBA, pasted on white with Pillow's rounding."""
    pixels = tf.ensure_shape(pixels, [None, None, None])

    def blend():
        wide = tf.cast(pixels, tf.uint16)
        colour, alpha = wide[..., :3], wide[..., 3:]
        sums = colour * alpha + 255 * (255 - alpha) + 128
        return tf.cast(_high_byte(sums + _high_byte(sums)), tf.uint8)

    # Without an alpha channel, the minimum of an empty tensor is 255.
    is_transparent = tf.reduce_min(pixels[..., 3:]) < 255
    return tf.cond(is_transparent, blend, lambda: pixels[..., :3])


def _high_byte(values):
    return tf.bitwise.right_shift(values, tf.constant(8, tf.uint16))


def _number(header, start: int, length: int):
    """A little-endian number; a big-endian one if `length` is negative."""
    digits = header[start : start + abs(length)][:: 1 if length > 0 else -1]
    return tf.reduce_sum(digits * [256**i for i in range(abs(length))])


def _jpeg(contents, header):
    shape = tf.cast(tf.image.extract_jpeg_shape(contents), tf.int64)
    return _unless_huge(
        shape[0],
        shape[1],
        lambda: tf.io.decode_jpeg(
            contents,
            channels=3,
            dct_method="INTEGER_ACCURATE",  # as Pillow; the default is a faster one
        ),
    )


def _png(contents, header):
    depth, colour = header[24], header[25]
    is_grey, is_palette = colour == 0, colour == 3

    def grey16():
        grey = tf.io.decode_png(contents, channels=1, dtype=tf.uint16)
        grey = (tf.cast(grey, tf.int32) + 128) // 257  # as in `read_image`
        return tf.repeat(tf.cast(grey, tf.uint8), 3, axis=-1)

    def palette():
        return tf.io.decode_png(contents, channels=0)  # 3, or 4 with transparency

    def grey_of_few_bits():
        # Without transparency libpng sets alpha to the largest value of the bit depth.
        pixels = tf.io.decode_png(contents, channels=4)
        alpha = 255 * tf.cast(pixels[..., 3:] > 0, tf.uint8)
        return tf.concat([pixels[..., :3], alpha], axis=-1)

    def others():
        return tf.io.decode_png(contents, channels=4)

    cases = [
        (is_grey & (depth == 16), grey16),
        (is_grey & (depth < 8), grey_of_few_bits),
        (is_palette, palette),
    ]
    return _unless_huge(
        _number(header, 20, -4),
        _number(header, 16, -4),
        lambda: _over_white(tf.case(cases, default=others)),
    )


def _webp(contents, header):
    """WebP; TensorFlow 2.19 raises an error, later ones decode it."""
    dimensions = {  # height and width by kind of the first chunk
        b"VP8X": lambda: (_number(header, 27, 3) + 1, _number(header, 24, 3) + 1),
        b"VP8L": lambda: (
            _number(header, 21, 4) // 2**14 % 2**14 + 1,
            _number(header, 21, 4) % 2**14 + 1,
        ),
    }
    lossy = _number(header, 28, 2) % 2**14, _number(header, 26, 2) % 2**14
    height, width = tf.case(
        [(_begins(header[12:], kind), read) for kind, read in dimensions.items()],
        default=lambda: lossy,
    )

    def with_alpha():
        # TensorFlow decodes the frames of an animation with alpha, but allocates room
        # for alpha only if this flag is set in the file. So it is always set here.
        flags = tf.constant([bytes([flags | 0x10]) for flags in range(256)])
        parts = (
            tf.strings.substr(contents, 0, 20),
            tf.gather(flags, header[20]),
            tf.strings.substr(contents, 21, -1),
        )
        return tf.strings.join(parts)

    is_animation = _begins(header[12:], b"VP8X") & (header[20] // 2 % 2 == 1)
    return _unless_huge(
        height,
        width,
        lambda: _over_white(
            tf.io.decode_image(
                tf.cond(is_animation, with_alpha, lambda: contents),
                expand_animations=False,
            )
        ),
    )


def _bmp(contents, header):
    """BMP of 8, 24 and 32 bits, uncompressed."""
    start, width, bits = _number(header, 10, 4), _number(header, 18, 4), header[28]
    height = tf.cast(tf.cast(_number(header, 22, 4), tf.int32), tf.int64)

    def by_palette():
        indices = tf.io.decode_bmp(contents)[..., 0]
        begin = 14 + _number(header, 14, 4)
        palette = tf.io.decode_raw(
            tf.strings.substr(contents, begin, start - begin), tf.uint8
        )
        bgr = tf.reshape(palette, [-1, 4])[:, :3]
        return tf.gather(bgr[:, ::-1], tf.cast(indices, tf.int32))

    uncompressed = _number(header, 30, 4) == 0
    return _unless_huge(
        tf.where(uncompressed, tf.abs(height), 0),
        width,
        lambda: tf.cond(
            bits == 8, by_palette, lambda: tf.io.decode_bmp(contents, channels=3)
        ),
    )
