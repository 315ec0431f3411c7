"""Batches of training and validation are the same, however they are made."""

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from helpers import SMALL
from image_files import encoded, written_formats
from PIL import Image

from resnext_keras.images.preprocessing import IMAGENET, Preprocessing
from resnext_keras.images.read import read_image
from resnext_keras.training.data.dataset import ImageDataset, Unreadable
from resnext_keras.training.data.pipeline import TrainingBatches, ValidationBatches
from resnext_keras.training.recipes import Recipe, get_recipe
from resnext_keras.training.transforms.crops import (
    CROP_RATIOS,
    mean_colour,
    random_box,
    random_resized_crop,
)

PLAIN = Recipe("", "", 1, 4, 0.1, crop="center", flip=False)
# Everything random.
EVERYTHING = dataclasses.replace(
    get_recipe("torchvision2"), batch_size=4, random_erase=0.5, train_size=12
)


def of_files(contents):
    """Encoded image files, each in a class of its own."""
    names = [str(n) for n in range(len(contents))]
    labels = np.arange(len(contents), dtype="int32")
    return ImageDataset(tuple(names), labels, names, lambda n: io.BytesIO(contents[n]))


def on_its_side(image, name="JPEG", **options):
    """An image as phones store it, with the orientation to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = image.transpose(Image.Transpose.ROTATE_90)
    return encoded(stored, name, exif=exif, **options)


@pytest.fixture(scope="module")
def seven(photos):
    """JPEGs and PNGs of several shapes, one of them on its side."""
    images = [photos[i % 2].crop((i, i, 60 + 5 * i, 50)) for i in range(7)]
    files = [encoded(x, ("JPEG", "PNG")[i % 2]) for i, x in enumerate(images)]
    return of_files([on_its_side(images[0]), *files[1:]])


def batches(dataset, recipe, steps=5, preprocessing=SMALL, **options):
    options = {"seed": 3, "unreadable": Unreadable(1)} | options
    return list(TrainingBatches(dataset, recipe, preprocessing, steps=steps, **options))


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


def test_a_batch_is_the_same_whenever_it_is_asked_for(seven):
    """Keras asks for some batches twice, and from several threads."""
    expected = batches(seven, EVERYTHING, steps=12)
    data = TrainingBatches(
        seven, EVERYTHING, SMALL, steps=12, seed=3, unreadable=Unreadable(1)
    )
    assert isinstance(data, keras.utils.PyDataset)
    assert len(data) == 12
    steps = [0, 1, 0, 1, 2, 11, 3, 10, 0, 5, 4, 3, 2, 1, 0]
    with ThreadPoolExecutor(4) as pool:
        found = [*map(data.__getitem__, steps), *pool.map(data.__getitem__, steps)]
    for step, batch in zip(steps * 2, found, strict=True):
        for array, wanted in zip(batch, expected[step], strict=True):
            np.testing.assert_array_equal(array, wanted)


def orders(count, passes, **options):
    """The order of the images in each pass."""
    dataset = of_files([encoded(Image.new("RGB", (4, 4)), "PNG")] * count)
    recipe = dataclasses.replace(PLAIN, batch_size=50)  # no multiple of 7
    steps = passes * count // 50
    data = batches(dataset, recipe, steps, Preprocessing(1, 1), **options)
    numbers = np.concatenate([labels.argmax(-1) for _, labels in data])
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
            path.write_bytes(seven.open(label.argmax()).read())
            np.testing.assert_array_equal(image, read_image(path, SMALL))


@pytest.mark.parametrize("size", [32, 48])
def test_a_center_crop_resizes_in_turn_and_scales_the_last_resize(
    photos, tmp_path, size
):
    path = tmp_path / "image.png"
    photos[0].crop((0, 0, 90, 60)).save(path)
    recipe = dataclasses.replace(PLAIN, batch_size=1, train_size=size)
    twice = Preprocessing(32, (8, 32))  # as for the bundled digits
    ((pixels, _),) = batches(of_files([path.read_bytes()]), recipe, 1, twice)
    expected = read_image(path, Preprocessing(size, (8, size)))
    np.testing.assert_array_equal(pixels[0], expected)


def test_a_padded_crop_is_the_image_moved_by_up_to_an_eighth():
    size = 16
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3), "uint8")
    recipe = dataclasses.replace(PLAIN, batch_size=200, crop="pad")
    dataset = of_files([encoded(Image.fromarray(image), "PNG")])
    ((images, _),) = batches(dataset, recipe, 1, Preprocessing(16, 16))
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], constant_values=0)
    inner = np.pad(np.ones((size, size, 1), bool), [(2, 2), (2, 2), (0, 0)])
    padded = np.where(inner, padded, np.uint8(mean_colour(IMAGENET)))
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
    ((images, _),) = batches(dataset, recipe, 1, Preprocessing(32, 32), seed=1)
    crops = images.astype(float)
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


def boxes(shape, areas, count):
    """Random parts (top, left, height, width), and how many were not found."""
    rng, (height, width) = np.random.default_rng(3), shape
    found = [random_box(width, height, areas, CROP_RATIOS, rng) for _ in range(count)]
    parts = [
        (top, left, bottom - top, right - left)
        for left, top, right, bottom in filter(None, found)
    ]
    return np.array(parts), found.count(None)


def test_the_ratio_of_a_random_part_is_uniform_in_its_logarithm():
    """As torchvision draws it: wide parts are as frequent as tall ones."""
    found, missing = boxes((480, 480), (0.2, 0.4), 4000)
    assert not missing
    logarithms = np.log(found[:, 3] / found[:, 2])
    spread = 2 * np.log(CROP_RATIOS[1]) / 12**0.5
    assert abs(logarithms.mean()) < 4 * spread / 4000**0.5
    assert logarithms.std() == pytest.approx(spread, rel=0.05)
    shares = found[:, 2] * found[:, 3] / 480**2
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
    found, missing = boxes(shape, (0.08, 1.0), count)
    # What was not found is a part of the middle, of the largest share or less.
    whole = (wanted[:, 2] == shape[0]) & (wanted[:, 3] == round(shape[0] * 4 / 3))
    assert missing / count == pytest.approx(whole.mean(), abs=0.02)
    wanted = wanted[~whole]
    for statistic in (
        lambda b: b[:, 2] * b[:, 3] / np.prod(shape),
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: (b[:, 0] + b[:, 2] / 2) / shape[0],
        lambda b: (b[:, 1] + b[:, 3] / 2) / shape[1],
    ):
        ours, theirs = statistic(found), statistic(wanted)
        error = np.hypot(
            ours.std() / len(ours) ** 0.5, theirs.std() / len(theirs) ** 0.5
        )
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        assert ours.std() == pytest.approx(theirs.std(), rel=0.06)


@pytest.mark.parity
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_random_part_has_the_pixels_of_torchvisions(photos, interpolation):
    functional = pytest.importorskip("torchvision.transforms.functional")
    mode = functional.InterpolationMode(interpolation)
    reading, photo = Preprocessing(24, 32, interpolation), photos[0]
    for number in range(20):
        left, top, right, bottom = random_box(
            *photo.size, (0.08, 1.0), CROP_RATIOS, np.random.default_rng(number)
        )
        ours = random_resized_crop(
            photo, reading, 24, 0.08, np.random.default_rng(number)
        )
        theirs = functional.resized_crop(
            photo, top, left, bottom - top, right - left, [24, 24], mode
        )
        np.testing.assert_array_equal(ours, theirs)


# Every kind of file


@pytest.mark.parametrize("crop", ["center", "random_resized", "pad"])
@pytest.mark.parametrize(
    "name", sorted({*written_formats()} & {"JPEG", "PNG", "WEBP", "TIFF", "AVIF"})
)
def test_training_sees_what_evaluation_sees(photos, tmp_path, name, crop):
    """Files on their side, in each format that can say so."""
    photo = photos[0].crop((0, 0, 90, 60))
    upright = of_files([encoded(photo, "PNG")])
    path = tmp_path / "image"
    options = {"lossless": True} if name == "WEBP" else {}
    path.write_bytes(on_its_side(photo, name, **options))
    stored = of_files([path.read_bytes()])
    recipe = dataclasses.replace(PLAIN, crop=crop, batch_size=5)
    found, expected = (batches(data, recipe, 1)[0][0] for data in (stored, upright))
    if name in ("PNG", "WEBP", "TIFF"):
        np.testing.assert_array_equal(found, expected)
    assert np.abs(found.astype(int) - expected).mean() < 3
    if crop == "center":
        np.testing.assert_array_equal(found[0], read_image(path, SMALL))


# Validation


def test_validation_reads_every_image_once_in_order(seven, tmp_path):
    data = list(ValidationBatches(seven, SMALL, 4, unreadable=Unreadable(1)))
    assert [len(images) for images, _ in data] == [4, 3]
    images, labels = (np.concatenate(arrays) for arrays in zip(*data, strict=True))
    np.testing.assert_array_equal(labels, np.eye(7))
    assert (images.dtype, labels.dtype) == ("uint8", "float32")
    for index, image in enumerate(images):
        path = tmp_path / "image"
        path.write_bytes(seven.open(index).read())
        np.testing.assert_array_equal(image, read_image(path, SMALL))


@pytest.mark.parametrize("count", [11, 12, 1])
def test_validation_images_are_shared_evenly_and_count_once(count):
    """Three workers of two rows each, as one batch of Keras."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 8, 8, 3), "uint8")
    files = [encoded(Image.fromarray(image), "PNG") for image in pixels]
    truth = rng.integers(0, 5, count)
    dataset = dataclasses.replace(
        of_files(files), class_names=tuple("abcde"), labels=truth
    )
    shares = [
        ValidationBatches(
            dataset,
            Preprocessing(8, 8),
            2,
            pad=True,
            worker=worker,
            workers=3,
            unreadable=Unreadable(1),
        )
        for worker in range(3)
    ]
    steps = list(zip(*shares, strict=True))
    assert len(steps) == -(-count // 6)
    images, labels, weights = (
        np.concatenate([share[part] for step in steps for share in step])
        for part in range(3)
    )
    assert len(images) == 6 * len(steps)

    inputs = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(5)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, logits)
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    loss, accuracy = model.evaluate(
        images / 255, labels, batch_size=6, sample_weight=weights, verbose=0
    )
    logits = model.predict(pixels / 255, verbose=0)
    likelihoods = np.exp(logits[np.arange(count), truth]) / np.exp(logits).sum(-1)
    assert loss == pytest.approx(-np.log(likelihoods).mean(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(-1) == truth).mean(), rel=1e-5)


