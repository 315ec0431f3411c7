"""A search finds the nearest rows, exactly, and refuses what does not go together."""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from feature_files import DIGITS, pooled_features, write_features
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from resnext_keras.classifier import load_classifier
from resnext_keras.digits import held_out_digits
from resnext_keras.features.nearest import nearest
from resnext_keras.features.similarity import search
from resnext_keras.images.listing import readable
from resnext_keras.images.read import ImageError

rows_module = sys.modules[nearest.__module__]


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(500, 24)).astype("float32")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 64)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of forty digits as images, and a file of their features."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = held_out_digits()
    files = [folder / f"{labels[n]}_{n}.png" for n in range(40)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image).save(file)
    write_features(folder / "digits.parquet", pooled_features(files), files)
    return folder


def paths_and_similarities(matches):
    return [m.path for m in matches], [m.similarity for m in matches]


def found_by_sklearn(vectors, queries, top):
    neighbours = NearestNeighbors(n_neighbors=top, metric="cosine").fit(vectors)
    distances, numbers = neighbours.kneighbors(queries)
    return 1 - distances, [[f"{n}.png" for n in row] for row in numbers]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_nearest_are_those_of_scikit_learn(vectors, tmp_path, dtype):
    vectors = vectors.astype(dtype)
    index = write_features(tmp_path / "a.parquet", vectors)
    queries = vectors[[7, 400]].astype("float32") + 0.1
    similarities, paths = found_by_sklearn(vectors.astype("float32"), queries, 20)
    for row, matches in enumerate(nearest(queries, [index], 20)):
        found, close = paths_and_similarities(matches)
        assert found == paths[row]
        np.testing.assert_allclose(close, similarities[row], atol=1e-6)


def test_several_files_are_one_collection(vectors, tmp_path):
    parts = [
        write_features(
            tmp_path / f"{start}.parquet",
            vectors[start : start + 300],
            [f"{n}.png" for n in range(start, min(start + 300, 500))],
        )
        for start in (0, 300)
    ]
    whole = write_features(tmp_path / "whole.parquet", vectors)
    (found,), (expected,) = (nearest(vectors[:1], i, 30) for i in (parts, [whole]))
    assert paths_and_similarities(found) == paths_and_similarities(expected)
    assert {match.index for match in found} == set(parts)


@pytest.mark.parity
def test_faiss_finds_what_numpy_finds(vectors, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    index = write_features(tmp_path / "a.parquet", vectors)
    expected = nearest(vectors[:5], [index], 25)
    monkeypatch.setattr(rows_module, "MOST_IN_NUMPY", 499)
    monkeypatch.setattr(rows_module, "_best_in_numpy", None)
    for found, matches in zip(nearest(vectors[:5], [index], 25), expected, strict=True):
        assert [m.path for m in found] == [m.path for m in matches]
        np.testing.assert_allclose(
            [m.similarity for m in found],
            [m.similarity for m in matches],
            atol=1e-6,
        )


def test_without_faiss_many_rows_name_the_extra(vectors, tmp_path, monkeypatch):
    index = write_features(tmp_path / "a.parquet", vectors)
    monkeypatch.setattr(rows_module, "MOST_IN_NUMPY", 499)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"faiss.*resnext-keras\[features\]"):
        nearest(vectors[:1], [index])
    monkeypatch.setattr(rows_module, "MOST_IN_NUMPY", 500)
    compared = []
    assert len(nearest(vectors[:1], [index], progress=compared.append)[0]) == 10
    assert sum(compared) == 500


def test_odd_vectors_do_not_break_a_search(vectors, tmp_path):
    odd = vectors[:6].copy()
    odd[1] = 0
    odd[2, 3] = np.nan
    odd[3, 3] = -np.inf
    odd[4] = odd[0] * np.float32(1e30)  # whose square no float32 holds
    odd[5] = odd[0] * np.float32(1e-30)
    index = write_features(tmp_path / "a.parquet", odd)
    paths, similarities = paths_and_similarities(nearest(odd[:1], [index])[0])
    assert {*paths[:3]} == {"0.png", "4.png", "5.png"}
    assert paths[3:] == ["1.png"]
    np.testing.assert_allclose(similarities, [1, 1, 1, 0], atol=1e-6)
    (matches,) = nearest(np.zeros((1, 24)), [index])
    assert [match.similarity for match in matches] == [0] * 4
    only = write_features(tmp_path / "nan.parquet", odd[2:3])
    assert nearest(odd[:1], [only]) == [[]]


@pytest.mark.parametrize(
    ("queries", "top", "told"),
    [
        (np.ones(24), 1, "shape"),
        (np.full((1, 24), np.nan), 1, "finite"),
        (np.ones((1, 23)), 1, "23 numbers.*24 in"),
        (np.ones((1, 24)), 0, "`top`"),
    ],
)
def test_bad_queries_are_refused(vectors, tmp_path, queries, top, told):
    index = write_features(tmp_path / "a.parquet", vectors)
    with pytest.raises(ValueError, match=told):
        nearest(queries, [index], top)


