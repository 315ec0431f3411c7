"""`extract` with odd folders, odd names and wrong arguments."""

import functools
import os
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import resnext_keras as rk
from resnext_keras.classifier import load_classifier
from resnext_keras.features import extraction
from resnext_keras.features.chunks import Chunks
from resnext_keras.features.parquet import (
    PROVENANCE,
    read_features,
    read_provenance,
)
from resnext_keras.images.listing import CIRCLE, list_images, readable
from resnext_keras_cli.main import group

cached_extractor = functools.cache(extraction.Extractor)


def extract(*arguments, **options):
    return rk.extract(*arguments, **{"weights": "digits", **options})


@pytest.fixture(autouse=True)
def _networks_built_once(monkeypatch):
    monkeypatch.setattr(extraction, "Extractor", cached_extractor)


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
    for name in ("b.jpg", "B.JPEG", "a/z.png", "a/y/x.gif", "é.webp", "note.txt", "c"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [os.path.relpath(path, tmp_path) for path, _ in list_images([tmp_path])] == [
        "B.JPEG",
        "a/y/x.gif",
        "a/z.png",
        "b.jpg",
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
    assert listed(tmp_path / "in") == [("b.jpg", None), ("up", CIRCLE), ("a.jpg", None)]


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
    done = extract([folder], tmp_path / "f.parquet", engine="tensorflow")
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
    done = extract([folder], tmp_path / "f.parquet", engine="tensorflow")
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
    import struct
    import zlib

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b""))


def test_bombs_and_strange_files_are_left_out_with_the_reason(folder, tmp_path, photos):
    bomb(folder / "bomb.png")
    frames = [photos[0].resize((40, 30)), photos[1].resize((40, 30))]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    photos[0].resize((500, 2)).save(folder / "thin.png")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "lost.jpg").symlink_to("nowhere")
    done = extract([folder], tmp_path / "f.parquet", engine="tensorflow")
    assert done.images == 2
    errors = done.errors.read_text()
    for found in (
        "DecompressionBomb",
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
        ({"shard": (0, 2)}, r"shard=\(0, 2\)"),
        ({"resume": True, "overwrite": True}, "not both"),
        ({"output": "f.csv"}, r"ends in \.parquet"),
        ({"output": "nowhere/f.parquet"}, "existing folder"),
        ({"folders": ["nowhere"]}, "'nowhere'"),
        ({"folders": []}, "Expected images"),
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


@pytest.mark.usefixtures("nothing_loaded")
def test_a_missing_package_is_named_with_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"resnext-keras\[features\]"):
        extract([folder], tmp_path / "f.parquet")


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("name", ["f.parquet", "f.parquet.chunks", "f.errors.csv"])
def test_files_are_replaced_only_with_overwrite(folder, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"overwrite=True"):
        extract([folder], tmp_path / "f.parquet")


@pytest.mark.usefixtures("nothing_loaded")
def test_a_folder_with_other_files_is_never_replaced(folder, tmp_path):
    chunks = tmp_path / "f.parquet.chunks"
    chunks.mkdir()
    (chunks / "diary.txt").touch()
    with pytest.raises(ValueError, match="nothing else is replaced"):
        extract([folder], tmp_path / "f.parquet", overwrite=True)
    assert (chunks / "diary.txt").exists()


def test_a_run_continues_only_with_the_same_arguments(folder, tmp_path, monkeypatch):
    target = tmp_path / "f.parquet"

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract([folder], target, engine="tensorflow")
    kept = sorted(extraction.chunks_folder(target).iterdir())
    for options, found in (
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"batch_size": 5}, "batch_size=5"),
        ({"shard": (1, 2)}, r"shard=\[1, 2\]"),
    ):
        with pytest.raises(ValueError, match=f"Received: .*{found}"):
            extract(
                [folder], target, **{"engine": "tensorflow", "resume": True} | options
            )
    with pytest.raises(ValueError, match="places"):
        extract([folder / "one.png"], target, engine="tensorflow", resume=True)
    assert sorted(extraction.chunks_folder(target).iterdir()) == kept
    done = extract([folder], target, engine="tensorflow", overwrite=True)
    assert done.images == 1
    with pytest.raises(ValueError, match="float16"):
        extract([folder], target, engine="tensorflow", resume=True, dtype="float16")


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


