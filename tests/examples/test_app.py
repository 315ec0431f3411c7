"""The page of examples/app.py classifies and explains a photo in a browser."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from run_data import image_folder
from weight_files import TINY

import resnext_keras as rk
from resnext_keras.digits import held_out_digits

pytestmark = [pytest.mark.parity, pytest.mark.tensorflow]

BROWSERS = "chromium", "chromium-browser", "google-chrome"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path  # of `playwright install chromium`
        path = next(filter(None, map(shutil.which, (*BROWSERS, own))), None)
        if path is None:
            pytest.skip("needs Chromium: apt-get install chromium")
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """Opens the page of an app; it asks no other machine for anything."""
    with contextlib.ExitStack() as stack:
        hosts = set()

        def opened(*arguments):
            page = stack.enter_context(browser.new_page())
            page.set_default_timeout(120_000)  # in milliseconds
            page.on("request", lambda sent: hosts.add(urlsplit(sent.url).hostname))
            page.goto(stack.enter_context(running_app(tmp_path, *arguments)))
            return page

        yield opened
    assert hosts - {None} == {"127.0.0.1"}  # None: within the page


@contextlib.contextmanager
def running_app(folder, *arguments):
    """The address of the app, which runs until the end of the block."""
    command = [sys.executable, "-u", ROOT / "examples" / "app.py", *arguments]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as app:
        try:
            found = (re.search(r"http://\S+", line) for line in app.stdout)
            yield next(filter(None, found))[0]
        finally:
            app.terminate()


def drop(page, path):
    page.locator("input[type=file]").set_input_files(path)


def shown_classes(page):
    """The classes on the page and their scores, in order."""
    page.get_by_test_id("label-output-value").wait_for()
    meters = page.locator("meter").all()
    return {
        m.get_attribute("aria-label"): float(m.get_attribute("value")) for m in meters
    }


def shown_images(page, name):
    """The two images of the slider, when it shows the evidence for a class."""
    page.get_by_text(f"Evidence for {name}", exact=True).wait_for()
    images = page.get_by_test_id("imageslider-image").all()
    found = [page.request.get(image.get_attribute("src")).body() for image in images]
    return [
        np.float32(Image.open(io.BytesIO(content)).convert("RGB")) for content in found
    ]


def assert_explained(page, path, classifier, name):
    """The slider has the image as the network sees it, and that under the heat map."""
    image = rk.read_image(path, classifier.preprocessing)
    number = classifier.class_names.index(name)
    batch = rk.preprocess_input(image[np.newaxis])
    (heat,) = rk.grad_cam(classifier.model, batch, number)
    plain, heated = shown_images(page, name)
    for found, expected in ((plain, np.zeros((1, 1))), (heated, heat)):
        expected = np.float32(rk.overlay(image, expected, 448))
        assert np.abs(found - expected).mean() < 3  # WebP
    return np.abs(heated - plain).mean()


def test_a_photo_is_classified_and_explained(page, tmp_path):
    (image, *_), (label, *_) = held_out_digits()
    photo = Image.fromarray(image).resize((64, 64)).transpose(Image.Transpose.ROTATE_90)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned back
    photo.save(tmp_path / "digit.jpg", exif=orientation)
    classifier = rk.load_classifier(weights="digits")
    ((_, expected),) = classifier.predict_each(tmp_path / "digit.jpg")
    page = page("--weights", "digits")
    drop(page, tmp_path / "digit.jpg")
    classes = shown_classes(page)
    assert list(classes) == [name for _, name, _ in expected]
    assert next(iter(classes)) == str(label)
    scores = [score for *_, score in expected]
    np.testing.assert_allclose(list(classes.values()), scores, atol=1e-4)
    assert assert_explained(page, tmp_path / "digit.jpg", classifier, str(label)) > 3
    other = list(classes)[1]
    page.get_by_test_id(f"{other}-confidence-set").click()
    assert_explained(page, tmp_path / "digit.jpg", classifier, other)

    page.get_by_label("Clear").first.click()
    page.get_by_test_id("imageslider-image").first.wait_for(state="detached")
    Path(tmp_path, "text.jpg").write_text("<b>no image</b>")
    drop(page, tmp_path / "text.jpg")
    page.get_by_text("a file that begins with b'<b>no image</b>'").wait_for()


def test_a_run_has_its_own_classes(page, tmp_path):
    data = image_folder(tmp_path / "data", 8)
    rk.train(data, tmp_path / "run", TINY, epochs=1, batch_size=8, verbose=0)
    page = page("--weights", str(tmp_path / "run"))
    drop(page, data / "light" / "0.png")
    assert set(shown_classes(page)) == {"Dark Room", "light"}
