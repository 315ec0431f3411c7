"""`resnext-keras evaluate`: what it prints, its report, and what it refuses."""

import csv
import json
import os
from pathlib import Path

import pytest
from command import row_of, run
from image_files import digit_folder
from PIL import Image

import resnext_keras as rk
from resnext_keras.digits import held_out_digits
from resnext_keras.inference import predictor
from resnext_keras.training.report import FILES, PREDICTIONS, REPORT

REPORTED = set(FILES) - {"curves.png"}


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Thirty digits in an image folder, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return digit_folder(Path("digits"), 30)


@pytest.fixture
def flat(digits):
    """The same, in one folder."""
    Path("flat").mkdir()
    for path in digits.rglob("*.png"):
        (Path("flat") / path.name).symlink_to(path.absolute())
    return Path("flat")


def evaluate(*arguments, **options):
    options = {"weights": "digits", "engine": "tensorflow"} | options
    return rk.evaluate(*arguments, **options)


def test_the_accuracy_in_bfloat16_is_measured(digits, monkeypatch):
    monkeypatch.setattr(predictor, "has_fast_bfloat16", lambda: True)
    expected = evaluate(digits, output="a")
    assert expected.precision == "float32"
    command = ("evaluate", digits, "--weights", "digits", "--engine", "tensorflow")
    found = json.loads(run(*command, "--precision", "bfloat16", "--json").stdout)
    assert found["precision"] == "bfloat16"
    assert found["top_1"] == expected.metrics["top_1"]
    difference = abs(found["cross_entropy"] - expected.metrics["cross_entropy"])
    assert 0 < difference < 0.01


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
@pytest.mark.parametrize("calibration", [None, "digits/1"])
def test_the_accuracy_in_int8_is_measured(digits, calibration):
    pytest.importorskip("openvino")
    (digits / "3" / "broken.png").write_bytes(b"nothing")
    options = {"engine": "auto", "precision": "int8", "calibration": calibration}
    found = evaluate(digits, **options)
    assert found.precision == "int8"
    assert found.metrics["top_1"] >= 0.9


def test_it_prints_figures_and_classes_and_writes_a_report(digits):
    (digits / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (digits / "4" / "empty.jpg").touch()
    (digits / "5" / "gone.jpg").symlink_to("nowhere")
    command = ("evaluate", digits, "--weights", "digits", "--engine", "tensorflow")
    result = run(*command, code=1)
    assert "33 images, classes matched by names." in result.stdout
    assert row_of(result.stdout, "top-1")[1].endswith("%")
    assert row_of(result.stdout, "top-5")[1] == "100.00%"
    assert row_of(result.stdout, "calibration")[2].endswith("%")
    columns = ["class", "images", "recall", "precision"]
    assert row_of(result.stdout, "class") == columns
    assert row_of(result.stdout, "7")[2] == "100.0%"
    assert "Skipped: digits/4/empty.jpg: an empty file" in result.stderr
    assert "Skipped: digits/3/broken.png: " in result.stderr
    assert "Skipped: digits/5/gone.jpg: " in result.stderr
    assert result.stderr.endswith("3 files are skipped; the report names up to 100.\n")
    folder = Path(result.stdout.split("Report: ")[1].strip()).parent
    assert folder.name == "resnext11_8x4d.digits.evaluation"
    assert set(os.listdir(folder)) == REPORTED
    page = (folder / REPORT).read_text(encoding="utf-8")
    assert "<title>resnext11_8x4d.digits on digits</title>" in page
    assert "digits/4/empty.jpg" in page


def test_the_ten_worst_classes_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = rk.ResNeXt("resnext11_8x4d", weights=None, classes=12)
    network.save_weights("own.weights.h5")
    for number in range(12):
        Path("data", str(number)).mkdir(parents=True)
        Image.new("L", (32, 32), 20 * number).save(Path("data", str(number), "a.png"))
    command = ("evaluate", "data", "--weights", "own.weights.h5")
    lines = run(*command, "--engine", "tensorflow").stdout.splitlines()
    (first,) = (n for n, line in enumerate(lines) if line.startswith("class "))
    last = lines.index("... 2 more classes; the report has all.")
    recalls = [float(line.split()[2].rstrip("%")) for line in lines[first + 1 : last]]
    assert len(recalls) == 10
    assert recalls == sorted(recalls)


def test_json_and_the_report_agree_for_a_file_of_labels(flat):
    _, labels = held_out_digits()
    Path("labels.csv").write_text(
        "image,class\n" + "".join(f"{n:03}.png,{labels[n]}\n" for n in range(30))
    )
    options = ("--weights", "digits", "--engine", "tensorflow", "-o", "report")
    result = run("evaluate", flat, "--labels", "labels.csv", "--json", *options)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["weights"], found["images"]) == ("resnext11_8x4d.digits", 30)
    assert found["skipped"] == 0
    assert 0.9 <= found["top_1"] <= found["top_5"] <= 1
    assert found["cross_entropy"] > 0
    assert 0 < found["calibration_error"] < 0.2
    assert {row["class"] for row in found["classes"]} == set("0123456789")
    right = sum(row["images"] * row["recall"] for row in found["classes"])
    assert right == pytest.approx(30 * found["top_1"])
    with Path("report", PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} == {path.name for path in flat.iterdir()}
    correct = [row["class"] == row["predicted"] for row in rows]
    assert sum(correct) == pytest.approx(right)


def test_only_an_earlier_report_is_replaced(digits):
    report, other = Path("report", REPORT), Path("report", "thesis.txt")
    report.parent.mkdir()
    report.write_text("an earlier one")
    with pytest.raises(ValueError, match="overwrite"):
        evaluate(digits, output="report")
    other.write_text("years")
    with pytest.raises(ValueError, match="an earlier report and nothing else"):
        evaluate(digits, output="report", overwrite=True)
    assert (report.read_text(), other.read_text()) == ("an earlier one", "years")
    other.unlink()
    evaluate(digits, output="report", overwrite=True)
    assert set(os.listdir("report")) == REPORTED
    assert report.read_text(encoding="utf-8") != "an earlier one"


def test_an_unknown_engine_is_refused_before_a_download(digits):
    with pytest.raises(ValueError, match="Received: engine='tpu'"):
        evaluate(digits, weights="resnext50_32x4d.imagenet", engine="tpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "does not exist"),
        (["digits", "--weights", "gone"], "Received: 'gone'"),
        (["flat", "--labels", "short.txt"], "none for '000.png'"),
        (["flat"], "each image in the folder of its class"),
        (["mixed"], "of these unknown: 'cat'"),
        (["digits", "-o", "gone/report"], "existing folder"),
        (["digits", "-o", "digits/report"], "outside the image folder"),
    ],
)
def test_wrong_arguments_give_one_line_and_no_report(flat, arguments, message):
    Path("short.txt").write_text("7\n")
    for name in ("0", "cat"):
        Path("mixed", name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(Path("mixed", name, "1.png"))
    before = sorted(Path().rglob("*"))
    if "--weights" not in arguments:
        arguments = [*arguments, "--weights", "digits"]
    result = run("evaluate", *arguments, code=2 if message == "does not exist" else 1)
    assert message in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
