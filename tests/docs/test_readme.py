"""The README's Python runs from top to bottom, as it stands."""

import re
import shutil
import sys

import pytest
from helpers import ROOT

from resnext_keras.images.read import SAMPLE_PHOTO
from resnext_keras.inference.engines import ENGINES

pytestmark = pytest.mark.tensorflow

README = ROOT / "README.md"


@pytest.mark.long
def test_the_blocks_run_one_after_another(
    tmp_path, monkeypatch, publish, resnext50_file, capsys
):
    # To convert a network for another engine takes long, and has its own tests.
    for engine in set(ENGINES) - {"tensorflow"}:
        monkeypatch.setitem(sys.modules, engine, None)
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE_PHOTO, "cat.jpg")
    shutil.copy(resnext50_file, tmp_path)
    publish("resnext50_32x4d.tv2_in1k", tmp_path / resnext50_file.name)
    text = README.read_text()
    names = {}
    for block in re.finditer("```python\n(.*?)```", text, re.DOTALL):
        # Empty lines before it, so that a traceback names the README's line.
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1], README, "exec"), names)
    printed = capsys.readouterr().out
    assert len(re.findall(r"\('n\d{8}', '", printed)) == 5  # the top classes
    assert names["features"].shape == (1, 2048)
