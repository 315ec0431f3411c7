"""The pages in docs/ have every public name, and their Python runs."""

import re
import shutil

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

import resnext_keras
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.images.read import SAMPLE_PHOTO

DOCS = ROOT / "docs"
PAGES = [
    page
    for page in sorted([*DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")])
    # Its only block reads the files of a run on 250 machines.
    if "```python" in page.read_text() and page.stem != "large-collections"
]


def test_the_reference_has_every_public_name_once():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    named = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)", text, re.M)
    documented = [name for name in named if name != "resnext_keras"]
    assert sorted(documented) == sorted(resnext_keras.__all__)


def test_a_dead_link_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    from links import dead_links

    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html#there"></a><a href="#here"></a><img src="c.png">'
        '<a href="https://keras.io"></a><a href="b.html"></a>'
    )
    (tmp_path / "b.html").write_text("<p>")
    assert sorted(dead_links(tmp_path)) == ["a.html: b.html#there", "a.html: c.png"]


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(
    page, tmp_path, monkeypatch, publish, resnext50_file
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE_PHOTO, "cat.jpg")
    shutil.copy(resnext50_file, tmp_path)
    publish("resnext50_32x4d.tv2_in1k", tmp_path / resnext50_file.name)
    names = {}
    text = page.read_text()
    for block in re.finditer("```python\n(.*?)```", text, re.DOTALL):
        # Empty lines before it, so that a traceback names the page's line.
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1], page, "exec"), names)


@pytest.mark.parity
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")  # the converters'
def test_an_onnx_file_runs_without_this_package(tmp_path, monkeypatch, capsys):
    names = {"onnxruntime": pytest.importorskip("onnxruntime")}
    monkeypatch.chdir(tmp_path)
    classifier = resnext_keras.load_classifier(weights="digits")
    resnext_keras.export_file(classifier.model, "digits.onnx", weights="digits")
    pixels, digits = held_out_digits()
    blocks = re.findall(
        "```py\n(.*?)```",
        (DOCS / "how-to" / "without-the-package.md").read_text(),
        re.DOTALL,
    )
    (block,) = (block for block in blocks if "onnxruntime" in block)
    exec("import json\nimport numpy as np\nfrom PIL import Image, ImageOps", names)
    found = []
    for image in pixels[:20]:
        Image.fromarray(image).save("digit.png")
        exec(block, names)
        found.append(int(capsys.readouterr().out))
    expected = classifier.predict(
        as_network_sees(pixels[:20], resnext_keras.weights_preprocessing("digits")), 1
    )
    assert found == [int(name) for ((_, name, _),) in expected]
    assert np.mean(found == digits[:20]) > 0.9
