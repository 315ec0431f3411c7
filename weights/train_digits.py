"""Trains the weight set "digits" and writes it, with the pictures it never saw.

    python weights/train_digits.py

The data are the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn
ships (UCI optdigits). 360 of them, each digit in its share and drawn by the
seed, are held out; the last epoch's weights are kept.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import resnext_keras
from resnext_keras.digits import HELD_OUT_FILE, as_network_sees
from resnext_keras.weights.registry import BUNDLED as DIGITS

HELD_OUT = 360


def load_pictures():
    """All pictures, uint8 (1797, 8, 8), white ink on black, and their digits."""
    data = load_digits()
    return np.round(data.images * (255 / 16)).astype("uint8"), data.target


def augmentation():
    """Small changes that leave a digit the same, paper and ink exchanged too."""
    move = {"fill_mode": "constant", "fill_value": 0.0}
    return keras.Sequential(
        [
            keras.layers.RandomRotation(0.04, **move),
            keras.layers.RandomTranslation(0.1, 0.1, **move),
            keras.layers.RandomZoom((-0.1, 0.4), (-0.1, 0.4), **move),
            keras.layers.RandomShear(0.1, 0.0, **move),
        ]
    )


def invert_some(images, generator):
    """Half of the pictures become black ink on white."""
    shape = (tf.shape(images)[0], 1, 1, 1)
    return tf.where(generator.uniform(shape) < 0.5, images, 255.0 - images)


def training_set(images, labels, batch_size, seed):
    """Shuffled, augmented and preprocessed batches."""
    augment = augmentation()
    generator = tf.random.Generator.from_seed(seed)

    def prepare(batch, digits):
        batch = invert_some(augment(batch, training=True), generator)
        return resnext_keras.preprocess_input(batch), digits

    data = tf.data.Dataset.from_tensor_slices((images, labels))
    data = data.shuffle(len(images), seed=seed).batch(batch_size)
    return data.map(prepare).prefetch(1)


def build():
    """The network with random weights."""
    return resnext_keras.ResNeXt(DIGITS.architecture, weights=None, classes=10)


def compile_(model, count, batch_size, epochs):
    """The recipe: SGD whose rate rises for a twentieth of the steps, then falls."""
    steps = epochs * -(-count // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=0.05, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    pictures, labels = load_pictures()
    images = as_network_sees(pictures, DIGITS.preprocessing).astype("float32")
    seen, held_out = train_test_split(
        np.arange(len(labels)),
        test_size=HELD_OUT,
        stratify=labels,
        random_state=options.seed,
    )
    model = build()
    compile_(model, len(seen), options.batch_size, options.epochs)
    data = training_set(images[seen], labels[seen], options.batch_size, options.seed)
    model.fit(data, epochs=options.epochs, verbose=2)

    for what, batch in (
        ("white ink on black", images[held_out]),
        ("black ink on white", 255 - images[held_out]),
    ):
        scores = model.predict(resnext_keras.preprocess_input(batch), verbose=0)
        accuracy = np.mean(scores.argmax(-1) == labels[held_out])
        print(f"{len(batch)} held-out pictures, {what}: top-1 {accuracy:.4f}")
    # A network that was never compiled, so that no state of the optimizer is saved.
    plain = build()
    plain.set_weights(model.get_weights())
    plain.save_weights(Path(__file__).with_name(DIGITS.file))
    np.savez_compressed(
        HELD_OUT_FILE,
        images=pictures[held_out],
        labels=labels[held_out].astype("uint8"),
    )


if __name__ == "__main__":
    main()
