"""The README and the pages in docs/: every public name is there, their Python runs."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image, ImageOps

import resnext_keras
from resnext_keras import Preprocessing
from resnext_keras.digits import as_network_sees, held_out_digits
from resnext_keras.export.model_card import ModelCard
from resnext_keras.images.read import SAMPLE_PHOTO

DOCS = ROOT / "docs"
PAGES = [
    page
    for page in sorted(
        [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")]
    )
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
    page, tmp_path, monkeypatch, short_resnext50, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE_PHOTO, "cat.jpg")
    names = {}
    text = page.read_text()
    for block in re.finditer("```python\n(.*?)```", text, re.DOTALL):
        # Empty lines before it, so that a traceback names the page's line.
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1], page, "exec"), names)
    if page.stem == "README":
        top = re.findall(r"\('n\d{8}', '", capsys.readouterr().out)
        assert len(top) == 5
        assert names["features"].shape == (1, 2048)


def onnx_block():
    """The Python of the page on exported files that uses ONNX Runtime."""
    page = DOCS / "how-to" / "without-the-package.md"
    blocks = re.findall("```py\n(.*?)```", page.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "onnxruntime" in block)
    return block


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
    block = onnx_block()
    names = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(block.split("session =")[0], names)
    photo = Image.open(SAMPLE_PHOTO).convert("RGB").resize((97, 75))
    card = json.loads(json.dumps(ModelCard("model", how).as_json()))
    for path in images_of_many_kinds(tmp_path, photo):
        expected = resnext_keras.preprocess_input(
            resnext_keras.read_image(path, how)[np.newaxis]
        )[0]
        found = names["read"](path, card["preprocessing"])
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=str(path))


@pytest.mark.parity
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")  # the converters'
def test_an_onnx_file_runs_without_this_package(tmp_path, monkeypatch, capsys):
    names = {"onnxruntime": pytest.importorskip("onnxruntime")}
    monkeypatch.chdir(tmp_path)
    classifier = resnext_keras.load_classifier(weights="digits")
    resnext_keras.export_file(classifier.model, "digits.onnx", weights="digits")
    pixels, digits = held_out_digits()
    block = onnx_block()
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
