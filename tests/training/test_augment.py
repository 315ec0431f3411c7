"""Augmentation of training images equals that of Pillow and torchvision."""

import numpy as np
import pytest
from PIL import Image

from resnext_keras.images.preprocessing import IMAGENET, MEAN, STD
from resnext_keras.training.transforms.augment import (
    AUGMENTATIONS,
    BINS,
    OPERATIONS,
    flip,
    random_erase,
)
from resnext_keras.training.transforms.crops import mean_colour
from resnext_keras.training.transforms.mixup import mix

SIZE = 48
GREY = mean_colour(IMAGENET)


@pytest.fixture(scope="module")
def image(photos):
    return photos[0].resize((SIZE, SIZE))


def generators(count):
    """As many generators of random numbers."""
    return [np.random.default_rng((7, number)) for number in range(count)]


def many(change, count):
    """The results of a function of a generator, for as many of them."""
    return np.stack([np.asarray(change(rng)) for rng in generators(count)])


@pytest.mark.parity
def test_operations_and_magnitudes_are_those_of_torchvision(image):
    auto = pytest.importorskip("torchvision.transforms.autoaugment")
    space = auto.TrivialAugmentWide()._augmentation_space(BINS)
    bilinear = auto.InterpolationMode.BILINEAR
    for (name, (values, _)), (operation, most) in zip(
        space.items(), OPERATIONS, strict=True
    ):
        theirs = {
            "Posterize": lambda magnitude: 8 - round(abs(magnitude)),
            "Solarize": lambda magnitude: 255 - abs(magnitude),
        }.get(name, lambda magnitude: magnitude)
        largest = float(values[-1]) if values.ndim else 0.0
        assert theirs(most) == pytest.approx(largest, rel=1e-5), name
        for level in (-1.0, -0.7, 0.0, 0.4, 1.0):
            magnitude = level * most
            expected = auto._apply_op(image, name, theirs(magnitude), bilinear, None)
            found = np.asarray(operation(image, magnitude)).astype(int)
            # Torchvision computes the tangent of an angle, which rounds a few pixels.
            atol = 1 if name.startswith("Shear") else 0
            assert np.abs(found - np.asarray(expected)).max() <= atol, (name, level)


@pytest.mark.parametrize("kind", ["trivial", "ink"])
def test_an_image_is_changed_by_its_seed_alone(image, kind):
    augment = AUGMENTATIONS[kind]
    before = image.tobytes()
    found = many(lambda rng: augment(image, rng), 40)
    assert (found.shape, found.dtype) == ((40, SIZE, SIZE, 3), "uint8")
    np.testing.assert_array_equal(found, many(lambda rng: augment(image, rng), 40))
    assert image.tobytes() == before
    assert len({one.tobytes() for one in found}) >= 25


def test_trivial_augment_takes_an_operation_as_often_as_another():
    """Solarizing an image of one colour is seen, at 30 of 31 magnitudes."""
    plain = Image.new("RGB", (SIZE, SIZE), (10, 100, 255))
    found = many(lambda rng: AUGMENTATIONS["trivial"](plain, rng), 2000)
    is_solarized = (found[..., 2] == 0).all((1, 2)) & (found[:, 0, 0, 0] >= 10)
    assert is_solarized.mean() == pytest.approx(30 / 31 / 14, abs=0.018)


def test_half_of_trivial_augments_magnitudes_are_negative():
    """Of grey images, brightness makes half darker; posterizing gives 96 and 64."""
    plain = Image.new("RGB", (SIZE, SIZE), (100, 100, 100))
    found = many(lambda rng: AUGMENTATIONS["trivial"](plain, rng), 4000)
    greys = found[(found == found[:, :1, :1, :1]).all((1, 2, 3)), 0, 0, 0]
    darker = np.sum((greys < 100) & ~np.isin(greys, (0, 64, 96)))
    lighter = np.sum((greys > 100) & (greys != 155))  # solarized
    assert darker + lighter > 200
    assert 0.4 < lighter / (darker + lighter) < 0.6


def test_ink_moves_a_little_and_inverts_half():
    """The centre of mass of a square in the middle shows the shift."""
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (12, 12, 20, 20))
    found = many(lambda rng: AUGMENTATIONS["ink"](image, rng), 1000)
    inverted = found[:, 0, 0, 0] == 255
    assert 0.45 < inverted.mean() < 0.55
    upright = np.where(inverted[:, None, None], 255 - found[..., 0], found[..., 0])
    mass = upright.sum((1, 2)) / 255
    # Zooms out by 0.9 to 1.4 on either axis, so that areas shrink by up to 1.96.
    assert 64 / 1.97 < mass.min() < 64 / 1.6
    assert 64 / 0.95 < mass.max() < 64 / 0.8
    places = np.arange(32)
    for axis in (1, 2):
        centre = (upright.sum(3 - axis) * places).sum(1) / upright.sum((1, 2))
        assert 3 < np.abs(centre - 15.5).max() < 4.6


def test_half_of_the_images_are_mirrored(image):
    pixels, found = np.asarray(image), many(lambda rng: flip(image, rng), 1000)
    is_mirrored = (found == pixels[:, ::-1]).all((1, 2, 3))
    assert (is_mirrored | (found == pixels).all((1, 2, 3))).all()
    assert 460 < is_mirrored.sum() < 540


def test_a_share_of_the_images_loses_a_part():
    white = Image.new("RGB", (64, 64), "white")
    found = many(lambda rng: random_erase(white, 0.25, GREY, rng), 600)
    is_erased = (found == np.uint8(GREY)).all(-1)
    assert ((found == 255).all(-1) | is_erased).all()
    areas = is_erased.mean((1, 2))
    assert 0.19 < (areas > 0).mean() < 0.31
    areas = areas[areas > 0]
    assert 0.015 < areas.min() < 0.06
    assert 0.25 < areas.max() < 0.34
    for part in is_erased[is_erased.any((1, 2))]:  # one rectangle each
        rows, columns = part.any(1), part.any(0)
        assert part.sum() == rows.sum() * columns.sum()


