"""Tables and plots of a benchmark show what its JSON file holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tables import in_seconds, markdown, panels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PUBLISHED = BENCHMARKS / "2026-11-24-epyc-2-cores-3.json"


def result(contender, kind, seconds, task="predict", batch=8, **more):
    """One entry of a JSON file."""
    first = [2.5, 1.5] if seconds else []
    memory = [2**30] if seconds else []
    entry = {"contender": contender, "kind": kind, "task": task, "batch": batch}
    measured = {"seconds": seconds, "first_seconds": first, "peak_bytes": memory}
    return entry | measured | {"reason": ""} | more


def test_rows_hold_quartiles_ratios_and_the_floor():
    seconds = [0.31, 0.25, 0.4, 0.27, 0.29]
    results = [
        result("floor", "floor", [0.5, 0.4], "floor", 1, options={"side": 4000}),
        result("ours", "ours", seconds, device_peak_bytes=[2**31]),
        result("torch", "torch", [0.4, 0.4]),
        result("torch-channels-last", "torch", [0.2]),
        result("keras", "other", [], reason="took longer than 300 s"),
        result("ours", "ours", [1.0], "train", 1),
        result("ours", "ours", [0.1], precision="bfloat16"),
        result("torch", "torch", [0.05], precision="bfloat16"),
    ]
    tables = panels({"results": results, "multiply_adds": 4_230_479_872})
    assert list(tables) == [
        ("predict", 8, "float32"),
        ("train", 1, "float32"),
        ("predict", 8, "bfloat16"),
    ]
    ours, _, fastest, failed, floor = tables["predict", 8, "float32"]
    assert ours["median"] == 0.29
    assert ours["quartiles"] == tuple(np.percentile(seconds, [25, 75]))
    assert ours["ratio"] == pytest.approx(0.29 / 0.2)
    assert ours["images"] == pytest.approx(8 / 0.29)
    assert (ours["first"], ours["peak_bytes"]) == (2.5, 2**30)
    assert ours["device_peak_bytes"] == 2**31
    assert fastest["ratio"] == 1
    assert failed == {
        "contender": "keras",
        "kind": "other",
        "failed": "took longer than 300 s",
    }
    # Two operations a multiply-add, at the rate of the fastest product.
    rate = 2 * 4000**3 / 0.4
    assert floor["median"] == pytest.approx(8 * 2 * 4_230_479_872 / rate)
    assert [row["ratio"] for row in tables["predict", 8, "bfloat16"]] == [2, 1]
    ours, floor = tables["train", 1, "float32"]
    assert "ratio" not in ours
    assert floor["median"] == pytest.approx(3 * 2 * 4_230_479_872 / rate)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([0.000589], "0.589 ms"),
        ([0.9996], "1.00 s"),
        ([45.26], "45.3 s"),
        ([0.98, 1.02], "0.980 to 1.02 s"),
    ],
)
def test_times_have_three_digits(seconds, text):
    assert in_seconds(*seconds) == text


def test_published_files_give_the_published_tables():
    text = markdown(json.loads(PUBLISHED.read_text()))
    training = text[text.index("Training step, batch of 8, float32") :].splitlines()
    assert training[4].startswith("| ours | 747 ms | 732 to 798 ms | 0.86 |")
    assert training[8].startswith(
        "| torch-channels-last | 870 ms | 857 to 893 ms | 1.00"
    )
    assert training[-1].startswith("| floor, 510 GFLOP/s | 398 ms |  | 0.46 |")


def test_tables_need_no_package_and_the_plot_matplotlib(tmp_path):
    script = [str(BENCHMARKS / "tables.py"), str(PUBLISHED)]
    alone = subprocess.run(
        [sys.executable, "-S", *script], capture_output=True, text=True
    )
    assert alone.stdout.rstrip() == markdown(json.loads(PUBLISHED.read_text()))
    path = tmp_path / "plot.png"
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path)}
    drawing = [sys.executable, *script, "--plot", str(path)]
    subprocess.run(drawing, env=environment, check=True, capture_output=True)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1600