def test_a_image_finds_itself_and_then_images_of_its_kind(digits):
    (image,) = digits.glob("*_20.png")
    found = search(image, [digits / "digits.parquet"], top=3)
    assert found.rows == 40
    assert found.weights == "resnext11_8x4d.digits"
    first, *others = found.matches
    assert first.path == str(image)
    assert first.similarity == pytest.approx(1, abs=1e-5)
    kind = image.name[0]
    assert [match.path.split("/")[-1][0] for match in others] == [kind] * 2
    assert found.sheet().height > 150


def test_relative_paths_are_looked_for_by_the_index(digits, tmp_path, monkeypatch):
    files = sorted(digits.glob("*.png"))[:4]
    names = [file.name for file in files]
    write_features(digits / "names.parquet", pooled_features(files), names)
    monkeypatch.chdir(tmp_path)
    found = search(files[0], [digits / "names.parquet"])
    assert found.page().count("data:image/jpeg") == 5


def test_a_image_that_is_gone_is_a_grey_tile(digits, tmp_path):
    files = sorted(digits.glob("*.png"))[:3]
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    paths = [files[0], tmp_path / "gone.png", broken]
    write_features(tmp_path / "a.parquet", pooled_features(files), paths)
    found = search(files[0], [tmp_path / "a.parquet"])
    page = found.page()
    assert page.count("data:image/jpeg") == 2
    assert page.count('<div class="gone">') == 2
    assert "no image any more" in page
    sheet = np.asarray(found.sheet())
    assert (sheet[50, 450] == 208).all()


def with_weights(source, path, sha256):
    plain = source.preprocessing | {"resize": 32}
    return dataclasses.replace(
        source, weights=str(path), weights_sha256=sha256, preprocessing=plain
    )


def test_other_networks_are_refused(digits, vectors, tmp_path):
    index = digits / "digits.parquet"
    image = next(digits.glob("*.png"))
    other = dataclasses.replace(DIGITS, architecture="resnext50_32x4d")
    other_index = write_features(
        tmp_path / "other.parquet", np.ones((2, 1024), "float32"), source=other
    )
    for told, indexes in {
        "architecture resnext11_8x4d .*and resnext50_32x4d": [index, other_index],
        "resnext50_32x4d": [other_index],
        "length.*1024. Received: 24": [
            write_features(tmp_path / "24.parquet", vectors)
        ],
        "at least one": [],
    }.items():
        with pytest.raises(ValueError, match=told):
            search(image, indexes)


def test_weights_that_are_gone_or_others_are_refused(digits, tmp_path):
    image = next(digits.glob("*.png"))
    weights = tmp_path / "own.weights.h5"
    features = np.ones((2, 1024), "float32")
    source = with_weights(DIGITS, weights, "ab" * 32)
    index = write_features(tmp_path / "a.parquet", features, source=source)
    with pytest.raises(ValueError, match=r"own.weights.h5.*no such file"):
        search(image, [index])
    weights.write_bytes(b"others")
    with pytest.raises(ValueError, match=r"SHA-256 abab"):
        search(image, [index])
    source = with_weights(DIGITS, weights, "cd" * 32)
    second = write_features(tmp_path / "b.parquet", features, source=source)
    with pytest.raises(ValueError, match=r"were others for .*a.parquet"):
        search(image, [index, second])


def test_weights_of_ones_own_are_found_by_their_file(digits, tmp_path):
    weights = tmp_path / "own.weights.h5"
    load_classifier(weights="digits").model.save_weights(weights)
    files = sorted(digits.glob("*.png"))[:4]
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    index = write_features(
        tmp_path / "a.parquet",
        pooled_features(files, weights),
        files,
        with_weights(DIGITS, weights, sha256),
    )
    assert search(files[1], [index]).matches[0].path == str(files[1])


def test_no_images_and_no_image_are_said(digits, tmp_path):
    empty = write_features(tmp_path / "a.parquet", np.ones((0, 1024), "float32"))
    image = next(digits.glob("*.png"))
    with pytest.raises(ValueError, match=r"none in '.*a.parquet'"):
        search(image, [empty])
    with pytest.raises(ImageError, match="no such file"):
        search("nowhere.png", [digits / "digits.parquet"])
    with pytest.raises(ValueError, match="resnext-keras extract"):
        search(image, [image])


def test_a_found_image_whose_name_is_no_utf8_is_drawn(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (query, *_) = sorted(digits.glob("*.png"))
    names = [os.fsdecode(b"a\xff\xc3\xa9.png"), r"b\xff.png"]
    for name in names:
        Path(name).write_bytes(query.read_bytes())
    index = write_features(
        tmp_path / "odd.parquet", pooled_features([query] * 2), map(readable, names)
    )
    page = search(query, [index]).page()
    assert page.count("data:image/jpeg") == 3
    assert "gone</div>" not in page
