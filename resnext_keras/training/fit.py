"""The phases of a run, each of which Keras' `fit` carries out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from resnext_keras.images.preprocessing import preprocess_input
from resnext_keras.models.backbone import freeze
from resnext_keras.models.data_format import channels_first
from resnext_keras.training.averaging import MovingAverage
from resnext_keras.training.checkpoint import TrainingError, read_progress, restore
from resnext_keras.training.distribution import Devices
from resnext_keras.training.keeper import CHECKPOINT, Keeper, new_progress
from resnext_keras.training.optimizers import build_optimizer
from resnext_keras.training.settings import Settings


@dataclass(frozen=True)
class Batches:
    """What the phases of a run train on.

    Attributes:
        training: From the number of a phase and of its first step to a
            `tf.data.Dataset` of uint8 pixels (batch, H, W, 3) and float32 shares of
            the classes (batch, classes), step by step to the end of the phase.
        validation: Such a dataset of each validation image.
        steps: From the number of a phase to that of its steps in an epoch.
    """

    training: Callable
    validation: object
    steps: Callable[[int], int]


def of_pixels(network: keras.Model) -> keras.Model:
    """A network with `preprocess_input` before it: pixels are uint8 until the device.

    Args:
        network: From preprocessed images to logits.

    Returns:
        A model of the same weights, from uint8 (batch, H, W, 3) to float32 logits.
    """
    pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
    images = preprocess_input(pixels, "channels_last")
    if channels_first():
        images = keras.ops.transpose(images, (0, 3, 1, 2))
    logits = keras.ops.cast(network(images), "float32")
    return keras.Model(pixels, logits, name=f"{network.name}_of_pixels")


def run_phases(
    network: keras.Model,
    settings: Settings,
    batches: Batches,
    folder: Path,
    *,
    devices: Devices,
    resume: bool = False,
    seconds: float = 60.0,
    verbose: int | str = "auto",
) -> dict:
    """Trains a network as settings say, and keeps its best weights in a folder.

    Args:
        network: From preprocessed images to logits.
        settings: What the run is set to.
        batches: What it trains on.
        folder: Where `checkpoint.safetensors`, `best.weights.h5` and `history.csv`
            are written.
        devices: In whose scope the network was built.
        resume: Whether to go on from the checkpoint in the folder, if there is one.
        seconds: From one checkpoint to the next; each epoch ends with one.
        verbose: As Keras' `fit` has it.

    Returns:
        The progress, see `new_progress`.

    Raises:
        TrainingError: The loss is no number any more, or a step does not fit in
            memory; the last good checkpoint stays.
        ValueError: As of `Devices.check_progress`.
    """
    with devices.scope():
        model = of_pixels(network)
    path = folder / CHECKPOINT
    resume = resume and path.exists()
    progress = read_progress(path) if resume else new_progress()
    devices.check_progress(progress["phase"], progress["step"])
    while progress["phase"] < len(settings.phases):
        number = progress["phase"]
        phase, steps = settings.phases[number], batches.steps(number)
        with devices.scope():
            metrics = _compile(model, network, settings, phase, steps)
            average = _average(network, phase, steps)
        if progress["step"] < phase.recipe.epochs * steps:
            keeper = Keeper(
                folder,
                network,
                progress,
                steps,
                # Of several workers each counts its share, and would have to be read
                # at the same step; the row of an epoch that was stopped lacks them.
                metrics if devices.workers == 1 else [],
                average,
                seconds,
                resume,
                writes=devices.is_chief,
            )
            callbacks = [average, keeper] if average else [keeper]
            _fit(model, phase, steps, batches, progress, callbacks, devices, verbose)
        elif resume:  # stopped between two phases
            restore(path, model.variables)
        resume = False
        progress |= {"phase": number + 1, "step": 0}
    return progress


def _compile(model, network, settings, phase, steps):
    # Not `network.trainable = True`: where it is that already, Keras does nothing.
    for layer in network.layers:
        layer.trainable = True
    if phase.frozen:
        freeze(network, phase.frozen)
    recipe, parts = phase.recipe, settings.accumulate
    classes = network.output_shape[-1]
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    optimizer = build_optimizer(
        recipe,
        steps_per_epoch=steps,
        gradient_accumulation_steps=parts if parts > 1 else None,
    )
    if settings.precision == "mixed_float16":
        # Keras does so by the policy of the model, which takes pixels and is not half.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        weighted_metrics=metrics,  # of several devices some pad their last batch
        steps_per_execution=settings.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)  # a checkpoint may fill them
    return [model.metrics[0], *metrics]  # the first is the loss


def _average(network, phase, steps):
    recipe = phase.recipe
    if not recipe.ema:
        return None
    return MovingAverage(network, recipe.ema * recipe.epochs * steps)


def _fit(model, phase, steps, batches, progress, callbacks, devices, verbose):
    """The rest of a phase: what is left of an epoch by a call of its own."""
    number, epochs = progress["phase"], phase.recipe.epochs
    while progress["step"] < epochs * steps:
        done, begun = divmod(progress["step"], steps)
        try:
            devices.fit(
                model,
                batches.training(number, progress["step"]),
                initial_epoch=done,
                epochs=done + 1 if begun else epochs,
                steps_per_epoch=steps - begun,
                validation_data=batches.validation,
                callbacks=callbacks,
                verbose=verbose,
                shuffle=False,  # the batches are in their order
            )
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            raise TrainingError(
                "A step does not fit in memory. A smaller batch does, or the same in "
                f"parts by --accumulate, or a smaller --size. Received: {error}"
            ) from error


def _is_out_of_memory(error: Exception) -> bool:
    told = f"{type(error).__name__} {error}".lower()
    return any(
        sign in told
        for sign in ("resourceexhausted", "resource_exhausted", "out of memory", "oom")
    ) or isinstance(error, MemoryError)
