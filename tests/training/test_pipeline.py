"""Batches of training and evaluation are the same, however they are made."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL
from image_files import encoded
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
# Everything random; ink in place of TrivialAugment, whose graph takes seconds to build.
EVERYTHING = dataclasses.replace(
    get_recipe("torchvision2"),
    batch_size=4,
    random_erase=0.5,
    train_size=12,
    augment="ink",
)


def of_files(contents):
    """Encoded image files, each in a class of its own."""
    files, names = tf.constant(contents), [str(n) for n in range(len(contents))]
    labels = np.arange(len(contents), dtype="int32")
    return ImageDataset(tuple(names), labels, names, lambda n: tf.gather(files, n))


def on_its_side(image):
    """A JPEG as phones store it, with the orientation to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = image.transpose(Image.Transpose.ROTATE_90)
    return encoded(stored, "JPEG", exif=exif, quality=95)


@pytest.fixture(scope="module")
def seven(photos):
    """JPEGs and PNGs of several shapes, one of them on its side."""
    images = [photos[i % 2].crop((i, i, 60 + 5 * i, 50)) for i in range(7)]
    files = [encoded(x, ("JPEG", "PNG")[i % 2]) for i, x in enumerate(images)]
    return of_files([on_its_side(images[0]), *files[1:]])


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


def test_later_steps_and_shares_of_workers_are_those_of_one_run(seven):
    whole = batches(seven, EVERYTHING)
    shares = [
        batches(seven, EVERYTHING, first_step=2, steps=3, worker=worker, workers=2)
        for worker in range(2)
    ]
    for expected, *parts in zip(whole[2:], *shares, strict=True):
        for array, *arrays in zip(expected, *parts, strict=True):
            np.testing.assert_array_equal(np.concatenate(arrays), array)
    for images, labels in whole:
        assert (images.shape, images.dtype) == ((4, 12, 12, 3), "uint8")
        assert (labels.shape, labels.dtype) == ((4, 7), "float32")
        np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)


def orders(count, passes, **options):
    """The order of the images in each pass."""
    dataset = of_files([encoded(Image.new("RGB", (4, 4)), "PNG")] * count)
    recipe = dataclasses.replace(PLAIN, batch_size=50)  # no multiple of 7
    steps = passes * count // 50
    data = training_batches(
        dataset, recipe, Preprocessing(1, 1), steps=steps, **options
    )
    numbers = np.concatenate([labels.numpy().argmax(-1) for _, labels in data])
    return numbers.reshape(passes, count)


def test_each_pass_has_every_image_once_in_an_order_as_good_as_random():
    """Each image comes first about as often, and is followed by each as often."""
    count, passes = 7, 350
    found = orders(count, passes, seed=0)
    assert (np.sort(found) == np.arange(count)).all()
    firsts = np.bincount(found[:, 0], minlength=count)
    pairs = np.bincount(found[:, 0] * count + found[:, 1], minlength=count**2)
    pairs = pairs[pairs > 0]
    assert len(pairs) == count * (count - 1)
    for counts in (firsts, pairs):
        chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi2 < len(counts) + 4 * np.sqrt(2 * len(counts))
    assert not np.array_equal(orders(count, 50, seed=1), found[:50])


# Crops


def test_a_plain_crop_is_the_image_of_evaluation_and_few_images_are_repeated(
    seven, tmp_path
):
    two, path = seven.subset([0, 1]), tmp_path / "image"
    for images, labels in batches(two, PLAIN, steps=2):
        np.testing.assert_array_equal(labels.sum(0), [2, 2, 0, 0, 0, 0, 0])
        for image, label in zip(images, labels, strict=True):
            path.write_bytes(seven.read(label.argmax()).numpy())
            difference = np.abs(image.astype(int) - read_image(path, SMALL))
            assert difference.max() <= 2


@pytest.mark.parametrize("size", [32, 48])
def test_a_center_crop_resizes_in_turn_and_scales_the_last_resize(
    photos, tmp_path, size
):
    path = tmp_path / "image.png"
    photos[0].crop((0, 0, 90, 60)).save(path)
    recipe = dataclasses.replace(PLAIN, batch_size=1, train_size=size)
    twice = Preprocessing(32, (8, 32))  # as for the bundled digits
    data = training_batches(
        of_files([path.read_bytes()]), recipe, twice, seed=0, steps=1
    )
    pixels, _ = next(data.as_numpy_iterator())
    expected = read_image(path, Preprocessing(size, (8, size)))
    assert np.abs(pixels[0].astype(int) - expected).max() <= 2


