"""The EXIF orientation of a JPEG, in a TensorFlow graph.

TensorFlow decodes pixels as they are stored, and a telephone stores most images
lying on their side.
"""

import tensorflow as tf

MAX_ENTRIES = 64  # of a list that are looked at; cameras write a dozen or two
ORIENTATION = 0x0112
UPRIGHT = 1


def exif_orientation(contents):
    """How an image has to be turned to stand upright, as EXIF numbers it.

    Args:
        contents: Contents of an image file, a string scalar.

    Returns:
        An int32 scalar from 1, which is upright, to 8; 1 too for what is no JPEG, and
        for a JPEG whose EXIF data do not tell.

    Source: CIPA DC-008 (Exif 2.32), sections 4.5.2, 4.6.2 and 4.7.2.
    """
    is_jpeg = tf.strings.substr(contents, 0, 2) == b"\xff\xd8"
    exif = tf.cond(is_jpeg, lambda: _exif_segment(contents), lambda: 0)
    return tf.cond(exif > 0, lambda: _read(contents, exif + 10), lambda: UPRIGHT)


def upright(rgb, orientation):
    """Turns and mirrors an image as its EXIF orientation asks.

    Args:
        rgb: One image as it is stored, of shape (height, width, 3).
        orientation: What `exif_orientation` gives.

    Returns:
        The image; of shape (width, height, 3) for 5 to 8.
    """
    rgb = tf.cond(orientation >= 5, lambda: tf.transpose(rgb, [1, 0, 2]), lambda: rgb)
    down, right = (
        tf.reduce_any(orientation == orientations)
        for orientations in ([3, 4, 7, 8], [2, 3, 6, 7])
    )
    return tf.raw_ops.Reverse(tensor=rgb, dims=[down, right, False])


def _exif_segment(contents):
    """Where the segment with EXIF data begins; 0 if there is none before the pixels."""

    def others(at, kind):
        return kind == 0

    def step(at, kind):
        segment = _bytes(contents, at, 10)
        is_segment = (segment[0] == 0xFF) & (segment[1] != 0xDA)  # the pixels follow
        is_exif = (segment[1] == 0xE1) & (_text(contents, at + 4, 6) == b"Exif\0\0")
        length = segment[2] * 256 + segment[3]
        kind = tf.where(is_segment & (length >= 2), tf.where(is_exif, 1, 0), -1)
        return tf.where(kind == 0, at + 2 + length, at), kind

    at, kind = tf.while_loop(
        others, step, [tf.constant(2), tf.constant(0)], maximum_iterations=MAX_ENTRIES
    )
    return tf.where(kind == 1, at, 0)


def _read(contents, tiff):
    """The orientation in the first directory of the TIFF data that begin at `tiff`."""
    is_little = _text(contents, tiff, 2) == b"II"

    def number(digits):
        """Of the bytes on the last axis, two or four."""
        digits = tf.cond(is_little, lambda: digits[..., ::-1], lambda: digits)
        powers = [256**i for i in reversed(range(digits.shape[-1]))]
        # A broken file may overflow; it then is upright.
        return tf.reduce_sum(digits * tf.constant(powers), -1)

    directory = tiff + number(_bytes(contents, tiff + 4, 4))
    entries = _bytes(contents, directory + 2, 12 * MAX_ENTRIES)
    entries = tf.reshape(entries, [MAX_ENTRIES, 12])
    is_entry = tf.range(MAX_ENTRIES) < number(_bytes(contents, directory, 2))
    is_orientation = is_entry & (number(entries[:, :2]) == ORIENTATION)
    values = tf.where(is_orientation, number(entries[:, 8:10]), 0)
    found = tf.reduce_max(values)
    return tf.where((found >= 1) & (found <= 8), found, UPRIGHT)


def _text(contents, start, length: int):
    size = tf.strings.length(contents)
    return tf.strings.substr(contents, tf.clip_by_value(start, 0, size), length)


def _bytes(contents, start, length: int):
    """So many bytes, int32, with zeros beyond the end of the file."""
    text = _text(contents, start, length)
    return tf.cast(tf.io.decode_raw(text, tf.uint8, fixed_length=length), tf.int32)
