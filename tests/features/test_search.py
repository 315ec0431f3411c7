"""A search finds the nearest rows, exactly, and refuses other networks' features."""

import dataclasses
import hashlib
import os
import sys

import numpy as np
import pytest
from feature_files import DIGITS, pooled_features, write_features
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import resnext_keras as rk
from resnext_keras.digits import held_out_digits
from resnext_keras.features import parquet, similarity
from resnext_keras.images.listing import readable


def nearest(query, indexes, top=10):
    rows = sum(map(parquet.count_rows, indexes))
    return similarity.nearest(query, indexes, rows, top)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(500, 24)).astype("float32")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(parquet, "BATCH_ROWS", 64)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of forty digits as images, and a file of their features."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = held_out_digits()
    files = [folder / f"{labels[n]}_{n}.png" for n in range(40)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image).save(file)
    write_features(folder / "digits.parquet", pooled_features(files), files)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_nearest_are_those_of_scikit_learn(vectors, tmp_path, dtype):
    vectors = vectors.astype(dtype)
    index = write_features(tmp_path / "a.parquet", vectors)
    queries = vectors[[7, 400]].astype("float32") + 0.1
    exact = NearestNeighbors(n_neighbors=20, metric="cosine").fit(vectors)
    for query, distances, rows in zip(queries, *exact.kneighbors(queries), strict=True):
        matches = nearest(query, [index], 20)
        assert [match.path for match in matches] == [f"{row}.png" for row in rows]
        similarities = [match.similarity for match in matches]
        np.testing.assert_allclose(similarities, 1 - distances, atol=1e-6)


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
    found, expected = (nearest(vectors[0], files, 30) for files in (parts, [whole]))
    assert {match.index for match in found} == set(parts)
    assert [dataclasses.replace(match, index=whole) for match in found] == expected


def test_equal_rows_come_in_the_order_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(237, 2048)).astype("float32")
    same = [3, 5, 64, 100, 190, 231, 236]  # faiss rounds the last rows differently
    vectors[same] = vectors[7]
    index = write_features(tmp_path / "a.parquet", vectors)
    query = vectors[7] + rng.normal(size=2048) / 10
    for top in (2, 5, 8, 9):
        paths = [match.path for match in nearest(query, [index], top)]
        assert paths[:8] == [f"{row}.png" for row in sorted([*same, 7])][:top]
        assert len(paths) == top


def test_odd_vectors_do_not_break_a_search(vectors, tmp_path):
    odd = vectors[:4].copy()
    odd[1] = 0
    odd[2, 3] = np.nan
    odd[3, 3] = -np.inf
    index = write_features(tmp_path / "a.parquet", odd)
    matches = nearest(odd[0], [index])
    assert [match.path for match in matches] == ["0.png", "1.png"]
    similarities = [match.similarity for match in matches]
    np.testing.assert_allclose(similarities, [1, 0], atol=1e-6)
    matches = nearest(np.zeros(24), [index])
    assert [match.similarity for match in matches] == [0, 0]
    only = write_features(tmp_path / "nan.parquet", odd[2:3])
    assert nearest(odd[0], [only]) == []


def test_an_image_finds_itself_and_then_images_of_its_kind(digits):
    (image,) = digits.glob("*_20.png")
    found = rk.search(image, digits / "digits.parquet", top=3)
    assert found.rows == 40
    assert found.weights == "resnext11_8x4d.digits"
    first, *others = found.matches
    assert first.path == str(image)
    assert first.similarity == pytest.approx(1, abs=1e-5)
    kind = image.name[0]
    assert [match.path.split("/")[-1][0] for match in others] == [kind] * 2
    assert found.sheet().height > 150
    assert found.files == ()


def test_images_are_found_beside_the_index_or_shown_as_gone(
    digits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    query, other, *_ = sorted(digits.glob("*.png"))
    names = [other.name, "gone.png", "broken.png"]
    for name in (b"a\xff\xc3\xa9.png", rb"b\xff.png"):  # the first is not UTF-8
        names.append(readable(os.fsdecode(name)))
        (digits / os.fsdecode(name)).write_bytes(query.read_bytes())
    (digits / "broken.png").write_text("no image")
    features = pooled_features([other, query])[[0, 1, 1, 1, 1]]
    index = write_features(digits / "names.parquet", features, names)
    found = rk.search(query, [index])
    assert found.matches[0].path == "gone.png"
    assert (np.asarray(found.sheet())[50, 250] == 208).all()  # a grey tile
    page = found.page()
    assert page.count("data:image/jpeg") == 4
    assert page.count('<div class="gone">') == 2
    assert "no longer an image" in page
    assert "file missing" in page


def with_weights(path, sha256):
    plain = DIGITS.preprocessing | {"resize": 32}
    return dataclasses.replace(
        DIGITS, weights=str(path), weights_sha256=sha256, preprocessing=plain
    )


def test_other_networks_are_refused_in_one_line(digits, vectors, tmp_path):
    index = digits / "digits.parquet"
    image = next(digits.glob("*.png"))
    other = dataclasses.replace(DIGITS, architecture="resnext50_32x4d")
    other_index = write_features(
        tmp_path / "other.parquet", np.ones((2, 1024), "float32"), provenance=other
    )
    for message, indexes in {
        "architecture 'resnext11_8x4d' .* and 'resnext50_32x4d'": [index, other_index],
        "resnext50_32x4d": [other_index],
        "Received: length 24 in .* and 1024": [
            write_features(tmp_path / "24.parquet", vectors)
        ],
        "at least one": [],
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            rk.search(image, indexes)
        assert "\n" not in str(caught.value)


def test_weights_that_are_gone_or_have_changed_are_refused(digits, tmp_path):
    image = next(digits.glob("*.png"))
    weights = tmp_path / "own.weights.h5"
    features = np.ones((2, 1024), "float32")
    index = write_features(
        tmp_path / "a.parquet", features, provenance=with_weights(weights, "ab" * 32)
    )
    with pytest.raises(ValueError, match=r"weights .*a\.parquet.*back.*no file .*own"):
        rk.search(image, [index])
    rk.load_classifier(weights="digits").model.save_weights(weights)
    with pytest.raises(
        ValueError, match=r"put the weights back.*'abab.*a\.parquet.*own\.weights\.h5"
    ):
        rk.search(image, [index])
    second = write_features(
        tmp_path / "b.parquet", features, provenance=with_weights(weights, "cd" * 32)
    )
    with pytest.raises(ValueError, match=r"weights 'abab.*a.parquet.*'cdcd"):
        rk.search(image, [index, second])


def test_weights_of_ones_own_are_found_by_their_file(digits, tmp_path):
    weights = tmp_path / "own.weights.h5"
    rk.load_classifier(weights="digits").model.save_weights(weights)
    files = sorted(digits.glob("*.png"))[:4]
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    index = write_features(
        tmp_path / "a.parquet",
        pooled_features(files, weights),
        files,
        with_weights(weights, sha256),
    )
    assert rk.search(files[1], [index]).matches[0].path == str(files[1])


def test_wrong_arguments_are_refused(digits):
    index = digits / "digits.parquet"
    image = next(digits.glob("*.png"))
    for message, options in (
        ("`top`", {"top": 0}),
        ("with html=True", {"html": True}),
        ("overwrite=True", {"output": image}),
    ):
        with pytest.raises(ValueError, match=message):
            rk.search(image, index, **options)


@pytest.mark.parametrize("package", ["faiss", "pyarrow"])
def test_a_missing_package_is_named_with_the_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} .*resnext-keras\[features\]"):
        rk.search("nowhere.png", "nowhere.parquet")
