"""`resnext-keras predict`, and images that are named to any command."""

import csv
import json
import os

import numpy as np
import pytest
from command import error_of, row_of, run
from helpers import SMALL
from PIL import Image

from resnext_keras import ResNeXt, predict_files
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.images.preprocessing import MEAN, STD
from resnext_keras.inference import predictor
from resnext_keras.inference.prediction import sample_images

pytestmark = pytest.mark.tensorflow

# Names that a terminal or a table would read otherwise.
ODD = ("[red]digit.png", "a [b] c.png", ":smile:.png", "ä ö.png", "a\n\x1b[2Jb.png")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_function_returns_what_the_command_prints(digit, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    files = ["digit.png", "text.jpg", "missing.png"]
    found = predict_files(files, weights="digits", top=2)
    assert found.weights == "resnext11_8x4d.digits"
    ((path, (best, second)),) = found.predictions
    assert (path, best[1]) == ("digit.png", digit)
    assert 1 >= best[2] >= second[2] >= 0

    command = ("predict", *files, "--weights", "digits", "--top", 2)
    result = run(*command, code=1)
    assert result.stdout.startswith("resnext11_8x4d.digits\n")
    assert row_of(result.stdout, "digit.png")[1] == digit
    printed = run(*command, "--json", code=1)
    assert json.loads(printed.stdout) == [
        {
            "file": "digit.png",
            "weights": "resnext11_8x4d.digits",
            "predictions": [
                {"id": id_, "name": name, "score": score}
                for id_, name, score in (best, second)
            ],
        }
    ]
    for stderr in (result.stderr, printed.stderr):
        text, missing, count = stderr.splitlines()
        assert "text.jpg" in text
        assert "missing.png" in missing
        assert count == "2 of 3 files skipped."
    for wrong in ({"top": 0}, {"batch_size": 1.5}):
        with pytest.raises(ValueError, match="positive integer"):
            predict_files("digit.png", weights="digits", **wrong)


def test_a_class_is_the_same_in_bfloat16_and_auto(digit, monkeypatch):
    monkeypatch.setattr(predictor, "has_fast_bfloat16", lambda: True)
    ((_, (best,)),) = predict_files("digit.png", weights="digits", top=1).predictions
    for precision in ("bfloat16", "auto"):
        options = ("--weights", "digits", "--top", 1, "--precision", precision)
        (found,) = json.loads(run("predict", "digit.png", *options, "--json").stdout)
        assert found["predictions"][0]["name"] == best[1] == digit
        assert found["predictions"][0]["score"] == pytest.approx(best[2], abs=0.01)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converter's
def test_an_int8_network_is_calibrated_with_the_images_or_with_others():
    pytest.importorskip("openvino")
    images, _ = held_out_digits()
    for number in range(40):
        Image.fromarray(images[number]).save(f"{number}.png")
    os.mkdir("others")
    for number in range(40, 60):
        Image.fromarray(images[number]).save(f"others/{number}.png")
    names = [f"{number}.png" for number in range(40)]

    def classes(**options):
        found = predict_files(names, weights="digits", top=1, **options)
        return np.array([best[1] for _, (best,) in found.predictions])

    expected = classes()
    for calibration in (None, "others"):
        found = classes(precision="int8", calibration=calibration)
        assert np.sum(found != expected) <= 1
    assert "only with precision='int8'" in error_of(
        *("predict", "0.png", "--weights", "digits", "--calibration", "others")
    )


def test_many_files_give_the_same_as_each_alone():
    images, labels = held_out_digits()
    paths = [f"{number}.png" for number in range(70)]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image).save(path)
    together = predict_files(paths, weights="digits", top=1).predictions
    assert [path for path, _ in together] == paths
    classifier = load_classifier(weights="digits")
    alone = classifier.predict(
        as_network_sees(images[:70], classifier.preprocessing), 1
    )
    for (_, ((_, name, score),)), ((_, expected, closely),) in zip(
        together, alone, strict=True
    ):
        assert name == expected
        assert score == pytest.approx(closely, abs=1e-5)
    names = [name for _, ((_, name, _),) in together]
    assert np.mean(names == labels[:70].astype(str)) > 0.9


