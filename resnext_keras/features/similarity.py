"""Searches a collection for the images that are most similar to an image."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from resnext_keras.arguments import positive_integer
from resnext_keras.features.extractor import Extractor
from resnext_keras.features.parquet import (
    Provenance,
    open_features,
    optional,
    read_features,
)
from resnext_keras.html import checked_outputs, data_uri, render, write_outputs
from resnext_keras.images.draw import contact_sheet
from resnext_keras.images.listing import readable, spellings
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import ImageError, read_image
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.progress import Progress

SIDE = 192
"""Height and width of the drawn images, in pixels."""

GREY = np.full((SIDE, SIDE, 3), 208, "uint8")

ROUNDING = 1e-5
"""An upper bound for the rounding error of faiss' float32 similarities."""


@dataclasses.dataclass(frozen=True)
class Match:
    """An image of a collection.

    Attributes:
        path: Path of the image in the feature file.
        similarity: Cosine of the angle between the features, -1 to 1.
        index: The feature file.
    """

    path: str
    similarity: float
    index: str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Search:
    """An image, and the images that are most similar to it.

    Attributes:
        image: Path of the image.
        weights: Name of the network's weight set, or path of its weight file.
        rows: Number of images that were compared.
        matches: The most similar images, highest similarity first.
        files: The files that were written.
    """

    image: str | os.PathLike
    weights: str
    rows: int
    matches: tuple[Match, ...]
    files: tuple[Path, ...] = ()

    @functools.cached_property
    def _tiles(self) -> list[tuple[np.ndarray, str]]:
        """The image of each match and ""; or a grey tile, and why it is missing."""
        return [_tile(match) for match in self.matches]

    def sheet(self) -> Image.Image:
        """Draws the image, then the matches with ranks and similarities.

        A match that can no longer be read is a grey tile with a note.
        """
        images, captions = [_read(self.image)], ["query"]
        for rank, match in enumerate(self.matches, 1):
            image, note = self._tiles[rank - 1]
            images.append(image)
            captions.append(f"{rank}: {match.similarity:.3f}{note and ', ' + note}")
        return contact_sheet(images, captions, columns=6, size=SIDE)

    def page(self) -> str:
        """Draws the same as an HTML page, and returns the HTML."""
        return render(
            "search.html",
            name=readable(self.image),
            image=_uri(_read(self.image)),
            rows=self.rows,
            weights=readable(self.weights),
            matches=[
                (readable(match.path), match.similarity, note, _uri(image))
                for match, (image, note) in zip(self.matches, self._tiles, strict=True)
            ],
        )


def search(
    image: str | os.PathLike,
    indexes: Sequence[str | os.PathLike] | str | os.PathLike,
    top: int = 10,
    *,
    output: str | os.PathLike | None = None,
    html: bool = False,
    overwrite: bool = False,
) -> Search:
    """Finds the images of a collection that are most similar to an image.

    The features of the image are computed with the network of the collection's
    features, in float32. All images of the collection are compared; the memory does not
    grow with their number.

    Args:
        image: Path of the image.
        indexes: Feature files from `extract`, all of the same network.
        top: Number of images to find, at least 1.
        output: A .png file to draw the image and the matches into; None for no file.
        html: Whether to also write an .html page with the same name.
        overwrite: Whether to replace existing files.

    Returns:
        The `Search`, with its `matches`.

    Raises:
        ImageError: The file is not an image.
        ValueError: A file is not from `extract`, two files are from different networks,
            they hold no images, the network's weights are missing or have changed, or
            an output cannot be written.
        ImportError: pyarrow or faiss is not installed, or jinja2 for `html`.
    """
    optional("pyarrow")
    optional("faiss")
    top = positive_integer("top", top)
    if isinstance(indexes, (str, os.PathLike)):
        indexes = [indexes]
    files = checked_outputs(output, html, overwrite)
    provenance, rows = _provenance_and_rows(indexes)
    pixels = read_image(image, Preprocessing(**provenance.preprocessing))
    (query,) = _extractor_of(provenance, indexes[0]).features(pixels[np.newaxis])
    matches = nearest(query, indexes, rows, top)
    result = Search(image, provenance.weights, rows, tuple(matches), tuple(files))
    write_outputs(result, files)
    return result