# Mixing


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (6, 16, 16, 3), "uint8")
    return images, np.eye(6, dtype="float32")


def mixed(batch, mixup, cutmix, count):
    """Pairs of mixed images and labels, for as many seeds."""
    return [mix(*batch, mixup, cutmix, rng) for rng in generators(count)]


def share_of(labels):
    """The share of its own class in each label, the same in all; the rest is one."""
    shares = labels.diagonal()
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)
    own = np.eye(len(labels))
    wanted = shares[0] * own + (1 - shares[0]) * np.roll(own, 1, 0)
    np.testing.assert_allclose(labels, wanted, atol=1e-6)
    return shares[0]


def test_mixup_mixes_pixels_as_labels(batch):
    before = np.roll(batch[0], 1, 0).astype(float)
    shares = []
    for images, labels in mixed(batch, 0.2, 0.0, 60):
        share = share_of(labels)
        wanted = share * batch[0] + (1 - share) * before
        assert images.dtype == "uint8"
        assert np.abs(images - wanted).max() <= 0.51
        shares.append(share)
    # Beta(0.2, 0.2) has most of its mass at the ends, and deviates by 0.423.
    assert 0.33 < np.std(shares) < 0.5
    assert 0.3 < np.mean(shares) < 0.7


@pytest.mark.parity
def test_mixup_is_torchvisions(batch):
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = v2.MixUp(num_classes=6)
    pixels = torch.tensor(batch[0].transpose(0, 3, 1, 2), dtype=torch.float32)
    own = torch.arange(6)
    for images, labels in mixed(batch, 1.0, 0.0, 5):
        params = {"labels": own, "batch_size": 6, "lam": float(share_of(labels))}
        wanted = theirs.transform(pixels, params).numpy().transpose(0, 2, 3, 1)
        assert np.abs(images - wanted).max() <= 0.51
        np.testing.assert_allclose(labels, theirs.transform(own, params), atol=1e-6)


def test_cutmix_puts_a_part_of_the_one_before_into_each(batch):
    before = np.roll(batch[0], 1, 0)
    shares = []
    for images, labels in mixed(batch, 0.0, 1.0, 60):
        share = share_of(labels)
        is_other = (images == before).all(-1) & (before != batch[0]).any(-1)
        is_own = (images == batch[0]).all(-1)
        assert (is_other | is_own).all()
        assert is_other[0].mean() == pytest.approx(1 - share, abs=1e-6)
        rows, columns = is_other[0].any(1), is_other[0].any(0)
        assert is_other[0].sum() == rows.sum() * columns.sum()
        shares.append(share)
    assert len(set(shares)) > 30


def test_cutmix_parts_have_the_sizes_of_the_papers_algorithm(batch):
    """Yun et al., 2019, algorithm A1, for uniform shares, computed by NumPy."""
    rng, side = np.random.default_rng(0), 16
    reach = (0.5 * np.sqrt(1 - rng.random(50_000)) * side).astype(int)
    area = 1
    for _ in range(2):
        middle = rng.integers(0, side, 50_000)
        low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach, side)
        area = area * (high - low)
    expected = 1 - area / side**2
    shares = [labels[0, 0] for _, labels in mixed(batch, 0.0, 1.0, 1000)]
    assert np.mean(shares) == pytest.approx(expected.mean(), abs=0.04)
    assert np.std(shares) == pytest.approx(expected.std(), rel=0.1)


@pytest.mark.parity
def test_an_erased_part_is_torchvisions(image):
    """Given the same part, after normalising as before."""
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchvision.transforms.functional")
    for rng in generators(20):
        found = np.array(random_erase(image, 1 - 1e-9, GREY, rng))
        is_erased = (found == np.uint8(GREY)).all(-1)
        (top, left), shape = (f(np.argwhere(is_erased), 0) for f in (np.min, np.max))
        height, width = shape + 1 - (top, left)
        normalised = functional.normalize(functional.to_tensor(image), MEAN, STD)
        theirs = functional.erase(
            normalised, top, left, height, width, torch.zeros(3, 1, 1)
        )
        ours = functional.normalize(functional.to_tensor(found), MEAN, STD)
        # The colour of the mean is rounded to whole numbers.
        assert np.abs((ours - theirs).numpy()).max() <= 0.5 / 255 / min(STD) + 1e-6


@pytest.mark.parity
def test_cutmix_parts_are_distributed_as_torchvisions(batch):
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = v2.CutMix(alpha=1.0, num_classes=6)
    image = torch.zeros(6, 3, 16, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wanted = [theirs.make_params([image])["lam_adjusted"] for _ in range(2000)]
    found = [labels[0, 0] for _, labels in mixed(batch, 0.0, 1.0, 2000)]
    assert np.mean(found) == pytest.approx(np.mean(wanted), abs=0.02)
    assert np.std(found) == pytest.approx(np.std(wanted), rel=0.08)


def test_with_both_a_batch_takes_one_and_with_none_it_stays(batch):
    before = np.roll(batch[0], 1, 0)
    is_cut = [
        ((images == before) | (images == batch[0])).all()
        for images, _ in mixed(batch, 1.0, 1.0, 60)
    ]
    assert 18 < sum(is_cut) < 42
    for array, expected in zip(mixed(batch, 0.0, 0.0, 1)[0], batch, strict=True):
        np.testing.assert_array_equal(array, expected)
