"""The examples in docstrings give what they say."""

import doctest
import re
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

import resnext_keras
from resnext_keras.digits import held_out_digits
from resnext_keras.images.read import SAMPLE_PHOTO

pytestmark = pytest.mark.tensorflow

BUILDERS = {
    name
    for name in resnext_keras.__all__
    if re.match(r"(SE)?ResNeXt(AA)?\d", name) and name != "ResNeXt50"
}

EXAMPLES = [
    test
    for name in resnext_keras.__all__
    for test in doctest.DocTestFinder(recurse=False).find(
        getattr(resnext_keras, name),
        name,
        module=False,
        globs={"keras": keras, "np": np, "rk": resnext_keras},
    )
    # The builders have one docstring.
    if test.examples and name not in BUILDERS
]


def test_the_names_that_users_call_most_have_an_example():
    assert len(EXAMPLES) >= 20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_is_true(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE_PHOTO, "cat.jpg")
    (image, *_), _ = held_out_digits()
    Image.fromarray(image).save("digit.png")
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert not capsys.readouterr().out