def test_the_command_prints_one_line_and_says_how_to_continue(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (folder / "two.jpg").touch()
    command = ["extract", "images", "--weights", "digits", "--engine", "tensorflow"]
    done = CliRunner().invoke(group, command)
    assert done.exit_code == 0
    assert done.stdout.startswith("1 image, 1 skipped in ")
    assert done.stdout.endswith(": features.parquet\n")
    assert "features.errors.csv" in done.stderr
    again = CliRunner().invoke(group, command)
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    assert "--overwrite" in again.stderr
    finished = CliRunner().invoke(group, [*command, "--resume"])
    assert "finished before" in finished.stdout

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Chunks, "write", stopped)
    stop = CliRunner().invoke(group, [*command, "--overwrite"])
    assert stop.exit_code == 130
    assert "--resume (and without --overwrite) continues" in stop.stderr

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Chunks, "write", full)
    stop = CliRunner().invoke(group, [*command, "--resume"])
    assert stop.exit_code == 1
    assert "No space left on the disk of 'features.parquet'" in stop.stderr
    wrong = CliRunner().invoke(group, [*command, "--resume", "--shard", "3/2"])
    assert "shard=(3, 2)" in wrong.stderr


@pytest.mark.parametrize("other", ["folder", "shard"])
def test_a_finished_file_of_other_images_is_refused(folder, tmp_path, photos, other):
    more = tmp_path / "more"
    more.mkdir()
    photos[0].resize((40, 40)).save(more / "two.png")
    target = tmp_path / "f.parquet"
    extract(folder, target)
    whole = target.read_bytes()
    folders, shard = ([folder, more], (1, 1)) if other == "folder" else (folder, (1, 2))
    with pytest.raises(ValueError, match=f"{other}.*overwrite=True|overwrite.*{other}"):
        extract(folders, target, shard=shard, resume=True)
    assert target.read_bytes() == whole
    assert extract(folder, target, resume=True).read == 0


def test_a_finished_file_without_its_list_of_errors(folder, tmp_path):
    target = tmp_path / "f.parquet"
    extract(folder, target).errors.unlink()
    with pytest.raises(ValueError, match=r"f\.errors\.csv"):
        extract(folder, target, resume=True)


def test_an_empty_shard_is_finished_before_only_with_resume(folder, tmp_path):
    command = ["extract", str(folder), "-o", str(tmp_path / "f.parquet")]
    command += ["--shard", "1/2", "--weights", "digits"]
    printed = CliRunner().invoke(group, command).stdout
    assert printed.startswith("0 images")
    assert "before" not in printed
    assert "finished before" in CliRunner().invoke(group, [*command, "--resume"]).stdout


def test_features_that_float16_cannot_hold_are_refused(folder, tmp_path):
    model = load_classifier(weights="digits").model
    last = model.get_layer("conv4_block1_3_bn")
    last.beta.assign(np.full(last.beta.shape, 1e5))
    model.save_weights(tmp_path / "large.weights.h5")
    weights = {"weights": tmp_path / "large.weights.h5", "engine": "tensorflow"}
    rk.extract([folder], tmp_path / "f.parquet", "resnext11_8x4d", **weights)
    with pytest.raises(ValueError, match="float32 has a larger range than float16"):
        rk.extract(
            [folder],
            tmp_path / "half.parquet",
            "resnext11_8x4d",
            dtype="float16",
            **weights,
        )
    assert not (tmp_path / "half.parquet").exists()
