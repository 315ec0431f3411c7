"""Images like an image, in collections whose features were extracted."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pooch
from PIL import Image

from resnext_keras.features.extractor import FeatureNetwork, load_network
from resnext_keras.features.nearest import Match, check_rows, nearest
from resnext_keras.features.parquet import Provenance, read_provenance
from resnext_keras.html import data_uri, render
from resnext_keras.images.draw import contact_sheet
from resnext_keras.images.listing import readable, spellings
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.images.read import ImageError, read_image
from resnext_keras.models.data_format import to_data_format
from resnext_keras.weights.registry import WEIGHT_SETS

SIDE = 192
"""Pixels that a found image is drawn at."""

GREY = np.full((SIDE, SIDE, 3), 208, "uint8")

# What two sources have to have in common for their features to be compared.
IDENTITY = ("architecture", "weights", "preprocessing", "pooling", "length")


@dataclasses.dataclass(frozen=True)
class Search:
    """An image, and what is like it.

    Attributes:
        path: The image's file.
        weights: Name of the weight set that sees it, or path of the file.
        rows: Number of images that were compared.
        matches: The nearest of them, the nearest first.
    """

    path: str | os.PathLike
    weights: str
    rows: int
    matches: tuple[Match, ...]

    def sheet(self) -> Image.Image:
        """The image, and after it those found, with ranks and similarities.

        One that cannot be read any more is a grey tile that says so.
        """
        drawn = [_drawn(match) for match in self.matches]
        captions = [
            f"{rank}: {match.similarity:.3f}{note and ', ' + note}"
            for rank, (match, (_, note)) in enumerate(
                zip(self.matches, drawn, strict=True), 1
            )
        ]
        images = [GREY if image is None else image for image, _ in drawn]
        return contact_sheet(
            [_read(self.path), *images], ["query", *captions], columns=6, size=SIDE
        )

    def page(self) -> str:
        """An HTML page of all this, with the images in it."""
        matches = []
        for match in self.matches:
            image, note = _drawn(match)
            matches.append(
                {
                    "image": None if image is None else _uri(image),
                    "note": note,
                    "name": readable(match.path),
                    "similarity": match.similarity,
                }
            )
        return render(
            "search.html",
            name=readable(self.path),
            image=_uri(_read(self.path)),
            rows=self.rows,
            weights=readable(self.weights),
            matches=matches,
        )


def search(
    path: str | os.PathLike,
    indexes: Sequence[str | os.PathLike],
    top: int = 10,
    progress: Callable[[int], object] = lambda rows: None,
) -> Search:
    """Finds the images that a network sees as most like an image.

    The network is the one that the features are from.

    Args:
        path: The image, a file as `read_image` takes it.
        indexes: Feature files of one network, as `resnext-keras extract` writes
            them.
        top: Number of images to find.
        progress: Called with the number of images that were compared since the
            last call.

    Raises:
        ImageError: The file is no image.
        ValueError: A file is none of features, they are of different networks or
            hold no image, or the network's weights are gone or others now.
        ImportError: pyarrow is not installed, or for more than 100,000 images
            faiss.
    """
    source = common_provenance(indexes)
    rows = check_rows(indexes)
    if not rows:
        raise ValueError(
            f"Expected features of images. Received: none in {_listed(indexes)}"
        )
    image = read_image(path, Preprocessing(**source.preprocessing))
    network = network_of(source)
    features = network.features(preprocess_input(to_data_format(image[np.newaxis])))
    (matches,) = nearest(features, indexes, top, progress)
    return Search(path, source.weights, rows, tuple(matches))


def common_provenance(indexes: Sequence[str | os.PathLike]) -> Provenance:
    """What the features of several files come from, or why they do not go together."""
    if not indexes:
        raise ValueError("Expected at least one file of features. Received: indexes=[]")
    first, *others = (read_provenance(index) for index in indexes)
    for index, other in zip(indexes[1:], others, strict=True):
        same_file = first.weights_sha256 and (
            first.weights_sha256 == other.weights_sha256
        )
        for field in IDENTITY:
            values = getattr(first, field), getattr(other, field)
            if values[0] != values[1] and not (field == "weights" and same_file):
                told = [
                    f"{value} in {os.fspath(path)!r}"
                    for value, path in zip(values, (indexes[0], index), strict=True)
                ]
                raise ValueError(
                    f"Expected files of one network's features. Received: {field} "
                    + " and ".join(told)
                )
        if first.weights_sha256 != other.weights_sha256:
            raise ValueError(
                f"Expected files of one network's features. The weights "
                f"{first.weights!r} were others for {os.fspath(indexes[0])!r} than for "
                f"{os.fspath(index)!r}; extract one of them again"
            )
    return first


def network_of(source: Provenance) -> FeatureNetwork:
    """The network that features are from.

    Raises:
        ValueError: Its weights are gone or others now, or this package has no such
            network.
    """
    remedy = "Extract the features again, or put the weights back"
    if source.weights_sha256 is not None or source.weights not in WEIGHT_SETS:
        if not Path(source.weights).is_file():
            raise ValueError(
                "Expected the weights that the features are from at "
                f"{source.weights!r}. Found: no such file. {remedy}"
            )
        found = pooch.file_hash(source.weights, "sha256")
        if found != source.weights_sha256:
            raise ValueError(
                "Expected the weights that the features are from, of SHA-256 "
                f"{source.weights_sha256}, at {source.weights!r}. Found: {found}. "
                f"{remedy}"
            )
    # One image is seen before another engine has read the network.
    network = load_network(source.architecture, source.weights, engine="tensorflow")
    for field in IDENTITY:
        expected, found = getattr(network.source, field), getattr(source, field)
        if field != "weights" and expected != found:
            raise ValueError(
                f"Expected features of the {field} that {source.weights} has here, "
                f"{expected}. Received: {found}. Extract the features again"
            )
    return network


def _drawn(match: Match) -> tuple[np.ndarray | None, str]:
    """A found image, or None and why."""
    # Of a relative path, where `extract` ran is not known: here, or by the index.
    for folder, name in itertools.product(
        (Path(), Path(match.index).parent), spellings(match.path)
    ):
        path = folder / name
        if path.exists():
            try:
                return _read(path), ""
            except ImageError:
                return None, "no image any more"
    return None, "gone"


def _read(path) -> np.ndarray:
    return read_image(path, Preprocessing(SIDE, SIDE))


def _uri(image: np.ndarray) -> str:
    return data_uri(Image.fromarray(image))


def _listed(paths) -> str:
    return ", ".join(repr(os.fspath(path)) for path in paths)
