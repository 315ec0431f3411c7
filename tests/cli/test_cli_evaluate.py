"""`resnext-keras evaluate`: what it prints, its report, and what it refuses."""

import base64
import csv
import dataclasses
import io
import json
import os
import re
from pathlib import Path

import keras
import pytest
from command import row_of, run
from PIL import Image

from resnext_keras import ResNeXt, ResNeXtSpec
from resnext_keras.digits import held_out_digits
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.training.report import FILES, PREDICTIONS, REPORT
from resnext_keras.weights.checkpoint import BEST, RUN

REPORTED = set(FILES) - {"curves.png"}


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Thirty digits in class folders, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for number, (image, label) in enumerate(zip(*held_out_digits(), strict=True)):
        if number < 30:
            folder = Path("digits", str(label))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:02}.png")
    return Path("digits")


@pytest.fixture
def flat(digits):
    """The same, in one folder."""
    Path("flat").mkdir()
    for path in digits.rglob("*.png"):
        (Path("flat") / path.name).symlink_to(path.absolute())
    return Path("flat")


def evaluate(*arguments, **options):
    return run("evaluate", *arguments, "--engine", "tensorflow", **options)


def test_figures_classes_and_a_report(digits):
    (digits / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (digits / "4" / "empty.jpg").touch()
    (digits / "5" / "gone.jpg").symlink_to("nowhere")
    result = evaluate(digits, "--weights", "digits", code=1)
    assert "33 images, classes by names." in result.stdout
    assert row_of(result.stdout, "top-1")[1].endswith("%")
    assert row_of(result.stdout, "top-5")[1] == "100.00%"
    assert row_of(result.stdout, "calibration")[2].endswith("%")
    assert row_of(result.stdout, "class") == [
        "class",
        "images",
        "recall",
        "precision",
    ]
    assert row_of(result.stdout, "7")[2] == "100.0%"
    folder = Path(result.stdout.split("Report: ")[1].strip()).parent
    assert folder.name == "resnext11_8x4d.digits.evaluation"
    assert set(os.listdir(folder)) == REPORTED
    assert "Skipped: digits/4/empty.jpg: an empty file" in result.stderr
    assert "Skipped: digits/3/broken.png: " in result.stderr
    assert result.stderr.endswith("3 files skipped; the report names them.\n")
    assert "Skipped: digits/5/gone.jpg: " in result.stderr
    page = (folder / REPORT).read_text(encoding="utf-8")
    assert "<title>resnext11_8x4d.digits on digits</title>" in page
    assert "digits/4/empty.jpg" in page


def test_json_has_the_same(digits):
    result = evaluate(digits, "--weights", "digits", "--json", "-o", "report")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["weights"], found["images"]) == ("resnext11_8x4d.digits", 30)
    assert found["skipped"] == 0
    assert 0.9 <= found["top_1"] <= found["top_5"] <= 1
    assert found["cross_entropy"] > 0
    assert 0 < found["calibration_error"] < 0.2
    assert {row["class"] for row in found["classes"]} == set("0123456789")
    assert sum(row["images"] for row in found["classes"]) == 30
    right = sum(row["images"] * row["recall"] for row in found["classes"])
    assert right == pytest.approx(30 * found["top_1"])
    with Path("report", PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    correct = [row["class"] == row["predicted"] for row in rows]
    assert sum(correct) == pytest.approx(right)


def test_a_file_of_labels(flat):
    _, labels = held_out_digits()
    Path("labels.csv").write_text(
        "image,class\n" + "".join(f"{n:02}.png,{labels[n]}\n" for n in range(30))
    )
    result = evaluate(flat, "--labels", "labels.csv", "--weights", "digits")
    assert "30 images, classes by labels.csv." in result.stdout
    assert float(row_of(result.stdout, "top-1")[1].rstrip("%")) > 90


def test_a_run_gives_its_classes_and_its_reading(digits, monkeypatch):
    """Of a network of its own size and architecture, here one that says always b."""
    spec = ResNeXtSpec("tiny", (1, 1), 4, 4, stem="cifar")
    model = ResNeXt(spec, weights=None, input_shape=(48, 48, 3), classes=2)
    head = model.get_layer("predictions")
    head.kernel.assign(keras.ops.zeros_like(head.kernel))
    head.bias.assign([0.0, 1.0])
    Path("run").mkdir()
    model.save_weights(Path("run", BEST))
    reading = dataclasses.asdict(Preprocessing(48, 60, "bicubic"))
    settings = {"spec": dataclasses.asdict(spec)}
    Path("run", RUN).write_text(
        json.dumps(
            {"settings": settings, "preprocessing": reading, "class_names": ["a", "b"]}
        )
    )
    for name, sources in (("a", "12"), ("b", "7")):
        Path("data", name).mkdir(parents=True)
        for source in sources:
            for path in (digits / source).iterdir():
                (Path("data", name) / path.name).symlink_to(path.absolute())
    counts = [len(os.listdir(Path("data", name))) for name in "ab"]
    result = evaluate("data", "--weights", "run", "--json")
    found = json.loads(result.stdout)
    assert found["top_1"] == pytest.approx(counts[1] / sum(counts))
    assert found["classes"] == [
        {"class": "a", "images": counts[0], "recall": 0.0, "precision": None},
        {
            "class": "b",
            "images": counts[1],
            "recall": 1.0,
            "precision": pytest.approx(counts[1] / sum(counts)),
        },
    ]
    page = Path("run.evaluation", REPORT).read_text(encoding="utf-8")
    first = re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1]
    with Image.open(io.BytesIO(base64.b64decode(first))) as image:
        assert image.size == (48, 48)


def test_only_an_earlier_report_is_replaced(digits):
    arguments = (digits, "--weights", "digits", "-o", "report")
    Path("report").mkdir()
    Path("report", REPORT).write_text("an earlier one")
    result = evaluate(*arguments, code=1)
    assert "overwrite" in result.stderr
    Path("report", "thesis.txt").write_text("years")
    result = evaluate(*arguments, "--overwrite", code=1)
    assert "an earlier report and nothing else" in result.stderr
    assert Path("report", "thesis.txt").read_text() == "years"
    assert Path("report", REPORT).read_text() == "an earlier one"
    Path("report", "thesis.txt").unlink()
    evaluate(*arguments, "--overwrite")
    assert set(os.listdir("report")) == REPORTED
    assert Path("report", REPORT).read_text(encoding="utf-8") != "an earlier one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "does not exist"),
        (["digits", "--weights", "gone"], "Received: 'gone'"),
        (["flat", "--labels", "short.txt"], "none for '00.png'"),
        (["flat"], "each image in the folder of its class"),
        (["mixed"], "of these unknown: 'cat'"),
        (["digits/0/nothing"], "does not exist"),
        (["digits", "-o", "gone/report"], "existing folder"),
        (["digits", "-o", "digits"], "overwrite"),
        (["digits", "-o", "digits/report"], "outside the image folder"),
        (["."], "outside the image folder"),
    ],
)
def test_bad_arguments_give_one_line_and_no_report(flat, arguments, message):
    Path("short.txt").write_text("7\n")
    for name in ("0", "cat"):
        Path("mixed", name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(Path("mixed", name, "1.png"))
    before = sorted(Path().rglob("*"))
    weights = [] if "--weights" in arguments else ["--weights", "digits"]
    result = run(
        "evaluate", *arguments, *weights, code=2 if message == "does not exist" else 1
    )
    assert message in result.stderr
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