def test_the_images_of_folders_are_predicted_into_a_csv_file():
    images, _ = held_out_digits()
    for number, name in enumerate(("a.png", "more/b.png", "more/.hidden.png", "c.png")):
        os.makedirs(os.path.dirname(f"digits/{name}"), exist_ok=True)
        Image.fromarray(images[number]).save(f"digits/{name}")
    with open("digits/more/text", "w") as file:
        file.write("no image")
    os.rename("digits/c.png", "c.png")
    command = ("predict", "digits", "c.png", "--weights", "digits", "--top", 2)
    result = run(*command, "--csv", "found.csv", code=1)
    assert result.stdout == "3 images: found.csv\n"
    assert result.stderr.splitlines()[-1] == "1 of 4 files skipped."
    with open("found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["digits/a.png", "digits/more/b.png", "c.png"]
    assert [row["image"] for row in rows] == np.repeat(names, 2).tolist()
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    alone = predict_files(names, weights="digits", top=2)
    found = [(row["class"], float(row["score"])) for row in rows]
    for (name, score), (_, expected, closely) in zip(
        found, [item for _, row in alone.predictions for item in row], strict=True
    ):
        assert name == expected
        assert score == pytest.approx(closely, abs=1e-5)
    assert "found.csv" in error_of(*command, "--csv", "found.csv")
    run(*command, "--csv", "found.csv", "--overwrite", code=1)


def test_the_architecture_of_a_weight_file_is_found(digit):
    ResNeXt("resnext11_8x4d", weights=None, classes=3).save_weights("own.weights.h5")
    result = predict_files("digit.png", weights="own.weights.h5")
    ((_, predictions),) = result.predictions
    assert {name for _, name, _ in predictions} == {"0", "1", "2"}


def test_a_row_has_any_file_name_as_it_is(digit, tmp_path):
    for name in ODD:
        (tmp_path / name).write_bytes((tmp_path / "digit.png").read_bytes())
    text = run("predict", "--weights", "digits", "--top", 1, *ODD).stdout
    _, _, *rows = text.splitlines()
    shown = [name.replace("\n", r"\n").replace("\x1b", r"\x1b") for name in ODD]
    assert [row[: len(name)] for row, name in zip(rows, shown, strict=True)] == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet50"], "Did you mean resnext50_32x4d"),
        (["--model", "resnext50_32x4d"], "resnext50_32x4d-1a0047aa.pth"),
        (["--model", "resnext101_32x48d"], "resnext101_32x48d.fb_wsl_ig1b_ft_in1k"),
        (["--model", "resnext29_8x64d"], "Expected a weight file, the folder of a"),
        (["--model", "foo"], "names that `resnext-keras list` gives. Received: 'foo'"),
        (["--weights", "digit"], "`resnext-keras weights list`"),
        (["--weights", "digit"], "Did you mean digits? Received: 'digit'"),
        (["--weights", "resnext50_32x4d.keras_in1k_notop"], "with a classifier; "),
        (["--model", "resnext50_32x4d", "--weights", "digits"], "resnext11_8x4d"),
        ([], "digits need no download: --weights digits."),
    ],
)
def test_wrong_weights_give_one_line(digit, arguments, message):
    assert message in error_of("predict", *arguments, "digit.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "--model", "gone.jpg", "gone.png"],
            "image files that exist, or folders with images. Received: 'gone.jpg', "
            "'gone.png'",
        ),
        (["predict", "--model", "empty"], "folders with images. Received: 'empty'"),
        (["predict", "--model", "one.png", "--csv", "a.txt"], "ends in .csv"),
        (["explain", "--model", "gone.jpg"], "no such file"),
        (["explain", "--model", "text.jpg"], "a file that begins with b'no image'"),
        (["explain", "--model", "one.png", "--class", "tabi"], "Did you mean tabby"),
        (["export", "text.jpg"], "None of the images can be read"),
    ],
)
def test_a_typo_costs_no_download(tmp_path, arguments, message):
    """A download would be another error, since tests are offline."""
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (40, 40)).save("one.png")
    os.mkdir("empty")
    position = 2 if "--model" in arguments else 1
    arguments.insert(position, "resnext50_32x4d")
    result = run(*arguments, code=1)
    assert message in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert sorted(os.listdir()) == ["empty", "one.png", "text.jpg"]


@pytest.mark.parametrize("command", ["predict", "extract"])
def test_a_file_without_permission_is_skipped(monkeypatch, command):
    for name in ("one.png", "secret.png"):
        Image.new("L", (8, 8)).save(name)
    opened = open

    def guarded(path, *arguments, **options):
        if path == "secret.png":
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", guarded)
    arguments = ("one.png", "secret.png", "--weights", "digits")
    result = run(command, *arguments, code=command == "predict")
    assert "kipped" in result.stderr
    assert "Usage" not in result.stderr


def test_samples_are_spread_over_all_folders():
    """The colour of an image is its number."""

    def sampled(*paths):
        images, _ = sample_images(paths, SMALL)
        reds = images[:, 0, 0, 0] * STD[0] + MEAN[0]  # normalised before
        return np.round(255 * reds).tolist()

    os.makedirs("some/b")
    names = ("b/1.jpg", "b/2.PNG", "b/3.webp", "c.tiff", "d.jpeg", "b/x.txt", "e.csv")
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(f"some/{name}", "PNG")
    assert sampled("some") == [0, 1, 2, 3, 4]
    assert sampled("some/e.csv", "some/b") == [6, 0, 1, 2]  # named, so it is read
    os.mkdir("many")
    for number in range(192):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(f"many/{number:03}.png")
    assert sampled("many") == [number for number in range(192) if number % 3 < 2]


def test_the_limit_of_pixels_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 50)).save(path)
    arguments = "predict", path, "--weights", "digits", "--max-pixels"
    done = run(*arguments, 1998, code=1)
    assert "2,000 pixels, more than the limit of 1,998" in done.stderr
    assert "--max-pixels 2000" in done.stderr
    assert str(path) in run(*arguments, 2000).stdout
    Image.new("RGB", (39, 51)).save(path)
    assert str(path) in run(*arguments, 39 * 51).stdout
