"""`extract` writes the same file, whatever stopped the run before."""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from helpers import ROOT
from PIL import Image

import resnext_keras as rk
from resnext_keras.features import extraction
from resnext_keras.features.chunks import Chunks
from resnext_keras.features.parquet import count_rows, read_features, read_provenance
from resnext_keras.inference import predictor
from resnext_keras.models.runtime import has_onednn

pytestmark = pytest.mark.tensorflow

COUNT = 70
BROKEN = {3: b"", 17: b"no image", 40: None, 41: b"\xff\xd8\xff"}


@pytest.fixture(scope="module")
def collection(tmp_path_factory, photos):
    """Small images in folders within folders: one turned, and four broken ones."""
    folder = tmp_path_factory.mktemp("collection")
    turned = Image.Exif()
    turned[0x0112] = 6
    for number in range(COUNT):
        path = folder / "ab"[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo = photos[number % 2]
        left = 5 * number
        exif = {"exif": turned} if number == 0 else {}
        photo.crop((left, 0, left + 200, 150)).resize((64, 48)).save(path, **exif)
        if number in BROKEN:
            cut = path.read_bytes()[:-300]
            path.write_bytes(cut if BROKEN[number] is None else BROKEN[number])
    return folder


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(extraction, "CHUNK", 16)


def run(folder, target, **options):
    options = {"weights": "digits", "engine": "tensorflow", "batch_size": 8} | options
    return rk.extract([folder], target, **options)


def stopped(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(collection, tmp_path_factory):
    """The file of a run that nothing stopped."""
    target = tmp_path_factory.mktemp("whole") / "features.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "CHUNK", 16)
        run(collection, target)
    return target


def errors_of(target):
    path = target.with_suffix(".errors.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def features_of(target):
    return np.concatenate([features for _, features in read_features(target)])


def assert_as_anew(target, collection):
    """Checks the file against that of a run anew in the same batches or others."""
    anew = target.with_name("anew.parquet")
    run(collection, anew)
    assert errors_of(target) == errors_of(anew)
    if has_onednn():
        assert target.read_bytes() == anew.read_bytes()
        return
    # TensorFlow's own kernels round by the place of an image in its batch.
    found, expected = map(pyarrow.parquet.read_table, (target, anew))
    assert found.drop(["features"]).equals(expected.drop(["features"]))
    np.testing.assert_allclose(features_of(target), features_of(anew), atol=1e-5)


def good_files(collection):
    files = sorted(collection.rglob("*.jpg"))
    return [file for file in files if int(file.stem) not in BROKEN]


def test_a_row_has_what_other_libraries_find_in_the_image(
    whole, collection, relative_error
):
    table = pyarrow.parquet.read_table(whole)
    files = good_files(collection)
    assert table["path"].to_pylist() == [str(file) for file in files]
    assert table["sha256"].to_pylist() == [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    ]
    assert table["width"].to_pylist() == [48] + [64] * (len(files) - 1)
    assert table["height"].to_pylist() == [64] + [48] * (len(files) - 1)
    preprocessing = rk.load_classifier(weights="digits").preprocessing
    images = np.stack([rk.read_image(file, preprocessing) for file in files])
    model = rk.ResNeXt("resnext11_8x4d", False, "digits", pooling="avg")
    expected = model.predict(rk.preprocess_input(images), verbose=0)
    found = np.stack(table["features"].to_pylist())
    assert relative_error(found, expected) < 1e-5


def test_broken_images_are_listed_and_stop_nothing(whole, collection):
    found = {int(Path(path).stem): reason for path, reason in errors_of(whole)}
    assert found.keys() == BROKEN.keys()
    assert found[3] == "an empty file"
    assert "no image" in found[17]
    assert "truncated" in found[40]


def test_the_file_has_the_provenance_of_its_features(whole):
    provenance = read_provenance(whole)
    assert provenance.architecture == "resnext11_8x4d"
    assert provenance.weights == "resnext11_8x4d.digits"
    assert provenance.preprocessing["size"] == 32
    assert provenance.length == 1024
    assert count_rows(whole) == COUNT - len(BROKEN)


def test_float16_is_the_rounded_vector_in_half_the_space(collection, whole, tmp_path):
    run(collection, tmp_path / "f.parquet", dtype="float16")
    found = features_of(tmp_path / "f.parquet")
    assert found.dtype == np.float16
    expected = features_of(whole)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_features_in_bfloat16_are_near_and_are_not_mixed_with_others(
    collection, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(predictor, "has_fast_bfloat16", lambda: True)
    target = tmp_path / "features.parquet"
    run(collection, target, precision="bfloat16")
    assert read_provenance(target).precision == "bfloat16"
    assert read_provenance(whole).precision == "float32"
    found, expected = features_of(target), features_of(whole)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.sum(found * expected, axis=1) / lengths
    assert 0.999 <= cosines.min() < 1

    before = target.read_bytes()
    run(collection, None, update=target, precision="bfloat16")
    assert target.read_bytes() == before
    for options in ({"update": target}, {"resume": True}):
        output = None if "update" in options else target
        with pytest.raises(ValueError, match=r"precision='bfloat16'.*'float32'"):
            run(collection, output, **options)
    query = good_files(collection)[5]
    best, *_ = rk.search(query, target, 1).matches
    assert best.path == str(query)
    with pytest.raises(ValueError, match="precision 'bfloat16' in"):
        rk.search(query, [target, whole])


def test_a_machine_without_bfloat16_computes_no_other_rows(monkeypatch):
    monkeypatch.setattr(predictor, "has_fast_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"fast bfloat16 on all machines.*float32 on"):
        extraction.Extractor(
            None, "digits", engine="tensorflow", batch_size=3, precision="bfloat16"
        )


def test_a_vector_does_not_depend_on_its_place_in_a_batch(
    collection, cached_extractor, relative_error
):
    extractor = cached_extractor(None, "digits", engine="tensorflow")
    files = good_files(collection)[:9]
    images = np.stack([rk.read_image(f, extractor.preprocessing) for f in files])
    alone = np.concatenate([extractor.features(image[np.newaxis]) for image in images])
    assert relative_error(extractor.features(images), alone) < 1e-5
    assert relative_error(extractor.features(images[::-1])[::-1], alone) < 1e-5


@pytest.mark.usefixtures("small_chunks")
def test_shards_are_the_rows_of_one_run(collection, whole, tmp_path, relative_error):
    paths, features, errors = [], [], []
    for number in (1, 2, 3):
        target = tmp_path / f"{number}.parquet"
        run(collection, target, shard=(number, 3))
        paths += pyarrow.parquet.read_table(target)["path"].to_pylist()
        features.append(features_of(target))
        errors += errors_of(target)
    assert paths == pyarrow.parquet.read_table(whole)["path"].to_pylist()
    assert relative_error(np.concatenate(features), features_of(whole)) < 1e-5
    assert errors == errors_of(whole)


PROGRAM = """
import sys, time
import resnext_keras as rk
from resnext_keras.features import extraction
extraction.CHUNK = 16
predict = rk.Predictor.__call__
def slow(self, images):
    time.sleep(0.2)
    return predict(self, images)
rk.Predictor.__call__ = slow
folder, target = sys.argv[1:]
rk.extract(folder, target, weights="digits", engine="tensorflow", batch_size=8)
"""


@pytest.mark.long
@pytest.mark.usefixtures("small_chunks")
def test_a_killed_run_continues_to_the_same_bytes(collection, whole, tmp_path):
    target = tmp_path / "features.parquet"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, collection, target],
        stderr=subprocess.DEVNULL,
        # The tests import TensorFlow first, which leaves oneDNN off on some processors.
        env=dict(os.environ, PYTHONPATH=str(ROOT))
        | {"TF_ENABLE_ONEDNN_OPTS": str(int(has_onednn()))},
    )
    chunks = extraction.chunks_folder(target)
    deadline = time.monotonic() + 120
    while not (chunks / "00000001.parquet").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    done = len(list(chunks.glob("0*.parquet")))
    assert 2 <= done < 5
    with pytest.raises(ValueError, match="resume=True"):
        run(collection, target)
    done_again = run(collection, target, resume=True)
    assert done_again.read == COUNT - 16 * done
    assert target.read_bytes() == whole.read_bytes()
    assert errors_of(target) == errors_of(whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "features.errors.csv",
        "features.parquet",
    ]


@pytest.fixture
def added_image(collection):
    """Adds an image to the collection, until the end of the test."""
    path = collection / "a" / "00.copy.jpg"

    def add():
        path.write_bytes((collection / "a" / "00.jpg").read_bytes())

    yield add
    path.unlink(missing_ok=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "stop", ["list_images", "table_of", "write_tables", "Chunks.remove"]
)
def test_a_run_continues_wherever_it_was_stopped(
    collection, whole, tmp_path, monkeypatch, added_image, stop
):
    target = tmp_path / "features.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(f"resnext_keras.features.chunks.{stop}", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(collection, target)
    if stop == "table_of":  # The images of a run are those that it has listed.
        added_image()
    run(collection, target, resume=True)
    assert target.read_bytes() == whole.read_bytes()
    assert errors_of(target) == errors_of(whole)
    assert not extraction.chunks_folder(target).exists()
    before = target.stat()
    assert run(collection, target, resume=True).read == 0
    assert target.stat() == before


@pytest.mark.usefixtures("small_chunks")
def test_finished_chunks_outlast_a_full_disk(collection, whole, tmp_path, monkeypatch):
    target = tmp_path / "features.parquet"
    write, written = Chunks.write, []

    def full(self, number, *rest):
        if number == 2:
            raise OSError(28, "No space left on device")
        written.append(number)
        write(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", full)
        with pytest.raises(OSError, match=r"No space left.*resume=True.*chunks"):
            run(collection, target)
    assert written == [0, 1]
    assert run(collection, target, resume=True).read == COUNT - 32
    assert target.read_bytes() == whole.read_bytes()


def test_a_run_started_again_does_not_continue_the_one_before(
    tmp_path, photos, monkeypatch
):
    folder, target = tmp_path / "images", tmp_path / "f.parquet"
    folder.mkdir()
    photos[0].resize((40, 40)).save(folder / "one.png")
    run(folder, target)
    photos[0].resize((40, 40)).save(folder / "two.png")
    with monkeypatch.context() as patch:
        patch.setattr("resnext_keras.features.chunks.list_images", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(folder, target, overwrite=True)
    assert count_rows(target) == 1
    assert run(folder, target, resume=True).images == 2


@pytest.mark.usefixtures("small_chunks")
def test_an_update_computes_new_images_alone_and_gives_the_bytes_of_a_run_anew(
    collection, tmp_path, monkeypatch
):
    folder, target = tmp_path / "images", tmp_path / "features.parquet"
    shutil.copytree(collection, folder)
    run(folder, target)
    (folder / "a" / "02.jpg").unlink()
    shutil.copy(folder / "b" / "01.jpg", folder / "b" / "05.jpg")  # changed
    shutil.copy(folder / "b" / "01.jpg", folder / "a" / "00.new.jpg")
    (folder / "b" / "07.jpg").write_bytes(b"no image")
    computed = []
    features = rk.Predictor.__call__

    def counting(self, images):
        computed.append(len(np.unique(images, axis=0)))
        return features(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(rk.Predictor, "__call__", counting)
        result = run(folder, None, update=target)
    images = COUNT - len(BROKEN)
    assert (result.images, result.kept, result.dropped) == (images - 1, images - 3, 2)
    assert sum(computed) == 2
    assert_as_anew(target, folder)


@pytest.mark.usefixtures("small_chunks")
def test_an_update_that_was_stopped_continues(
    collection, whole, tmp_path, monkeypatch, added_image
):
    target = tmp_path / "features.parquet"
    shutil.copy(whole, target)
    added_image()
    with monkeypatch.context() as patch:
        patch.setattr("resnext_keras.features.chunks.write_tables", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(collection, None, update=target)
    assert target.read_bytes() == whole.read_bytes()
    with pytest.raises(ValueError, match="resume=True"):
        run(collection, None, update=target)
    result = run(collection, None, update=target, resume=True)
    assert (result.read, result.kept, result.dropped) == (0, COUNT - len(BROKEN), 0)
    assert_as_anew(target, collection)
