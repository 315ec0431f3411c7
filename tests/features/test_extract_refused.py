"""`extract` with odd folders, odd names, failing disks and wrong arguments."""

import errno
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from command import run
from image_files import png
from PIL import Image

import resnext_keras as rk
from resnext_keras.classifier import load_classifier
from resnext_keras.features import extraction
from resnext_keras.features.chunks import Chunks
from resnext_keras.features.parquet import (
    PROVENANCE,
    count_rows,
    read_features,
    read_provenance,
)
from resnext_keras.images.listing import CIRCLE, list_images, readable

pytestmark = pytest.mark.tensorflow

COUNT = 24
COMMAND = ("extract", "images", "--weights", "digits", "--batch", "8")
COMMAND += ("--engine", "tensorflow")


def extract(*arguments, **options):
    options = {"weights": "digits", "engine": "tensorflow"} | options
    return rk.extract(*arguments, **options)


@pytest.fixture
def folder(tmp_path, photos):
    folder = tmp_path / "images"
    folder.mkdir()
    photos[0].resize((40, 40)).save(folder / "one.png")
    return folder


@pytest.fixture
def nothing_loaded(monkeypatch):
    def fail(*_, **__):
        pytest.fail("the network was loaded before the arguments were checked")

    monkeypatch.setattr(extraction, "Extractor", fail)


def listed(*roots):
    return [(os.path.basename(path), why) for path, why in list_images(roots)]


def test_folders_are_listed_in_the_order_of_the_bytes_of_names(tmp_path):
    names = "b.jpg", "B.JPEG", "a/z.png", "a/y/x.gif", "é.webp", "c"
    for name in (*names, "note.txt", ".hidden.png", "a/@eaDir/z.png", "Thumbs.db"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [os.path.relpath(path, tmp_path) for path, _ in list_images([tmp_path])] == [
        "B.JPEG",
        "a/y/x.gif",
        "a/z.png",
        "b.jpg",
        "c",
        "é.webp",
    ]


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").touch()
    (tmp_path / "in" / "deep" / "b.jpg").touch()
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "self").symlink_to("self")
    assert listed(tmp_path / "in") == [
        ("b.jpg", None),
        ("up", CIRCLE),
        ("a.jpg", None),
        ("self", None),  # reading it gives the reason
    ]


def test_a_folder_without_permission_is_listed_with_the_errors(
    folder, tmp_path, monkeypatch
):
    (folder / "secret").mkdir()
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    done = extract([folder], tmp_path / "f.parquet")
    assert (done.images, done.skipped) == (1, 1)
    assert "secret,a folder that cannot be listed: Permission denied" in (
        done.errors.read_text()
    )


def test_names_that_are_not_utf8_are_read_and_written_readably(folder, tmp_path):
    odd = os.fsencode(folder) + b"/caf\xe9,\n\xff.png"
    with open(odd, "wb") as file:
        file.write((folder / "one.png").read_bytes())
    broken = os.fsencode(folder) + b"/\xfe.jpg"
    open(broken, "wb").close()
    done = extract([folder], tmp_path / "f.parquet")
    paths = [name for names, _ in read_features(done.output) for name in names]
    assert [os.path.relpath(path, folder) for path in paths] == [
        "caf\\xe9,\n\\xff.png",
        "one.png",
    ]
    assert done.errors.read_text("utf-8") == (
        f"path,reason\n{folder}/\\xfe.jpg,an empty file\n"
    )
    assert readable(os.fsdecode(odd)) == paths[0]


def bomb(path):
    """A PNG of 60,000 x 60,000 pixels in some bytes."""
    small = png(np.zeros((8, 8)), 8, 0)
    header = small[12:16] + struct.pack(">II", 60_000, 60_000) + small[24:29]
    check = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(small[:12] + header + check + small[33:])


