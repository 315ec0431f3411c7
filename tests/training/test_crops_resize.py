"""Crops with a `Preprocessing` that resizes more than once, as the digits' has."""

import io

import numpy as np
import pytest

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import read_image
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.data.pipeline import training_batches
from resnext_keras.training.recipes import Recipe

TWICE = Preprocessing(32, (8, 32))


@pytest.mark.parametrize("size", [32, 48])
def test_a_center_crop_resizes_in_turn_and_scales_the_last_resize(
    photos, tmp_path, size
):
    file = io.BytesIO()
    photos[0].crop((0, 0, 90, 60)).save(file, "PNG")
    contents = file.getvalue()
    dataset = ImageDataset(("a",), np.zeros(1, "int32"), ["a"], lambda _: contents)
    recipe = Recipe("", "", 1, 1, 0.1, crop="center", flip=False, train_size=size)
    data = training_batches(dataset, recipe, TWICE, seed=0, steps=1)
    pixels, _ = next(data.as_numpy_iterator())
    path = tmp_path / "image.png"
    path.write_bytes(contents)
    expected = read_image(path, Preprocessing(size, (8, size)))
    assert np.abs(pixels[0].astype(int) - expected).max() <= 2
