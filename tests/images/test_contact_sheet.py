"""Contact sheets: captions in any alphabet, none over its neighbour."""

import numpy as np
import pytest

from resnext_keras.images.draw import CAPTION_HEIGHT, GAP, contact_sheet

SIZE = 64
WHITE = np.zeros((8, 8), "uint8") + 255


def captions(*texts, size=SIZE):
    """What is drawn below white images, a strip of ink for each."""
    sheet = contact_sheet([WHITE] * len(texts), texts, size=size, columns=len(texts))
    below = np.asarray(sheet.convert("L"))[GAP + size :]
    assert below.shape[0] == CAPTION_HEIGHT + GAP
    return [
        below[:, GAP + place * (size + GAP) :][:, :size] < 200
        for place in range(len(texts))
    ]


def test_letters_beyond_english_are_no_boxes():
    box, *found = captions("\uffff", *"éüłñßёжд")
    assert not any(np.array_equal(letter, box) for letter in found)
    assert len({letter.tobytes() for letter in found}) == len(found)


@pytest.mark.parametrize("text", ["Chesapeake Bay retriever, 99.9%", "W" * 300, "a\nb"])
@pytest.mark.parametrize("size", [1, 16, SIZE])
def test_a_caption_stays_below_its_image(text, size):
    texts = ("", text, "")
    alone = contact_sheet([WHITE] * 3, texts, size=size)
    ink = np.asarray(alone.convert("L"))[GAP + size :] < 200
    outside = np.ones(ink.shape[1], bool)
    outside[size + GAP : 2 * (size + GAP) + GAP] = False  # half of it in either gap
    if size > 1:  # where there is room for an ellipsis
        assert ink.any()
        assert not ink[:, outside].any()


def test_what_is_cut_off_is_told_by_an_ellipsis():
    long, cut, other = captions("W" * 300, "W" * 299, "WWWW")
    assert np.array_equal(long, cut)
    assert not np.array_equal(long, other)
    same = captions("short", "short ")
    assert np.array_equal(*same)
