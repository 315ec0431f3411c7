"""The pages in docs/ have every public name, and their Python runs."""

import re
import shutil

import pytest
from helpers import ROOT

import resnext_keras
from resnext_keras.images.read import SAMPLE_PHOTO

DOCS = ROOT / "docs"


def test_the_reference_has_every_public_name_once():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    named = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)", text, re.M)
    documented = [name for name in named if name != "resnext_keras"]
    assert sorted(documented) == sorted(resnext_keras.__all__)


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "page",
    ["index", "get-started", *(f"how-to/{p.stem}" for p in DOCS.glob("how-to/*"))],
)
def test_the_python_of_a_page_runs(
    page, tmp_path, monkeypatch, publish, resnext50_file
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE_PHOTO, "cat.jpg")
    shutil.copy(resnext50_file, tmp_path)
    publish("resnext50_32x4d.tv2_in1k", tmp_path / resnext50_file.name)
    names = {}
    file = DOCS / f"{page}.md"
    text = file.read_text()
    for block in re.finditer("```python\n(.*?)```", text, re.DOTALL):
        # Empty lines before it, so that a traceback names the page's line.
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1], file, "exec"), names)
