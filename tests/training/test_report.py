"""The report of an evaluation: all its parts, whatever the names are."""

import csv
import html
import os
import re

import numpy as np
import pytest
from PIL import Image

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.training.data.image_folder import files_dataset
from resnext_keras.training.evaluation import Evaluation
from resnext_keras.training.metrics import Predictions
from resnext_keras.training.plots import plot_confusion
from resnext_keras.training.report import (
    CLASSES,
    CONFUSION,
    CURVES,
    FILES,
    PREDICTIONS,
    RELIABILITY,
    REPORT,
    WORST_OF_CLASS,
    report_title,
    write_report,
)

HOSTILE = "<script>alert('1')</script> \" & $\\frac{$ {{ title }}"
NAMES = ("ant", "bee", "cat", "dog", "eel", "fly", HOSTILE, "Käfer", "貓")
READING = Preprocessing(16, 16)
HISTORY = [
    {"epoch": 1, "phase": 0, "loss": 2.0, "accuracy": 0.2}
    | {"val_loss": 1.8, "val_accuracy": 0.3},
    {"epoch": 2, "phase": 1, "loss": 1.5, "accuracy": 0.5}
    | {"val_loss": 1.4, "val_accuracy": 0.6},
]
HEADINGS = [
    "Images with the highest loss",
    "Confusion matrix",
    "Classes",
    "Calibration",
]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Random scores for 40 grey images, of every other class; 120 are skipped."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = [folder / f"<script>{n} \udcff$x$\n&.png" for n in range(40)]
    for number, path in enumerate(paths):
        Image.new("RGB", (16, 16), (number, number, number)).save(path)
    labels = 2 * (np.arange(40, dtype="int32") % 5)
    scores = rng.dirichlet(np.full(len(NAMES), 0.5), 40)
    dataset = files_dataset(paths, labels, NAMES)
    skipped = [(f"{HOSTILE} {n}.jpg", "an empty file") for n in range(120)]
    predictions = Predictions.from_scores(scores, labels)
    return Evaluation(predictions, dataset, READING, skipped, HOSTILE)


@pytest.fixture(scope="module")
def folder(evaluation, tmp_path_factory):
    """The report of a training run, with every name hostile."""
    folder = tmp_path_factory.mktemp("report")
    table = {"heading": HOSTILE, "columns": [HOSTILE, "meaning"]}
    table["rows"] = [[HOSTILE, "what it means"]]
    options = {"title": HOSTILE, "settings": [table], "history": HISTORY}
    options["data"] = os.path.dirname(evaluation.dataset.names[0])
    write_report(folder, evaluation, **options)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


