"""Evaluation gives the predictions and the accuracy of torchvision's and timm's."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from resnext_keras import ResNeXtSpec
from resnext_keras.classifier import load_classifier
from resnext_keras.images.labels import wordnet_ids
from resnext_keras.training.data.label_mapping import map_labels
from resnext_keras.training.data.splits import open_split
from resnext_keras.training.evaluation import evaluate_images
from resnext_keras.weights.registry import WEIGHT_SETS

pytestmark = pytest.mark.parity

SPEC = ResNeXtSpec("resnext14_8x4d", (1, 1, 1, 1), 8, 4)  # ResNeXt-50 takes minutes
COUNT, CELLS = 150, 3


def draw_image(photos, rng):
    """A part of a photo at another scale, as a JPEG's pixels, and where it was cut."""
    number = rng.integers(len(photos))
    photo = photos[number]
    sides = min(photo.size) * rng.uniform(0.3, 0.7) * rng.uniform(0.7, 1.3, 2)
    sides = np.minimum(sides, photo.size)
    corner = rng.uniform(0, photo.size - sides)
    cell = ((corner + sides / 2) / photo.size * CELLS).astype(int)
    size = np.round(sides * rng.uniform(180, 500) / min(sides)).astype(int)
    part = photo.resize(size, box=(*corner, *(corner + sides)))
    light = rng.uniform(0.8, 1.1) * np.asarray(part) + rng.uniform(-20, 20, 3)
    pixels = np.clip(light, 0, 255).astype("uint8")
    return pixels, (number * CELLS + cell[0]) * CELLS + cell[1]


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory):
    """JPEGs of many kinds, in folders by where they were cut from, as WordNet ids."""
    skimage = pytest.importorskip("skimage.data")
    shipped = [getattr(skimage, n)() for n in ("astronaut", "chelsea", "coffee")]
    photos = [*photos, *map(Image.fromarray, shipped)]
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("imagenet") / "val"
    for number in range(COUNT):
        pixels, place = draw_image(photos, rng)
        path = folder / wordnet_ids()[20 * place] / f"{number:03}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(
            path,
            quality=int(rng.integers(60, 99)),
            subsampling=("4:2:0", "4:4:4")[number % 4 == 0],
            progressive=bool(number % 10 == 0),
        )
    return folder


def references():
    torchvision = pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")
    resnet = torchvision.models.resnet
    sizes = torchvision.models.ResNeXt50_32X4D_Weights
    cut = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.95}
    theirs, timms = resnet.ResNet, timm.models.resnet
    options = {"groups": 8, "width_per_group": 4}
    return {
        "tv2_in1k": (
            theirs(resnet.Bottleneck, SPEC.depths, **options),
            sizes.IMAGENET1K_V2.transforms(),
        ),
        "a3_in1k": (
            timms.ResNet(timms.Bottleneck, SPEC.depths, cardinality=8, base_width=4),
            timm.data.create_transform(is_training=False, **cut),
        ),
    }


def scores_of(network, transform, data):
    """As the evaluation scripts of both libraries do it."""
    torch = pytest.importorskip("torch")
    from torchvision.datasets import ImageFolder

    loader = torch.utils.data.DataLoader(ImageFolder(data, transform), 32)
    with torch.inference_mode():
        found = [(network(images), labels) for images, labels in loader]
    return (np.concatenate(arrays) for arrays in zip(*found, strict=True))


@pytest.fixture(scope="module")
def state(data):
    """Random filters with the statistics of the images, and a fitted classifier."""
    torch = pytest.importorskip("torch")
    network, transform = references()["tv2_in1k"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # the mean of all batches
    head, network.fc = network.fc, torch.nn.Identity()
    scores_of(network.train(), transform, data)
    features, labels = scores_of(network.eval(), transform, data)
    # Ridge regression on half of the images: of the others some are misjudged.
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    known = ((features - mean) / deviation)[::2]
    truth = np.eye(labels.max() + 1)[labels[::2]]
    inverse = np.linalg.inv(known @ known.T + 300 * np.eye(len(known)))
    weights = 15 * (known.T @ inverse @ (truth - truth.mean(0))).T / deviation
    bias = 15 * truth.mean(0) - weights @ mean
    classes = [wordnet_ids().index(path.name) for path in sorted(data.iterdir())]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-30)
        head.weight[classes] = torch.tensor(weights, dtype=torch.float32)
        head.bias[classes] = torch.tensor(bias, dtype=torch.float32)
    network.fc = head
    return network.state_dict()


@pytest.mark.parametrize("name", ["tv2_in1k", "a3_in1k"])
def test_predictions_are_those_of_the_library(name, data, state, tmp_path):
    torch = pytest.importorskip("torch")
    network, transform = references()[name]
    network.load_state_dict(state)
    torch.save(state, tmp_path / "weights.pth")
    logits, _ = scores_of(network.eval(), transform, data)
    expected = logits.argmax(1)

    classifier = load_classifier(SPEC, tmp_path / "weights.pth")
    reading = WEIGHT_SETS[f"resnext50_32x4d.{name}"].preprocessing
    classifier = dataclasses.replace(classifier, preprocessing=reading)
    dataset, how = map_labels(open_split(data), classifier.class_names)
    found = evaluate_images(classifier, dataset, engine="tensorflow").predictions

    assert how == "by WordNet ids"
    assert len(np.unique(expected)) > 20
    assert 0.5 < found.accuracy() < 0.99
    assert (found.predicted == expected).mean() >= 0.999
    torchs = torch.tensor(logits).softmax(1).max(1).values.numpy()
    np.testing.assert_allclose(found.confidence, torchs, atol=1e-4)
    assert abs(found.accuracy() - (expected == found.labels).mean()) <= 0.001
    ranks = (-logits).argsort(1, kind="stable")[:, :5]
    top5 = (ranks == found.labels[:, None]).any(1).mean()
    assert abs(found.accuracy(5) - top5) <= 0.001
