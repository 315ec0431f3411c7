"""Batches of training and evaluation: the same for every way of making them."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL
from PIL import Image, ImageOps

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import read_image
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.data.pipeline import evaluation_batches, training_batches
from resnext_keras.training.recipes import Recipe, get_recipe
from resnext_keras.training.transforms.crops import (
    CROP_RATIOS,
    MEAN_COLOUR,
    exif_orientation,
    random_box,
    upright,
)

PLAIN = Recipe("", "", 1, 4, 0.1, crop="center", flip=False)
EVERYTHING = dataclasses.replace(
    get_recipe("torchvision2"), batch_size=4, random_erase=0.5, train_size=12
)


def of_files(contents, labels=None):
    """Encoded image files, each in a class of its own."""
    files = tf.constant(contents)
    return ImageDataset(
        class_names=tuple(str(index) for index in range(len(contents))),
        labels=np.arange(len(contents), dtype="int32") if labels is None else labels,
        names=[str(index) for index in range(len(contents))],
        read=lambda index: tf.gather(files, index),
    )


def encoded(image, format_="PNG", **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def seven(photos):
    """JPEGs and PNGs of several shapes."""
    images = [photos[i % 2].crop((i, i, 60 + 5 * i, 50)) for i in range(7)]
    return of_files([encoded(x, ("JPEG", "PNG")[i % 2]) for i, x in enumerate(images)])


def batches(dataset, recipe, steps=5, **options):
    options = {"seed": 3, "first_step": 0} | options
    data = training_batches(dataset, recipe, SMALL, steps=steps, **options)
    return [(images.numpy(), labels.numpy()) for images, labels in data]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for batch, wanted in zip(found, expected, strict=True):
        for array, other in zip(batch, wanted, strict=True):
            np.testing.assert_array_equal(array, other)


# Order


@pytest.fixture(scope="module")
def whole(seven):
    """The first steps of a run with all that there is."""
    return batches(seven, EVERYTHING)


def test_a_run_that_begins_later_gets_the_same_batches(seven, whole):
    assert_same(batches(seven, EVERYTHING, first_step=3, steps=2), whole[3:])
    images, labels = whole[0]
    assert (images.shape, images.dtype) == ((4, 12, 12, 3), "uint8")
    assert (labels.shape, labels.dtype) == ((4, 7), "float32")
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
    other = batches(seven, EVERYTHING, steps=1, seed=4)
    assert not np.array_equal(images, other[0][0])


def test_the_shares_of_workers_are_the_batch_of_one(seven, whole):
    shares = [batches(seven, EVERYTHING, worker=w, workers=2) for w in range(2)]
    together = [
        [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        for parts in zip(*shares, strict=True)
    ]
    assert_same(together, whole)


def test_fewer_images_than_a_batch_are_repeated(photos):
    two = of_files([encoded(photo.crop((0, 0, 20, 20))) for photo in photos])
    for images, labels in batches(two, PLAIN, steps=2):
        assert images.shape == (4, 8, 8, 3)
        np.testing.assert_array_equal(labels.sum(0), [2, 2])


def test_each_pass_has_every_image_once_in_an_order_as_good_as_random():
    """Each image comes first about as often, and is followed by each as often."""
    count, passes = 7, 700
    dataset = of_files([encoded(Image.new("RGB", (4, 4)))] * count)
    recipe = dataclasses.replace(PLAIN, batch_size=100)  # no multiple of 7
    data = training_batches(dataset, recipe, Preprocessing(1, 1), seed=0, steps=49)
    orders = np.concatenate([labels.numpy().argmax(-1) for _, labels in data])
    orders = orders.reshape(passes, count)
    assert (np.sort(orders) == np.arange(count)).all()
    firsts = np.bincount(orders[:, 0], minlength=count)
    pairs = np.bincount(orders[:, 0] * count + orders[:, 1], minlength=count**2)
    pairs = pairs[pairs > 0]
    assert len(pairs) == count * (count - 1)
    for found in (firsts, pairs):
        chi2 = ((found - found.mean()) ** 2 / found.mean()).sum()
        assert chi2 < len(found) + 4 * np.sqrt(2 * len(found))


# Crops


def test_a_plain_crop_is_the_image_of_evaluation(seven, tmp_path):
    images, labels = batches(seven, PLAIN, steps=1)[0]
    for image, label in zip(images, labels, strict=True):
        path = tmp_path / "image"
        path.write_bytes(seven.read(label.argmax()).numpy())
        difference = np.abs(image.astype(int) - read_image(path, SMALL))
        assert difference.max() <= 2


def test_a_padded_crop_is_the_image_moved_by_up_to_an_eighth():
    size = 16
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3), "uint8")
    recipe = dataclasses.replace(PLAIN, batch_size=200, crop="pad")
    dataset = of_files([encoded(Image.fromarray(image))])
    data = training_batches(dataset, recipe, Preprocessing(16, 16), seed=0, steps=1)
    images, _ = next(data.as_numpy_iterator())
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], constant_values=0)
    inner = np.pad(np.ones((size, size, 1), bool), [(2, 2), (2, 2), (0, 0)])
    padded = np.where(inner, padded, np.uint8(MEAN_COLOUR))
    windows = {
        padded[y : y + size, x : x + size].tobytes() for y in range(5) for x in range(5)
    }
    assert {found.tobytes() for found in images} == windows


def test_a_random_crop_shows_what_it_was_cut_from():
    """An image whose red grows to the right and green downwards tells the place."""
    width, height = 320, 240
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    ramp = np.stack([x, y, 0 * x], -1).astype("uint8")
    files = [encoded(Image.fromarray(ramp), f, quality=95) for f in ("PNG", "JPEG")]
    recipe = dataclasses.replace(PLAIN, crop="random_resized", batch_size=64)
    crops = []
    for file in files:
        data = training_batches(
            of_files([file]), recipe, Preprocessing(32, 32), seed=1, steps=1
        )
        crops.append(next(data.as_numpy_iterator())[0].astype(float))
    png, jpeg = crops
    assert np.abs(png - jpeg).mean() < 1.5
    # The part's width and height, from the colours of its edges.
    shares = [
        (png[:, 16, -1, 0] - png[:, 16, 0, 0]) / 255 * 32 / 31,
        (png[:, -1, 16, 1] - png[:, 0, 16, 1]) / 255 * 32 / 31,
    ]
    areas = shares[0] * shares[1]
    ratios = shares[0] * width / (shares[1] * height)
    assert 0.06 < areas.min() < 0.3
    assert 0.7 < areas.max() <= 1.02
    assert 0.7 < ratios.min() < 0.9
    assert 1.1 < ratios.max() < 1.4


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(240, 320), (60, 400), (40, 400)], ids=str)
def test_random_parts_are_distributed_as_torchvisions(shape):
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms")
    image, count = torch.zeros(3, *shape), 4000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draw = transforms.RandomResizedCrop.get_params
        wanted = np.array([draw(image, (0.08, 1.0), CROP_RATIOS) for _ in range(count)])

    def found(number):
        seed = tf.stack([tf.constant(5, tf.int64), number])
        return random_box(*shape, (0.08, 1.0), CROP_RATIOS, seed)

    data = tf.data.Dataset.range(count).map(found, 2).batch(count)
    boxes, is_found = next(data.as_numpy_iterator())
    # What was not found is a part of the middle, of the largest share or less.
    whole = (wanted[:, 2] == shape[0]) & (wanted[:, 3] == round(shape[0] * 4 / 3))
    assert (~is_found).mean() == pytest.approx(whole.mean(), abs=0.02)
    if (whole.mean()) > 0.1:
        boxes, wanted = boxes[is_found], wanted[~whole]
    for statistic in (
        lambda b: b[:, 2] * b[:, 3] / np.prod(shape),
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: (b[:, 0] + b[:, 2] / 2) / shape[0],
        lambda b: (b[:, 1] + b[:, 3] / 2) / shape[1],
    ):
        ours, theirs = statistic(boxes), statistic(wanted)
        error = np.hypot(
            ours.std() / len(ours) ** 0.5, theirs.std() / len(theirs) ** 0.5
        )
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert ours.std() == pytest.approx(theirs.std(), rel=0.06)


# Orientation


@pytest.fixture(scope="module")
def orientation_of():
    return tf.function(exif_orientation, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("endian", ["<", ">"])
def test_the_orientation_is_what_pillow_wrote(photos, orientation_of, endian):
    image = photos[0].resize((40, 30))
    profile = b"ICC" * 30000  # two segments before
    for orientation in range(10):
        exif = Image.Exif()
        exif.endian = endian
        exif[0x010F] = "maker"
        exif[0x0112] = orientation
        for options in ({}, {"icc_profile": profile}, {"dpi": (72, 72)}):
            file = encoded(image, "JPEG", exif=exif, **options)
            wanted = orientation if 1 <= orientation <= 8 else 1
            assert orientation_of(file) == wanted, (orientation, options)
    for end in range(2, 90, 3):  # cut or spoilt anywhere, it still is a number
        for broken in (file[:end], file[:end] + b"\xff" * 60 + file[end:]):
            assert 1 <= orientation_of(broken) <= 8


def test_what_has_no_orientation_is_upright(photos, orientation_of):
    image = photos[0].resize((40, 30))
    files = [encoded(image, format_) for format_ in ("JPEG", "PNG", "BMP", "WEBP")]
    for file in (*files, b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe1\0\x08Exif\0\0"):
        assert orientation_of(file) == 1


def test_each_orientation_is_turned_as_by_pillow(photos):
    image = photos[0].resize((4, 3))
    turn = tf.function(upright)
    for orientation in range(1, 9):
        image.getexif()[0x0112] = orientation
        wanted = ImageOps.exif_transpose(image)
        found = turn(np.asarray(image), tf.constant(orientation))
        np.testing.assert_array_equal(found, wanted)


def test_training_and_evaluation_see_images_upright(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(photos[0].resize((40, 30)), "JPEG", exif=exif, quality=95)
    path = tmp_path / "image.jpg"
    path.write_bytes(file)
    (image, _), *_ = evaluation_batches(of_files([file]), SMALL, 1).as_numpy_iterator()
    assert np.abs(image[0].astype(int) - read_image(path, SMALL)).max() <= 2
    # All of the image, whose ratio is 4/3.
    recipe = dataclasses.replace(
        PLAIN, crop="random_resized", least_area=0.999, batch_size=32
    )
    whole = ImageOps.exif_transpose(Image.open(path)).resize((8, 8))
    images, _ = batches(of_files([file]), recipe, steps=1)[0]
    differences = np.abs(images.astype(int) - np.asarray(whole)).mean((1, 2, 3))
    assert np.median(differences) < 4


# Evaluation


def test_evaluation_reads_every_image_once_in_order(seven, tmp_path):
    data = list(evaluation_batches(seven, SMALL, 4).as_numpy_iterator())
    assert [len(images) for images, _ in data] == [4, 3]
    images, labels = (np.concatenate(arrays) for arrays in zip(*data, strict=True))
    np.testing.assert_array_equal(labels, range(7))
    assert images.dtype == "uint8"
    for index, image in enumerate(images):
        path = tmp_path / "image"
        path.write_bytes(seven.read(index).numpy())
        assert np.abs(image.astype(int) - read_image(path, SMALL)).mean() < 1


# Errors


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_what_is_no_image_is_said(crop):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected an image"):
        batches(of_files([b"no image"]), dataclasses.replace(PLAIN, crop=crop))
