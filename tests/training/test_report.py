"""The report of an evaluation: all that was promised, whatever the names are."""

import csv
import dataclasses
import html
import re

import numpy as np
import pytest
from PIL import Image

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.training.data.image_folder import files_dataset
from resnext_keras.training.evaluation import Evaluation
from resnext_keras.training.metrics import Predictions, score_predictions
from resnext_keras.training.plots import plot_confusion
from resnext_keras.training.report import (
    CLASSES,
    CONFUSION,
    CURVES,
    FILES,
    PREDICTIONS,
    RELIABILITY,
    WORST,
    report_title,
    write_report,
)

HOSTILE = "<script>alert('1')</script> \" & $\\frac{$ {{ title }}"
READING = Preprocessing(16, 16)
HISTORY = [
    {"epoch": 1, "phase": 0, "loss": 2.0, "accuracy": 0.2}
    | {"val_loss": 1.8, "val_accuracy": 0.3},
    {"epoch": 2, "phase": 1, "loss": 1.5, "accuracy": 0.5}
    | {"val_loss": 1.4, "val_accuracy": 0.6},
]


def evaluated(folder, names, count=40, name="{}.png"):
    """Random scores for grey images, of every other class."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        paths.append(folder / name.format(number))
        Image.new("RGB", (16, 16), (number, number, number)).save(paths[-1])
    labels = 2 * (np.arange(count, dtype="int32") % ((len(names) + 1) // 2))
    scores = rng.dirichlet(np.full(len(names), 0.5), count)
    images = files_dataset(paths, labels, names)
    return Evaluation(score_predictions(scores, labels), images, READING, [], "set")


def written(folder, evaluation, **options):
    """The page of a report."""
    options = {"title": "net on data"} | options
    report = write_report(folder, evaluation, **options).report
    return report.read_text(encoding="utf-8")


def headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


@pytest.fixture
def evaluation(tmp_path):
    names = ("ant", "bee", "cat", "dog", "eel", "fly", HOSTILE, "Käfer", "貓")
    return evaluated(tmp_path, names)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "report").mkdir()
    return tmp_path / "report"


def test_the_page_has_every_part(evaluation, folder):
    broken = [("a/b.jpg", "an empty file")]
    evaluation = dataclasses.replace(evaluation, skipped=broken)
    page = written(folder, evaluation, history=HISTORY, settings='{"seed": 17}')
    assert headings(page) == [
        "Learning curves",
        "The worst classified",
        "Confusion matrix",
        "Classes",
        "Calibration",
        "Left out",
        "Settings",
    ]
    text = html.unescape(page)
    for name, value in evaluation.figures.items():
        assert name.replace("_", " ") in text.replace("-", " ")
        shown = f"{value:.4f}" if name == "cross_entropy" else f"{value:.2%}"
        assert f"<strong>{shown}</strong>" in text
    for part in ("net on data", "set", "40 images", "an empty file", '"seed": 17'):
        assert part in text
    assert page.count("data:image/jpeg;base64,") == WORST
    assert page.count("data:image/png;base64,") == 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for plot in (CURVES, CONFUSION, RELIABILITY):
        with Image.open(folder / plot) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_the_page_of_an_evaluation_has_no_part_of_a_training(evaluation, folder):
    page = written(folder, evaluation)
    assert headings(page) == [
        "The worst classified",
        "Confusion matrix",
        "Classes",
        "Calibration",
    ]
    assert not (folder / CURVES).exists()


def test_the_page_needs_nothing_else_and_runs_nothing(evaluation, folder):
    hostile = dataclasses.replace(
        evaluation, skipped=[(HOSTILE, HOSTILE)], weights=HOSTILE
    )
    page = written(folder, hostile, title=HOSTILE, settings=HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "://" not in page
    assert "default-src 'none'" in page


def test_odd_names_of_files_harm_nothing(tmp_path, folder):
    name = "<script>{} \udcff$x$\n&.png"
    page = written(folder, evaluated(tmp_path, ("a", "b", "c"), 6, name))
    assert "<script" not in page
    assert "&lt;script&gt;3 \\xff$x$\n&amp;.png" in page
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[4][0].endswith("<script>3 \\xff$x$\n&.png")


def test_titles_are_text_whatever_the_names(tmp_path):
    assert report_title("net", tmp_path / "d\udcff") == "net on d\\xff"
    assert report_title("n\udcff", f"{tmp_path}/data/") == "n\\xff on data"


def test_the_worst_are_shown_worst_first(tmp_path, folder):
    evaluation = evaluated(tmp_path, ("a", "b", "c"), 20)
    page = written(folder, evaluation)
    shown = re.findall(r"<strong>(\S*)</strong>: (0\.\d+)<br>\s*(.*?)<br>", page)
    assert len(shown) == 20
    outcomes, names = evaluation.predictions, evaluation.dataset.class_names
    worst = np.argsort(-outcomes.losses, kind="stable")
    for (truth, score, shown_as), number in zip(shown, worst, strict=True):
        assert truth == names[outcomes.labels[number]]
        assert float(score) == pytest.approx(np.exp(-outcomes.losses[number]), abs=6e-4)
        predicted = names[outcomes.predicted[number]]
        taken = f"predicted as {predicted}: {outcomes.confidence[number]:.3f}"
        assert html.unescape(shown_as) == ("correct" if predicted == truth else taken)
    assert {text == "correct" for _, _, text in shown} == {True, False}


def test_the_images_shown_are_those_that_were_seen(evaluation):
    images = evaluation.images(np.array([30, 2]))
    assert images.shape == (2, 16, 16, 3)
    assert images[:, 0, 0, 0].tolist() == [30, 2]


def test_the_files_read_back(evaluation, folder):
    written(folder, evaluation)
    outcomes, images = evaluation.predictions, evaluation.dataset
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == list(images.names)
    names = np.array(images.class_names)
    assert [row["class"] for row in rows] == names[outcomes.labels].tolist()
    assert [row["predicted"] for row in rows] == names[outcomes.predicted].tolist()
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(scores, outcomes.confidence, atol=1e-6)
    ranks = np.array([int(row["rank_of_class"]) for row in rows])
    assert (ranks == 1).mean() == outcomes.accuracy()
    assert (ranks <= 5).mean() == outcomes.accuracy(5)
    with (folder / CLASSES).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = evaluation.classes
    assert [row["class"] for row in rows] == [row["class"] for row in expected]
    assert sum(int(row["images"]) for row in rows) == 40
    recalls = [float(row["recall"]) for row in rows]
    assert recalls == sorted(recalls) == [row["recall"] for row in expected]


def test_classes_without_images_are_no_rows(evaluation):
    names = [row["class"] for row in evaluation.classes]
    assert len(names) == 5
    assert "bee" not in names


def test_a_class_that_nothing_is_taken_for_has_no_precision(evaluation, folder):
    scores = np.eye(9)[np.zeros(40, int)]
    outcomes = score_predictions(scores, evaluation.dataset.labels)
    evaluation = dataclasses.replace(evaluation, predictions=outcomes)
    rows = {row["class"]: row for row in evaluation.classes}
    assert rows["cat"]["precision"] is None
    assert rows["ant"]["recall"] == 1
    page = written(folder, evaluation)
    assert '<td class="number">0.0%</td><td class="number">-</td>' in page


def test_few_classes_have_no_top_5(tmp_path):
    assert "top_5" not in evaluated(tmp_path, ("a", "b", "c", "d", "e")).figures
    assert "top_5" in evaluated(tmp_path, tuple("abcdef")).figures


def test_a_thousand_classes(tmp_path, folder):
    names = tuple(f"class {n}" for n in range(1000))
    evaluation = evaluated(tmp_path, names)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(1000, dtype="int32"), 5))
    none = np.zeros(5000)
    outcomes = Predictions(labels, (labels + (none > 1)) % 1000, none + 1, none, none)
    images = files_dataset([evaluation.dataset.names[0]] * 5000, labels, names)
    page = written(folder, Evaluation(outcomes, images, READING, [], "set"))
    assert page.count("<tr><td>class ") == 1000
    with Image.open(folder / CONFUSION) as image:
        assert max(image.size) < 2200


def test_names_on_the_axes_leave_room_for_the_matrix(tmp_path):
    sizes = []
    for letters in (10, 250):
        names = [str(n) * letters for n in range(9)]
        plot_confusion(np.eye(9, dtype=int), names, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as image:
            red, _, blue = np.moveaxis(np.asarray(image.convert("RGB"), int), -1, 0)
            sizes.append((blue - red > 60).sum())
    assert sizes[1] > 0.3 * sizes[0]


@pytest.mark.parametrize("count", [100, 1000, 2500])
def test_no_confusion_of_many_classes_is_lost(tmp_path, count):
    """Each of some cells off the diagonal is seen."""
    confusion = np.diag(np.full(count, 10))
    places = np.array([[0.1, 0.7], [0.33, 0.9], [0.5, 0.2], [0.8, 0.05]])
    rows, columns = (places * count).astype(int).T
    confusion[rows, columns] = 30
    plot_confusion(confusion, [str(n) for n in range(count)], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert max(image.size) < 3000
        red, _, blue = np.moveaxis(np.asarray(image.convert("RGB"), int), -1, 0)
    dark = np.argwhere(blue - red > 60)
    edges = np.array([dark.min(axis=0), dark.max(axis=0) + 1])
    for place in zip(rows, columns, strict=True):
        wanted = edges[0] + (np.array(place) + 0.5) / count * (edges[1] - edges[0])
        assert np.abs(dark - wanted).max(axis=1).min() < 4


def test_more_files_than_are_named_are_counted(evaluation, folder):
    skipped = [(f"{n}.jpg", "an empty file") for n in range(120)]
    page = written(folder, dataclasses.replace(evaluation, skipped=skipped))
    assert page.count("an empty file") == 100
    assert "120 files" in page
