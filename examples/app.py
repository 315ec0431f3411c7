"""A page for the browser: drop a photo, see its classes and the evidence for each.

pip install gradio
python examples/app.py                        # ImageNet's classes
python examples/app.py --weights flowers-run  # those of a training run
python examples/app.py --weights digits       # handwritten digits, offline
"""

import argparse
import html

import gradio as gr
import numpy as np

import resnext_keras as rk

SIDE = 448  # of a drawn image, in pixels


def build_app(classifier: rk.Classifier) -> gr.Blocks:
    """The page of a classifier."""

    def classify(path):
        """The most probable classes of an image, and the evidence for the first."""
        if path is None:  # the file was removed
            return None, None
        image = read(path)
        (predictions,) = classifier.predict(image[np.newaxis], top=5)
        scores = {name: score for _, name, score in predictions}
        return scores, evidence(image, next(iter(scores)))

    def explain(path, clicked: gr.SelectData):
        """The evidence for the class that was clicked."""
        return evidence(read(path), clicked.value)

    def read(path):
        try:
            return rk.read_image(path, classifier.preprocessing)
        except rk.ImageError as error:
            raise gr.Error(
                html.escape(error.reason),  # it may quote the file
                title="The photo cannot be read",
                print_exception=False,
            ) from error

    def evidence(image, name):
        """The image without and with the heat map of a class."""
        batch = rk.preprocess_input(
            image[np.newaxis], preprocessing=classifier.preprocessing
        )
        number = classifier.class_names.index(name)
        (heat,) = rk.grad_cam(classifier.model, batch, number)
        drawn = [rk.overlay(image, maps, SIDE) for maps in (np.zeros((1, 1)), heat)]
        return gr.ImageSlider(drawn, label=f"Evidence for {name}")

    with gr.Blocks(title="ResNeXt", analytics_enabled=False) as app:
        gr.Markdown(f"# What is in the photo?\n{classifier.weights}")
        with gr.Row():
            with gr.Column():
                # A file: `gr.Image` would open it, and knows fewer formats.
                photo = gr.File(label="Photo", height=140)
                classes = gr.Label(label="Classes: click one for its evidence")
            slider = gr.ImageSlider(label="Evidence", interactive=False)
        # The same id: one at a time, as `grad_cam` asks.
        photo.change(classify, photo, [classes, slider], concurrency_id="network")
        classes.select(explain, photo, slider, concurrency_id="network")
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Opens a page to drop photos on.")
    parser.add_argument(
        "--weights", help="name of a weight set, weight file or folder of a run"
    )
    options = parser.parse_args()
    build_app(rk.load_classifier(weights=options.weights)).launch()
