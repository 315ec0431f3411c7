"""The rows of feature files that are nearest to vectors, exactly."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from resnext_keras.arguments import positive_integer
from resnext_keras.features.parquet import count_rows, iterate, optional

MOST_IN_NUMPY = 100_000
"""Rows that NumPy compares; of more, faiss does it on all cores."""

BATCH_ROWS = 8192
"""Rows in memory at a time: 67 MB of 2048 numbers."""


@dataclass(frozen=True)
class Match:
    """An image that is near.

    Attributes:
        path: Its file, as the index has it.
        similarity: Cosine of the angle between the vectors, -1 to 1.
        index: The feature file that it is in.
    """

    path: str
    similarity: float
    index: str | os.PathLike


def nearest(
    queries: np.ndarray,
    indexes: Sequence[str | os.PathLike],
    top: int = 10,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[list[Match]]:
    """Finds the rows whose vectors point most nearly where the queries do.

    All rows are compared, a batch in memory at a time. Vectors of zeros are unlike
    everything, with similarity 0; those with NaN or infinities are left out.

    Args:
        queries: (queries, features), finite.
        indexes: Feature files, as `resnext-keras extract` writes them.
        top: Number of rows to find for each query; fewer where there are fewer.
        progress: Called with the number of rows that were compared since the last
            call.

    Returns:
        For each query the `Match`es by falling similarity; among equals the first
        row of the first file comes first.

    Raises:
        ValueError: The shapes do not fit, a query is not finite, or `top` is no
            positive integer.
        ImportError: There are more than 100,000 rows, and faiss is not installed.
    """
    top = positive_integer("top", top)
    queries = np.array(queries, "float32")
    if queries.ndim != 2 or not np.isfinite(queries).all():
        raise ValueError(
            "Expected `queries` to be finite, of shape (queries, features). "
            f"Received: queries.shape={queries.shape}"
        )
    _to_unit_length(queries)
    is_small = check_rows(indexes) <= MOST_IN_NUMPY
    best_of = _best_in_numpy if is_small else _best_in_faiss
    best = [[] for _ in queries]
    for index in indexes:
        for paths, features in iterate(index, BATCH_ROWS):
            if features.shape[1:] != queries.shape[1:]:
                raise ValueError(
                    f"Expected vectors of {queries.shape[1]} numbers. "
                    f"Received: {features.shape[1]} in {os.fspath(index)!r}"
                )
            progress(len(paths))
            vectors = features.astype("float32")
            finite = _to_unit_length(vectors)
            if not finite.all():
                vectors, paths = vectors[finite], list(compress(paths, finite))
            if not paths:
                continue
            found = best_of(queries, vectors, min(top, len(paths)))
            for matches, similarities, numbers in zip(best, *found, strict=True):
                matches += [
                    Match(paths[number], float(similarity), index)
                    for similarity, number in zip(similarities, numbers, strict=True)
                ]
                # Stable, so that what came first stays first among equals.
                matches.sort(key=lambda match: -match.similarity)
                del matches[top:]
    return best


def check_rows(indexes: Sequence[str | os.PathLike]) -> int:
    """Number of rows of feature files; an `ImportError` where they need faiss."""
    rows = sum(map(count_rows, indexes))
    if rows > MOST_IN_NUMPY:
        optional("faiss")
    return rows


def _to_unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors in place; gives which were finite. The others are 0 then."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    finite = np.ones(len(vectors), bool)
    # Of very large and small numbers the squares have no float32. They are rare, and
    # so are zeros: a second look at them alone costs nothing.
    odd = np.flatnonzero(~((squares > 1e-30) & (squares < 1e30)))
    if odd.size:
        finite[odd] = np.isfinite(vectors[odd]).all(axis=1)
        vectors[~finite] = 0
        largest = np.abs(vectors[odd]).max(axis=1, keepdims=True)
        vectors[odd] /= np.where(largest > 0, largest, 1)
        squares[odd] = np.square(vectors[odd]).sum(axis=1)
        squares[squares == 0] = 1
    vectors /= np.sqrt(squares)[:, np.newaxis]
    return finite


def _best_in_numpy(queries, vectors, count) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and numbers of the `count` nearest vectors, (queries, count)."""
    similarities = queries @ vectors.T
    numbers = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(similarities, numbers, axis=1).clip(-1, 1), numbers


def _best_in_faiss(queries, vectors, count) -> tuple[np.ndarray, np.ndarray]:
    """The same with faiss."""
    faiss = optional("faiss")
    inner = faiss.METRIC_INNER_PRODUCT
    similarities, numbers = faiss.knn(queries, vectors, count, metric=inner)
    return similarities.clip(-1, 1), numbers
