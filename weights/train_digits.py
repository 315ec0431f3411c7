"""Trains the weight set "digits" and writes it, with the pictures it never saw.

    python weights/train_digits.py

The data are the 1,797 handwritten digits that scikit-learn ships (UCI
optdigits, 8 x 8 pixels, 13 writers). They stand writer after writer, and a
sheet begins at picture 1415: the pictures from there on are held out, so that
the accuracy is that on hands which training never saw. Nothing is chosen by
that accuracy; the last epoch's weights are kept.
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import resnext_keras
from resnext_keras.digits import HELD_OUT, as_network_sees
from resnext_keras.weights.registry import CHECKOUT, WEIGHT_SETS

DIGITS = WEIGHT_SETS["digits"]
HELD_OUT_FROM = 1415


def load_pictures():
    """All pictures, uint8 (1797, 8, 8), white ink on black, and their digits."""
    data = load_digits()
    return np.round(data.images * (255 / 16)).astype("uint8"), data.target


def augmentation():
    """Small changes that leave a digit the same, paper and ink exchanged too."""
    move = {"fill_mode": "constant", "fill_value": 0.0}
    return keras.Sequential(
        [
            keras.layers.RandomRotation(0.05, **move),
            keras.layers.RandomTranslation(0.12, 0.12, **move),
            keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **move),
            keras.layers.RandomShear(0.2, 0.0, **move),
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


def build(count, batch_size, epochs):
    """The network, compiled with the recipe."""
    model = resnext_keras.ResNeXt(DIGITS.architecture, weights=None, classes=10)
    steps = epochs * -(-count // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=0.05, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    pictures, labels = load_pictures()
    images = as_network_sees(pictures, DIGITS.preprocessing).astype("float32")
    seen, held_out = slice(None, HELD_OUT_FROM), slice(HELD_OUT_FROM, None)
    model = build(len(images[seen]), options.batch_size, options.epochs)
    data = training_set(images[seen], labels[seen], options.batch_size, options.seed)
    model.fit(data, epochs=options.epochs, verbose=2)

    for what, batch in (
        ("white ink on black", images[held_out]),
        ("black ink on white", 255 - images[held_out]),
    ):
        scores = model.predict(resnext_keras.preprocess_input(batch), verbose=0)
        accuracy = np.mean(scores.argmax(-1) == labels[held_out])
        print(f"{len(batch)} held-out pictures, {what}: top-1 {accuracy:.4f}")
    model.save_weights(CHECKOUT / DIGITS.file)
    np.savez_compressed(
        HELD_OUT, images=pictures[held_out], labels=labels[held_out].astype("uint8")
    )


if __name__ == "__main__":
    main()