def csv_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_report_of_a_run_has_every_part(evaluation, folder, page):
    assert headings(page) == ["Learning curves", *HEADINGS, "Skipped", "Settings"]
    text = html.unescape(page)
    for name, value in evaluation.metrics.items():
        assert name.replace("_", " ") in text.replace("-", " ")
        shown = f"{value:.4f}" if name == "cross_entropy" else f"{value:.2%}"
        assert f"<strong>{shown}</strong>" in text
    assert "40 images" in text
    assert "120 files" in text
    assert text.count("an empty file") == 100
    assert page.count("data:image/jpeg;base64,") == 5 * WORST_OF_CLASS
    assert text.count("what it means") == 1
    assert page.count("data:image/png;base64,") == 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for plot in (CURVES, CONFUSION, RELIABILITY):
        with Image.open(folder / plot) as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_the_page_needs_nothing_else_and_runs_nothing(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert") > 100
    assert re.search(r"&lt;script&gt;\d+ \\xff\$x\$\n&amp;\.png", page)
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "://" not in page
    assert "default-src 'none'" in page


def test_the_worst_images_are_shown_worst_first_a_few_of_each_class(evaluation, page):
    shown = re.findall(r"<strong>([^<]*)</strong>: (0\.\d+)<br>\s*(.*?)<br>", page)
    losses, labels = evaluation.predictions.losses, evaluation.predictions.labels
    order = np.argsort(-losses, kind="stable")
    of_class = [order[labels[order] == label][:3] for label in set(labels)]
    worst = [n for n in order if n in np.concatenate(of_class)]
    for texts, number in zip(shown, worst, strict=True):
        label, score, text = map(html.unescape, texts)
        predictions = evaluation.predictions
        assert label == NAMES[predictions.labels[number]]
        expected = np.exp(-predictions.losses[number])
        assert float(score) == pytest.approx(expected, abs=6e-4)
        predicted = NAMES[predictions.predicted[number]]
        wrong = f"predicted as {predicted}: {predictions.confidence[number]:.3f}"
        assert text == ("correct" if predicted == label else wrong)
    images = evaluation.images(np.array([30, 2]))
    assert images.shape == (2, 16, 16, 3)
    assert images[:, 0, 0, 0].tolist() == [30, 2]


def test_the_csv_files_hold_the_predictions_and_the_classes(evaluation, folder):
    predictions, names = evaluation.predictions, np.array(NAMES)
    rows = csv_rows(folder / PREDICTIONS)
    own = [os.path.basename(name) for name in evaluation.dataset.names]
    assert [row["image"] for row in rows] == own
    assert rows[3]["image"] == "<script>3 \\xff$x$\n&.png"
    assert [row["class"] for row in rows] == names[predictions.labels].tolist()
    assert [row["predicted"] for row in rows] == names[predictions.predicted].tolist()
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(scores, predictions.confidence, atol=1e-6)
    ranks = np.array([int(row["rank_of_class"]) for row in rows])
    assert (ranks == 1).mean() == evaluation.metrics["top_1"]
    assert (ranks <= 5).mean() == evaluation.metrics["top_5"]
    rows = csv_rows(folder / CLASSES)
    assert [row["class"] for row in rows] == [r["class"] for r in evaluation.classes]
    assert {row["class"] for row in rows} == set(NAMES[::2])  # those with images
    assert sum(int(row["images"]) for row in rows) == 40
    recalls = [float(row["recall"]) for row in rows]
    assert recalls == sorted(recalls)


def test_an_evaluation_of_a_thousand_classes_has_no_part_of_a_training(tmp_path):
    names = tuple(f"class {n}" for n in range(1000))
    labels = np.arange(1000, dtype="int32")
    predicted = np.where(labels == 7, 8, labels)  # class 7 is never predicted
    zeros = np.zeros(1000)
    predictions = Predictions(labels, predicted, zeros + 1, zeros, zeros)
    path = tmp_path / "image.png"
    Image.new("RGB", (16, 16)).save(path)
    images = files_dataset([path] * 1000, labels, names)
    thousand = Evaluation(predictions, images, READING, [], "set")
    write_report(tmp_path, thousand, title="net", data=tmp_path)
    page = (tmp_path / REPORT).read_text("utf-8")
    assert headings(page) == HEADINGS
    assert not (tmp_path / CURVES).exists()
    assert page.count("<tr><td>class ") == 1000
    never = '<td class="number">0.0%</td><td class="number">-</td>'
    assert page.count(never) == 1
    with Image.open(tmp_path / CONFUSION) as image:
        assert max(image.size) < 2200
    assert thousand.classes[0]["precision"] is None


@pytest.mark.parametrize(("classes", "has_top_5"), [(5, False), (6, True)])
def test_five_classes_have_no_top_5(classes, has_top_5):
    images = files_dataset(["a"], np.array([0]), tuple("abcdef")[:classes])
    one = Predictions.from_scores(np.full((1, classes), 1 / classes), np.array([0]))
    metrics = Evaluation(one, images, READING, [], "set").metrics
    assert ("top_5" in metrics) == has_top_5


def test_a_title_is_text_whatever_the_names(tmp_path):
    assert report_title("net", tmp_path / "d\udcff") == "net on d\\xff"
    assert report_title("n\udcff", f"{tmp_path}/data/") == "n\\xff on data"


# The plot of the confusion matrix


def blueness(path):
    """How blue each pixel of a plot is, int (height, width)."""
    with Image.open(path) as image:
        assert max(image.size) < 3000
        red, _, blue = np.moveaxis(np.asarray(image.convert("RGB"), int), -1, 0)
    return blue - red


def test_long_names_on_the_axes_leave_room_for_the_matrix(tmp_path):
    sizes = []
    for letters in (10, 250):
        names = [str(n) * letters for n in range(9)]
        plot_confusion(np.eye(9, dtype=int), names, tmp_path / "plot.png")
        sizes.append((blueness(tmp_path / "plot.png") > 60).sum())
    assert sizes[1] > 0.3 * sizes[0]


@pytest.mark.parametrize("count", [100, 2500])
def test_no_confusion_of_many_classes_is_lost(tmp_path, count):
    """Each of some cells off the diagonal is seen."""
    confusion = np.diag(np.full(count, 10))
    places = np.array([[0.1, 0.7], [0.33, 0.9], [0.5, 0.2], [0.8, 0.05]])
    rows, columns = (places * count).astype(int).T
    confusion[rows, columns] = 30
    plot_confusion(confusion, [str(n) for n in range(count)], tmp_path / "plot.png")
    dark = np.argwhere(blueness(tmp_path / "plot.png") > 60)
    edges = np.array([dark.min(axis=0), dark.max(axis=0) + 1])
    for place in zip(rows, columns, strict=True):
        wanted = edges[0] + (np.array(place) + 0.5) / count * (edges[1] - edges[0])
        assert np.abs(dark - wanted).max(axis=1).min() < 4