# Files that can no longer be read


def vanishing(dataset, *numbers):
    """The data set after some of its files were removed."""

    def opened(number):
        if number in numbers:
            raise FileNotFoundError(f"{number} is gone")
        return dataset.open(number)

    return dataclasses.replace(dataset, open=opened)


def test_an_image_that_is_gone_is_named_and_replaced_by_the_next_draw(seven):
    recipe, unreadable = dataclasses.replace(PLAIN, batch_size=7), Unreadable(7)
    some = vanishing(seven, 2, 5)
    found, again = (
        batches(some, recipe, steps=3, unreadable=unreadable) for _ in range(2)
    )
    assert unreadable == {"2": "no such file", "5": "no such file"}
    whole = batches(seven, recipe, steps=3)
    for (images, labels), (same, _), (before, wanted) in zip(
        found, again, whole, strict=True
    ):
        np.testing.assert_array_equal(images, same)
        is_there = ~np.isin(wanted.argmax(-1), [2, 5])
        np.testing.assert_array_equal(images[is_there], before[is_there])
        np.testing.assert_array_equal(labels[is_there], wanted[is_there])
        assert not labels[:, [2, 5]].any()
        for image, label in zip(images, labels, strict=True):
            own = np.flatnonzero(wanted.argmax(-1) == label.argmax())
            np.testing.assert_array_equal(image, before[own[0]])


def test_validation_goes_on_without_an_image_too(seven):
    unreadable = Unreadable(7)
    data = ValidationBatches(vanishing(seven, 6), SMALL, 4, unreadable=unreadable)
    labels = np.concatenate([labels for _, labels in data])
    assert list(unreadable) == ["6"]
    assert len(labels) == 7
    assert not labels[:, 6].any()


def test_a_data_set_that_is_gone_does_not_hang(seven):
    unreadable = Unreadable(7)
    batches(vanishing(seven, *range(7)), EVERYTHING, unreadable=unreadable)
    assert unreadable.must_end  # for which the run ends
