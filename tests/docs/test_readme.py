"""The README's Python runs from top to bottom, as it stands."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image, ImageOps

from resnext_keras import (
    Preprocessing,
    export_file,
    preprocess_input,
    read_image,
    weights_preprocessing,
)
from resnext_keras.classifier import load_classifier
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.export.model_card import ModelCard
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
    # The five top classes, and the top class of a file.
    assert len(re.findall(r"\('n\d{8}', '", printed)) == 6
    assert names["features"].shape == (1, 2048)
    assert len(names["pyramid"].outputs) == 4
    assert Path("flowers/1/saved_model.pb").is_file()
    assert Path("flowers.tflite").is_file()
    assert names["model"].output_shape == (None, 20)
    assert names["backbone"].output.dtype == "bfloat16"
    assert names["classifier"].compute_dtype == "float32"


def images_of_many_kinds(folder, photo):
    """Paths of files with transparency, 16 bits, a palette, CMYK and an orientation."""
    rgba = photo.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(photo.size))
    palette = photo.quantize(16)
    palette.info["transparency"] = 3
    grey = np.asarray(photo.convert("L"), "uint16") * 257 + 100
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "rgba.png": (rgba, {}),
        "la.png": (rgba.convert("LA"), {}),
        "16.png": (Image.fromarray(grey), {}),
        "palette.png": (palette, {"transparency": 3}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "turned.jpg": (photo, {"exif": exif}),
        "one_bit.png": (photo.convert("1"), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    return [folder / name for name in kinds]


@pytest.mark.parametrize(
    "how", [Preprocessing(50, 60), Preprocessing(32, (8, 32), "bicubic")], ids=str
)
def test_the_reading_without_this_package_is_that_of_read_image(tmp_path, how):
    (block,) = (
        block
        for block in re.findall("```py\n(.*?)```", README.read_text(), re.DOTALL)
        if "onnxruntime" in block
    )
    names = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(block.split("session =")[0], names)
    photo = Image.open(SAMPLE_PHOTO).convert("RGB").resize((97, 75))
    card = json.loads(json.dumps(ModelCard("model", how).as_json()))
    for path in images_of_many_kinds(tmp_path, photo):
        expected = preprocess_input(read_image(path, how)[np.newaxis])[0]
        found = names["read"](path, card["preprocessing"])
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=str(path))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # the converters'
def test_an_onnx_file_runs_without_this_package(tmp_path, monkeypatch, capsys):
    names = {"onnxruntime": pytest.importorskip("onnxruntime")}
    monkeypatch.chdir(tmp_path)
    classifier = load_classifier(weights="digits")
    export_file(classifier.model, "digits.onnx", weights="digits")
    pixels, digits = held_out_digits()
    blocks = re.findall("```py\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "onnxruntime" in block)
    exec("import json\nimport numpy as np\nfrom PIL import Image, ImageOps", names)
    found = []
    for image in pixels[:20]:
        Image.fromarray(image).save("digit.png")
        exec(block, names)
        found.append(int(capsys.readouterr().out))
    expected = classifier.predict(
        as_network_sees(pixels[:20], weights_preprocessing("digits")), 1
    )
    assert found == [int(name) for ((_, name, _),) in expected]
    assert np.mean(found == digits[:20]) > 0.9
