"""Tables and plots of a benchmark show what was measured."""

import numpy as np
import pytest
from PIL import Image
from test_benchmark import BY_NAME

from resnext_keras.benchmark.contenders import MATRIX_PRODUCT
from resnext_keras.benchmark.plot import plot
from resnext_keras.benchmark.report import Report, in_seconds
from resnext_keras.benchmark.rounds import Run, Series


def series(contender, seconds, task="predict", batch=8, reason=""):
    first = [2.5, 1.5] if seconds else []
    memory = [2**30] if seconds else []
    return Series(Run(contender, task, batch), seconds, first, memory, reason)


def report(*found):
    facts = {
        "model": "resnext50_32x4d",
        "size": 224,
        "multiply_adds": 4_230_479_872,
        "gflops": 400.0,
        "threads": 2,
        "machine": {"processor": "a processor"},
    }
    return Report(facts, found)


def test_rows_hold_quartiles_ratios_and_the_floor():
    seconds = [0.31, 0.25, 0.4, 0.27, 0.29]
    ours, *torchs = (BY_NAME[n] for n in ("ours", "torch", "torch-channels-last"))
    panels = report(
        series(MATRIX_PRODUCT, [0.1]),
        series(ours, seconds),
        series(torchs[0], [0.4, 0.4]),
        series(torchs[1], [0.2]),
        series(BY_NAME["keras"], [], reason="took longer than 300 s"),
        series(ours, [1.0], "train", 1),
    ).panels
    assert [panel.title for panel in panels] == [
        "Prediction, batch of 8",
        "Training step, batch of 1",
    ]
    row, _, fastest, failed, floor = panels[0].rows
    assert [row.low, row.median, row.high] == list(np.percentile(seconds, [25, 50, 75]))
    assert row.ratio == pytest.approx(0.29 / 0.2)
    assert row.images == pytest.approx(8 / 0.29)
    assert (row.memory, row.first) == (2**30, 2.5)
    assert [fastest.low, fastest.ratio] == [0.2, 1]
    assert (failed.median, failed.reason) == (None, "took longer than 300 s")
    # 4.23 G multiply-adds an image, as `resnext-keras summary` has them.
    assert floor.median == pytest.approx(8 * 2 * 4.230479872 / 400)
    alone, floor = panels[1].rows
    assert (alone.ratio, floor.ratio) == (None, None)
    assert floor.median == pytest.approx(3 * 2 * 4.230479872 / 400)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([0.000589], "0.589 ms"),
        ([0.0023], "2.30 ms"),
        ([0.283], "283 ms"),
        ([0.9996], "1.00 s"),
        ([45.26], "45.3 s"),
        ([283.2], "283 s"),
        ([0.98, 1.02], "0.980 to 1.02 s"),
    ],
)
def test_times_have_three_digits(seconds, told):
    assert in_seconds(*seconds) == told


def test_plot_gives_each_table_a_panel_that_no_straggler_squashes(
    tmp_path, monkeypatch
):
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig

    def keep(figure, *args, **options):
        drawn.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    paces = {"ours": 0.2, "torch": 0.25, "torch-compile": 0.22, "keras": 45.0}
    found = [
        series(BY_NAME[name], [0.9 * pace, pace, 1.1 * pace], task, batch)
        for task in ("predict", "train")
        for batch in (1, 8)
        for name, pace in paces.items()
    ]
    found.append(series(BY_NAME["keras-applications"], [], reason="no memory"))
    path = tmp_path / "plot.png"
    plot(report(*found), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size[0] == 1600
        assert 500 < image.size[1] < 2000
    (figure,) = drawn
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert axes.get_xlim()[1] < 1
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == [BY_NAME[name].label for name in sorted(paces, key=paces.get)]
        assert any(text.get_text() == " 45.0 s" for text in axes.texts)