def test_bombs_and_strange_files_are_left_out_with_the_reason(folder, tmp_path, photos):
    bomb(folder / "bomb.png")
    frames = [photos[0].resize((40, 30)), photos[1].resize((40, 30))]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    photos[0].resize((500, 2)).save(folder / "thin.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "lost.jpg").symlink_to("nowhere")
    done = extract([folder], tmp_path / "f.parquet")
    assert done.images == 2
    errors = done.errors.read_text()
    for found in (
        "more than the limit of 178,956,970",
        "500 x 2 pixels",
        "not a regular",
        "no such file",
    ):
        assert found in errors


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "float64"}, "dtype='float64'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"shard": (3, 2)}, r"shard=\(3, 2\)"),
        ({"shard": "2/8"}, "shard='2/8'"),
        ({"engine": "tpu"}, "engine='tpu'"),
        ({"resume": True, "overwrite": True}, "not both"),
        ({"update": "f.parquet"}, "not both"),
        ({"output": None, "update": "none.parquet"}, "no such file"),
        ({"output": "f.csv"}, r"ends in \.parquet"),
        ({"output": "nowhere/f.parquet"}, "existing folder"),
        ({"folders": ["nowhere"]}, "'nowhere'"),
        ({"folders": ["empty"]}, "'empty'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    folder, tmp_path, monkeypatch, options, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    arguments = {"folders": [folder], "output": "f.parquet", **options}
    with pytest.raises(ValueError, match=expected):
        extract(**arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_an_update_by_another_network_is_refused_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNEXT_KERAS_OFFLINE", "1")
    target = extract(folder, tmp_path / "f.parquet").output
    before = target.read_bytes()
    for options, expected in (
        ({"dtype": "float16"}, "dtype='float32'. Received: dtype='float16'"),
        ({"weights": None}, "weights='resnext50_32x4d.tv2_in1k'"),
    ):
        with pytest.raises(ValueError, match=expected):
            extract(folder, update=target, **options)
    assert target.read_bytes() == before


@pytest.mark.usefixtures("nothing_loaded")
def test_a_missing_package_is_named_with_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"resnext-keras\[features\]"):
        extract([folder], tmp_path / "f.parquet")


@pytest.mark.usefixtures("nothing_loaded")
def test_a_missing_engine_is_named_first(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"resnext-keras\[fast\]"):
        extract([folder], tmp_path / "f.parquet", engine="openvino")


@pytest.mark.usefixtures("nothing_loaded")
def test_files_are_replaced_only_with_overwrite_and_others_never(folder, tmp_path):
    for name in ("f.parquet", "f.parquet.chunks", "f.errors.csv"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=r"overwrite=True"):
            extract([folder], tmp_path / "f.parquet")
        (tmp_path / name).unlink()
    diary = tmp_path / "f.parquet.chunks" / "diary.txt"
    diary.parent.mkdir()
    diary.touch()
    with pytest.raises(ValueError, match="nothing else is replaced"):
        extract([folder], tmp_path / "f.parquet", overwrite=True)
    assert diary.exists()


def test_a_run_continues_only_with_the_same_arguments(folder, tmp_path, monkeypatch):
    target = tmp_path / "f.parquet"

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract([folder], target)
    kept = sorted(extraction.chunks_folder(target).iterdir())
    for options, found in (
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"batch_size": 5}, "batch_size=5"),
        ({"shard": (1, 2)}, r"shard=\[1, 2\]"),
    ):
        with pytest.raises(ValueError, match=f"Received: .*{found}"):
            extract([folder], target, resume=True, **options)
    with pytest.raises(ValueError, match="places"):
        extract([folder / "one.png"], target, resume=True)
    assert sorted(extraction.chunks_folder(target).iterdir()) == kept
    done = extract([folder], target, overwrite=True)
    assert done.images == 1
    with pytest.raises(ValueError, match="float16"):
        extract([folder], target, resume=True, dtype="float16")


def test_other_parquet_files_are_refused(tmp_path):
    path = tmp_path / "f.parquet"
    table = pyarrow.table({"path": ["a"]})
    for written, found in (
        (table, "without our metadata"),
        (
            table.replace_schema_metadata({PROVENANCE: b"{}"}),
            "metadata that cannot be read",
        ),
        (None, "not a whole Parquet file"),
    ):
        path.write_bytes(b"PAR1")
        if written is not None:
            pyarrow.parquet.write_table(written, path)
        for read in (read_provenance, lambda path: next(read_features(path))):
            with pytest.raises(ValueError, match=f"f.parquet'. Found: .*{found}"):
                read(path)
    with pytest.raises(ValueError, match="no such file"):
        read_provenance(tmp_path / "none.parquet")


