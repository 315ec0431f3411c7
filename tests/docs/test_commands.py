"""The command lines of the README and the pages run one after another.

They run as printed, but training has fewer epochs and smaller images.
"""

import re
import shlex
from pathlib import Path

import pytest
from command import run
from helpers import ROOT
from PIL import Image

from resnext_keras.images.read import SAMPLE_PHOTO

pytestmark = [pytest.mark.tensorflow, pytest.mark.long]

PAGES = ["README", "docs/index", "docs/get-started", "docs/how-to/features"]
PAGES += ["docs/how-to/train", "docs/how-to/hub"]
# Pages of the engines.
OF_ENGINES = ["docs/how-to/export", "docs/how-to/predict-faster"]

SHORTER = {
    "train": ["--epochs", "1", "--batch", "4", "--size", "64"],
    "finetune": ["--epochs", "2", "--size", "64"],
}


def command_lines(pages):
    """The lines in plain blocks of the pages, each once, but for those with NAMES."""
    text = "".join((ROOT / f"{page}.md").read_text() for page in pages)
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    plain = "".join(block for language, block in blocks if not language)
    lines = re.findall("^resnext-keras .*", plain, re.MULTILINE)
    return [line for line in dict.fromkeys(lines) if not re.search("[A-Z]{4}", line)]


@pytest.fixture
def folder(tmp_path, monkeypatch, short_resnext50):
    """A current folder with the files that the lines name."""
    monkeypatch.chdir(tmp_path)
    photo = Image.open(SAMPLE_PHOTO).convert("RGB")
    for name in ("cat.jpg", "rose.jpg", "query.jpg", "photos/a.jpg", "photos/b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        photo.save(name)
    for data, names in (
        ("flowers", ("rose", "tulip")),
        ("more-flowers", ("rose", "tulip")),
        ("imagenet/train", ("n01440764", "n02123045")),
        ("imagenet/val", ("n01440764", "n02123045")),
    ):
        for number, name in enumerate(names):
            Path(data, name).mkdir(parents=True)
            for shift in range(6):
                box = (60 * number + 9 * shift, shift, 150 + 60 * number, 150)
                photo.crop(box).save(f"{data}/{name}/{shift}.jpg")
    return tmp_path


def run_all(pages):
    lines = command_lines(pages)
    for line in lines:
        arguments = shlex.split(line)[1:]
        run(*arguments, *SHORTER.get(arguments[0], ()))
    return lines


def test_the_lines_of_the_pages_run_in_order(folder):
    assert len(run_all(PAGES)) >= 12
    runs = ("flowers-run/report.html", "flowers-run.export")
    for made in (*runs, "features.parquet", "flowers-timm/README.md"):
        assert Path(made).exists()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converters'
def test_the_lines_about_engines_run_in_order(folder):
    pytest.importorskip("openvino")
    assert len(run_all(OF_ENGINES)) == 2
    assert Path("resnext50.int8.xml").exists()
    assert Path("resnext50_32x4d.tv2_in1k.int8.onnx").exists()