def test_a_padded_crop_is_the_image_moved_by_up_to_an_eighth():
    size = 16
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3), "uint8")
    recipe = dataclasses.replace(PLAIN, batch_size=200, crop="pad")
    dataset = of_files([encoded(Image.fromarray(image), "PNG")])
    data = training_batches(dataset, recipe, Preprocessing(16, 16), seed=0, steps=1)
    images, _ = next(data.as_numpy_iterator())
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], constant_values=0)
    inner = np.pad(np.ones((size, size, 1), bool), [(2, 2), (2, 2), (0, 0)])
    padded = np.where(inner, padded, np.uint8(MEAN_COLOUR))
    windows = {
        padded[y : y + size, x : x + size].tobytes() for y in range(5) for x in range(5)
    }
    assert {found.tobytes() for found in images} == windows


def test_a_random_crop_is_an_upright_part_of_the_image():
    """Red grows to the right and green downwards, so colours show the place."""
    width, height = 320, 240
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype("uint8"))
    files = [encoded(image, "PNG"), encoded(image, "JPEG", quality=95)]
    recipe = dataclasses.replace(PLAIN, crop="random_resized", batch_size=96)
    dataset = of_files([*files, on_its_side(image)])
    data = training_batches(dataset, recipe, Preprocessing(32, 32), seed=1, steps=1)
    crops = next(data.as_numpy_iterator())[0].astype(float)
    left, right = crops[:, 16, 0, 0], crops[:, 16, -1, 0]
    top, bottom = crops[:, 0, 16, 1], crops[:, -1, 16, 1]
    red = np.linspace(left, right, 32, axis=1)[:, None, :]
    green = np.linspace(top, bottom, 32, axis=1)[:, :, None]
    assert np.abs(crops[..., 0] - red).mean((1, 2)).max() < 2
    assert np.abs(crops[..., 1] - green).mean((1, 2)).max() < 2
    # The part's width and height, from the colours of its edges.
    shares = (right - left) / 255 * 32 / 31, (bottom - top) / 255 * 32 / 31
    areas = shares[0] * shares[1]
    ratios = shares[0] * width / (shares[1] * height)
    assert 0.06 < areas.min() < 0.3
    assert 0.7 < areas.max() <= 1.02
    assert 0.7 < ratios.min() < 0.9
    assert 1.1 < ratios.max() < 1.4


def test_another_seed_mixes_other_shares(seven):
    recipe = dataclasses.replace(PLAIN, mixup=1.0)
    shares = [
        [labels.max() for _, labels in batches(seven, recipe, seed=seed)]
        for seed in (0, 1)
    ]
    assert np.isclose(*shares).sum() <= 1


def test_the_ratio_of_a_random_part_is_uniform_in_its_logarithm():
    """As torchvision draws it: wide parts are as frequent as tall ones."""
    draws = tf.data.Dataset.range(4000).map(
        lambda seed: random_box(
            480,
            480,
            (0.2, 0.4),
            CROP_RATIOS,
            tf.stack([tf.constant(3, tf.int64), seed]),
        ),
        2,
    )
    boxes, is_found = next(draws.batch(4000).as_numpy_iterator())
    assert is_found.all()
    logarithms = np.log(boxes[:, 3] / boxes[:, 2])
    spread = 2 * np.log(CROP_RATIOS[1]) / 12**0.5
    assert abs(logarithms.mean()) < 4 * spread / 4000**0.5
    assert logarithms.std() == pytest.approx(spread, rel=0.05)
    shares = boxes[:, 2] * boxes[:, 3] / 480**2
    assert shares.mean() == pytest.approx(0.3, abs=0.005)


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


def test_the_orientation_is_what_pillow_wrote_and_upright_without_one(photos):
    orientation_of = tf.function(
        exif_orientation, input_signature=[tf.TensorSpec([], tf.string)]
    )
    image = photos[0].resize((40, 30))
    profile = b"ICC" * 30000  # two segments before
    for endian, orientation in itertools.product("<>", range(10)):
        exif = Image.Exif()
        exif.endian = endian
        exif[0x010F] = "maker"
        exif[0x0112] = orientation
        for options in ({}, {"icc_profile": profile}, {"dpi": (72, 72)}):
            file = encoded(image, "JPEG", exif=exif, **options)
            expected = orientation if 1 <= orientation <= 8 else 1
            assert orientation_of(file) == expected, (endian, orientation, options)
    for end in range(2, 90, 3):  # cut or spoilt anywhere, it still is a number
        for broken in (file[:end], file[:end] + b"\xff" * 60 + file[end:]):
            assert 1 <= orientation_of(broken) <= 8
    files = [encoded(image, name) for name in ("JPEG", "PNG", "BMP", "WEBP")]
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


def test_a_file_that_is_not_an_image_is_an_error():
    recipe = dataclasses.replace(PLAIN, crop="random_resized")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected an image"):
        batches(of_files([b"no image"]), recipe)