def test_the_command_prints_one_line_and_how_to_continue(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "two.jpg").touch()
    done = run(*COMMAND)
    assert done.stdout.startswith("1 image, 1 skipped in ")
    assert done.stdout.endswith(": features.parquet\n")
    assert "features.errors.csv" in done.stderr
    again = run(*COMMAND, code=1).stderr
    assert "--resume" in again
    assert "finished before" in run(*COMMAND, "--resume").stdout
    updated = run(*COMMAND, "--update", "features.parquet").stdout
    assert updated.startswith("1 image, 1 skipped: 1 kept, 0 computed, 0 dropped in ")
    other = run(*COMMAND, "--resume", "--dtype", "float16", code=1).stderr
    for message in (again, other):
        assert "--overwrite" in message
        assert "=True" not in message
    assert "shard=(3, 2)" in run(*COMMAND, "--shard", "3/2", code=1).stderr

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Chunks, "write", stopped)
    stop = run(*COMMAND, "--overwrite", code=130)
    assert "--resume (and without --overwrite) continues" in stop.stderr

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Chunks, "write", full)
    stop = run(*COMMAND, "--resume", code=1)
    assert "No space left on the disk of 'features.parquet'" in stop.stderr


def test_a_finished_file_of_other_images_or_without_errors_is_refused(
    folder, tmp_path, photos
):
    more = tmp_path / "more"
    more.mkdir()
    photos[0].resize((40, 40)).save(more / "two.png")
    target = tmp_path / "f.parquet"
    errors = extract(folder, target).errors
    whole = target.read_bytes()
    for word, folders, shard in (
        ("folder", [folder, more], (1, 1)),
        ("shard", folder, (1, 2)),
    ):
        with pytest.raises(ValueError, match="overwrite=True") as caught:
            extract(folders, target, shard=shard, resume=True)
        assert word in str(caught.value)
    assert target.read_bytes() == whole
    assert extract(folder, target, resume=True).read == 0
    errors.unlink()
    with pytest.raises(ValueError, match=r"f\.errors\.csv"):
        extract(folder, target, resume=True)


def test_an_empty_shard_is_finished_before_only_with_resume(folder, tmp_path):
    command = ["extract", folder, "-o", tmp_path / "f.parquet"]
    command += ["--shard", "1/2", "--weights", "digits"]
    printed = run(*command).stdout
    assert printed.startswith("0 images")
    assert "before" not in printed
    assert "finished before" in run(*command, "--resume").stdout


def test_features_that_float16_cannot_hold_are_refused(folder, tmp_path):
    model = load_classifier(weights="digits").model
    last = model.get_layer("conv4_block1_3_bn")
    last.beta.assign(np.full(last.beta.shape, 1e5))
    model.save_weights(tmp_path / "large.weights.h5")
    weights = tmp_path / "large.weights.h5"
    extract([folder], tmp_path / "f.parquet", weights=weights)
    with pytest.raises(ValueError, match="float32 has a wider range"):
        extract([folder], tmp_path / "half.parquet", weights=weights, dtype="float16")
    assert not (tmp_path / "half.parquet").exists()


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """The errno with which opening each of 24 images fails, by name; at first none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extraction, "CHUNK", 8)
    os.mkdir("images")
    for number in range(COUNT):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(f"images/{number:02}.png")
    opened, numbers = open, {}

    def guarded(path, *arguments, **options):
        if number := numbers.get(os.path.basename(str(path))):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", guarded)
    return numbers


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_run_stops_when_a_disk_fails_and_continues(tmp_path, failing, number):
    run(*COMMAND, "-o", "whole.parquet")
    failing["19.png"] = number
    message = run(*COMMAND, code=1).stderr.splitlines()[-1]
    assert "images/19.png" in message
    assert os.strerror(number) in message
    assert "--resume" in message
    assert not os.path.exists("features.parquet")
    assert len(list((tmp_path / "features.parquet.chunks").glob("0*"))) == 2
    run(*COMMAND, "--resume", code=1)
    failing.clear()
    run(*COMMAND, "--resume")
    for end in ("parquet", "errors.csv"):
        continued, whole = (
            Path(f"{name}.{end}").read_bytes() for name in ("features", "whole")
        )
        assert continued == whole


def test_files_without_permission_are_listed_and_tried_again(failing):
    failing["19.png"] = errno.EACCES
    result = run(*COMMAND)
    assert result.stdout.startswith(f"{COUNT - 1} images, 1 skipped")
    assert "19.png,PermissionError" in Path("features.errors.csv").read_text()
    failing.update((f"{number:02}.png", errno.EACCES) for number in range(COUNT))
    for option in ("--overwrite", "--resume"):
        result = run(*COMMAND, option, code=1)
        assert result.stdout.startswith(f"0 images, {COUNT} ")
    failing.clear()
    assert run(*COMMAND, "--resume").stdout.startswith(f"{COUNT} images in ")
    assert count_rows("features.parquet") == COUNT
    assert "finished before" in run(*COMMAND, "--resume").stdout