def nearest(
    query: np.ndarray, indexes: Sequence[str | os.PathLike], rows: int, top: int
) -> list[Match]:
    """Finds the rows of feature files with the largest cosine similarity to a vector.

    `query` is (features,), finite; `rows` is the number of rows in all files. Returns
    the matches, highest similarity first; of equal ones the row of the earlier file
    first, then the earlier row. A vector of zeros has similarity 0. Vectors with NaN or
    infinity are left out.
    """
    faiss = optional("faiss")
    query = np.array(query, "float32")[np.newaxis]
    faiss.normalize_L2(query)
    best = []
    with Progress("comparing", rows) as progress:
        for index in indexes:
            for paths, features in read_features(index):
                vectors = features.astype("float32")
                with np.errstate(invalid="ignore"):
                    faiss.normalize_L2(vectors)
                flat = faiss.IndexFlatIP(query.shape[1])
                flat.add(vectors)
                threshold = best[-1].similarity if len(best) == top else -2
                _, _, near = flat.range_search(query, threshold - ROUNDING)
                # faiss may round equal rows differently, and so change their order.
                exact = (vectors[near].astype("float64") * query).sum(axis=1)
                best += [
                    Match(paths[row], float(similarity), index)
                    for row, similarity in zip(near, exact.clip(-1, 1), strict=True)
                ]
                best.sort(key=lambda match: -match.similarity)  # stable
                del best[top:]
                progress.update(len(paths))
    return best


def _provenance_and_rows(
    indexes: Sequence[str | os.PathLike],
) -> tuple[Provenance, int]:
    """Provenance and number of rows of files, which have to be of one network."""
    if not indexes:
        raise ValueError("Expected at least one file of features. Received: indexes=[]")
    provenances, rows = [], 0
    for index in indexes:
        with open_features(index) as (file, provenance):
            provenances.append(provenance)
            rows += file.metadata.num_rows
        _check_network(provenances[0], indexes[0], provenance, index)
    if not rows:
        paths = ", ".join(repr(os.fspath(index)) for index in indexes)
        raise ValueError(f"Expected features of images. Received: none in {paths}")
    return provenances[0], rows


def _check_network(first: Provenance, first_file, other: Provenance, file) -> None:
    """Raises a `ValueError` unless two provenances are of the same network."""
    for name, value in first.network.items():
        if value != other.network[name]:
            raise ValueError(
                "Expected features from one network; extract them again, or put the "
                f"weights back. Received: {name} {value!r} in {str(first_file)!r} "
                f"and {other.network[name]!r} in {str(file)!r}"
            )


def _extractor_of(provenance: Provenance, index: str | os.PathLike) -> Extractor:
    """The network of an index; a `ValueError` if its weights are missing or others."""
    if provenance.weights_sha256 and not os.path.isfile(provenance.weights):
        raise ValueError(
            f"Expected the weights of the features in {str(index)!r}; put them back, "
            f"or extract the features again. Received: no file {provenance.weights!r}"
        )
    # A training run may have a spec that is not in the table; its folder has the spec.
    known = provenance.architecture in ARCHITECTURES
    model = provenance.architecture if known else None
    # For a single image TensorFlow is the fastest: other engines take long to load.
    extractor = Extractor(model, provenance.weights, engine="tensorflow")
    # The rows may be in another precision; their cosines to float32 are near 1.
    found = dataclasses.replace(
        extractor.provenance,
        precision=provenance.precision,
        calibrated_sha256=provenance.calibrated_sha256,
    )
    _check_network(provenance, index, found, provenance.weights)
    return extractor


def _tile(match: Match) -> tuple[np.ndarray, str]:
    # The folder that `extract` ran in is not known. So a relative path is looked for in
    # the current folder, then in that of the feature file.
    for folder, name in itertools.product(
        (Path(), Path(match.index).parent), spellings(match.path)
    ):
        path = folder / name
        if path.exists():
            try:
                return _read(path), ""
            except ImageError:
                return GREY, "no longer an image"
    return GREY, "file missing"


def _read(path) -> np.ndarray:
    return read_image(path, Preprocessing(SIDE, SIDE))


def _uri(image: np.ndarray) -> str:
    return data_uri(Image.fromarray(image))
