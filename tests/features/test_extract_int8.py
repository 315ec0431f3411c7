"""`extract` in int8: near float32, and from one calibrated network whatever happens."""

import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from sklearn.neighbors import NearestNeighbors

import resnext_keras as rk
from resnext_keras.digits import held_out_digits
from resnext_keras.features import calibrated, extraction
from resnext_keras.features.chunks import Chunks
from resnext_keras.features.parquet import read_features, read_provenance

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),  # the converter's
]

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The held-out digits, in a folder."""
    folder = tmp_path_factory.mktemp("digits")
    for number, image in enumerate(held_out_digits()[0]):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory, photos):
    """Crops of two photos, in a folder."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for number in range(240):
        left, top, side = rng.integers((0, 0, 60), (440, 227, 200))
        crop = photos[number % 2].crop((left, top, left + side, top + side))
        crop.save(folder / f"{number:03}.png")
    return folder


def run(folder, target, **options):
    options = {"weights": "digits", "batch_size": 8, "precision": "int8"} | options
    return rk.extract(folder, target, **options)


def features_of(target):
    return np.concatenate([features for _, features in read_features(target)])


@pytest.fixture(scope="module")
def small(digits, tmp_path_factory):
    """Forty digits, and the file of their features in int8."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(40):
        shutil.copy(digits / f"{number:03}.png", folder)
    target = tmp_path_factory.mktemp("target") / "features.parquet"
    run(folder, target)
    return folder, target


def in_chunks(monkeypatch):
    monkeypatch.setattr(extraction, "CHUNK", 16)


@pytest.mark.parametrize("collection", ["digits", "crops"])
def test_features_and_neighbours_are_nearly_those_of_float32(
    collection, tmp_path, request
):
    folder = request.getfixturevalue(collection)
    vectors, neighbours = [], []
    for precision in ("float32", "int8"):
        target = tmp_path / f"{precision}.parquet"
        run(folder, target, precision=precision)
        assert read_provenance(target).precision == precision
        vectors.append(features_of(target))
        nearest = NearestNeighbors(n_neighbors=10, metric="cosine").fit(vectors[-1])
        neighbours.append(nearest.kneighbors(return_distance=False))
    lengths = np.prod([np.linalg.norm(v, axis=1) for v in vectors], axis=0)
    cosines = np.sum(vectors[0] * vectors[1], axis=1) / lengths
    same = [len(set(a) & set(b)) / 10 for a, b in zip(*neighbours, strict=True)]
    assert cosines.min() >= 0.995
    assert np.mean(same) >= 0.95


def test_large_jpegs_are_read_faster_and_recorded_as_they_are(
    photos, tmp_path, monkeypatch
):
    draft, drafted = JpegImageFile.draft, []

    def recorded(image, mode, size):
        drafted.append(size)
        return draft(image, mode, size)

    monkeypatch.setattr(JpegImageFile, "draft", recorded)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, photo in enumerate(photos):
        large = photo.crop((0, 0, 640, 424))
        large.save(tmp_path / f"{number}.jpg", exif=turned)
    vectors = {}
    for precision in ("float32", "int8"):
        target = tmp_path / f"{precision}.parquet"
        run(tmp_path, target, precision=precision)
        table = pyarrow.parquet.read_table(target)
        assert table["width"].to_pylist() == [424, 424]
        assert table["height"].to_pylist() == [640, 640]
        vectors[precision] = features_of(target)
        assert set(drafted) == ({(80, 53)} if precision == "int8" else set())
    lengths = [np.linalg.norm(v, axis=1) for v in vectors.values()]
    cosines = np.sum(np.prod(list(vectors.values()), axis=0), 1) / np.prod(lengths, 0)
    assert cosines.min() >= 0.995

    files = sorted(tmp_path.glob("*.jpg"))
    preprocessing = rk.load_classifier(weights="digits").preprocessing
    images = np.stack([rk.read_image(file, preprocessing) for file in files])
    exact = rk.ResNeXt("resnext11_8x4d", False, "digits", pooling="avg")
    expected = exact.predict(rk.preprocess_input(images), verbose=0)
    np.testing.assert_allclose(vectors["float32"], expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_uses_the_network_of_the_first(small, tmp_path, monkeypatch):
    folder, whole = small
    in_chunks(monkeypatch)
    target = tmp_path / "features.parquet"
    write = Chunks.write

    def stopped(self, number, *arguments):
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, *arguments)

    monkeypatch.setattr(Chunks, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(folder, target)
    monkeypatch.setattr(Chunks, "write", write)
    kept = calibrated.calibrated_file(target)
    before = kept.read_bytes()
    monkeypatch.setattr(calibrated, "quantize", None)  # it is not calibrated again
    run(folder, target, resume=True)
    assert kept.read_bytes() == before
    assert np.array_equal(features_of(target), features_of(whole))
    assert run(folder, target, resume=True).seconds == 0
    shutil.move(kept, tmp_path / "moved")
    with pytest.raises(ValueError, match=f"calibrated network.*no file '{kept}'"):
        run(folder, target, resume=True)


def test_an_update_uses_the_kept_network_and_search_float32(
    small, digits, tmp_path, monkeypatch
):
    folder = shutil.copytree(small[0], tmp_path / "digits")
    target = tmp_path / "features.parquet"
    run(folder, target, calibration=digits / "200.png")
    kept = calibrated.calibrated_file(target)
    assert read_provenance(target).calibrated_sha256 is not None
    before = features_of(target)
    with monkeypatch.context() as patch:
        patch.setattr(calibrated, "quantize", None)
        shutil.copy(digits / "300.png", folder / "300.png")
        result = run(folder, None, update=target)
    assert (result.kept, result.images) == (40, 41)
    assert np.array_equal(features_of(target)[:40], before)
    best, *_ = rk.search(folder / "300.png", target).matches
    assert best.path == str(folder / "300.png")
    assert 0.995 <= best.similarity < 1

    with pytest.raises(ValueError, match="calibrated_sha256"):  # of other images
        rk.search(folder / "300.png", [target, small[1]])
    shutil.copy(calibrated.calibrated_file(small[1]), kept)
    with pytest.raises(ValueError, match="calibrated_sha256"):
        run(folder, None, update=target)
    kept.unlink()
    with pytest.raises(ValueError, match="calibrated network"):
        run(folder, None, update=target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (1, 2)}, r"one calibrated network.*shard=\(1, 2\)"),
        ({"engine": "ray"}, "one calibrated network.*engine='ray'"),
        ({"engine": "tensorflow"}, "in int8: openvino, onnxruntime"),
        ({"precision": "auto"}, "must not depend on a clock"),
        ({"precision": "float32", "calibration": "a"}, "only with precision='int8'"),
        ({"calibration": "absent"}, "None of the images can be read"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    small, tmp_path, options, message
):
    target = tmp_path / "features.parquet"
    with pytest.raises(ValueError, match=message):
        run(small[0], target, **options)
    assert not list(tmp_path.iterdir())


def test_a_kept_network_is_not_replaced_unasked(small, tmp_path):
    target = tmp_path / "features.parquet"
    calibrated.calibrated_file(target).write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"overwrite=True.*features.parquet.int8.onnx"):
        run(small[0], target)
    run(small[0], target, overwrite=True)
    assert read_provenance(target).precision == "int8"
