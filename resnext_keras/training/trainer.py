"""Training: from a run that is opened to a network in its folder."""

import contextlib

import keras
import tensorflow as tf

from resnext_keras.classifier import Classifier, load_classifier
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.io import atomic_write, clear_unfinished, exclusive_lock
from resnext_keras.models.data_format import image_shape
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.training.data.pipeline import evaluation_batches, training_batches
from resnext_keras.training.determinism import make_deterministic
from resnext_keras.training.fit import Batches, run_phases
from resnext_keras.training.run import Run
from resnext_keras.training.settings import Settings

MODEL = "model.keras"

LOCK = ".lock"  # of the process that is at work in the folder


def train(
    run: Run, *, seconds: float = 60.0, verbose: int | str = "auto"
) -> Classifier | None:
    """Trains the network of a run, and leaves what is wanted of it in its folder.

    Args:
        run: From `open_run`.
        seconds: From one checkpoint to the next; each epoch ends with one.
        verbose: As Keras' `fit` has it.

    Returns:
        The network with its best weights, which `model.keras` holds too; None on
        workers other than the first, which alone writes files.

    Raises:
        TrainingError: As of `run_phases`.
        ValueError: Another process is at work in the folder.
    """
    if not run.devices.is_chief:
        _train(run, seconds, 0)
        return None
    with exclusive_lock(run.folder, LOCK):
        clear_unfinished(run.folder)
        _train(run, seconds, verbose)
        classifier = load_classifier(weights=run.folder)
        with atomic_write(run.folder / MODEL) as file:
            classifier.model.save(file)
    return classifier


def _train(run: Run, seconds: float, verbose: int | str) -> None:
    settings = run.settings
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        make_deterministic()
    devices = run.devices
    with devices.scope(), _policy(settings.precision):
        network = build_network(
            settings, len(run.training.class_names), run.preprocessing
        )
    run_phases(
        network,
        settings,
        _batches(run),
        run.folder,
        devices=devices,
        resume=run.resume,
        seconds=seconds,
        verbose=verbose,
    )
    devices.part()


def build_network(
    settings: Settings, classes: int, preprocessing: Preprocessing
) -> keras.Model:
    """The network that a run begins with, from preprocessed images to logits."""
    recipes = [phase.recipe for phase in settings.phases]
    sizes = {recipe.train_size or preprocessing.size for recipe in recipes}
    size = preprocessing.size if sizes == {preprocessing.size} else None
    network = ResNeXt(
        settings.spec,
        weights=settings.weights,
        input_shape=image_shape(size, size),
        classes=classes,
        classifier_activation=None,
        drop_path_rate=max(recipe.drop_path for recipe in recipes),
    )
    if settings.weights:  # that of other classes
        head = network.get_layer("predictions")
        head.kernel.assign(head.kernel_initializer(head.kernel.shape))
        head.bias.assign(keras.ops.zeros(head.bias.shape))
    return network


def _batches(run: Run) -> Batches:
    settings, classes = run.settings, len(run.training.class_names)
    devices = run.devices

    def steps(number):
        together = settings.steps_per_execution
        return run.steps(settings.phases[number]) // together * together

    def training(number, first_step):
        phase = settings.phases[number]
        return training_batches(
            run.training,
            phase.recipe,
            run.preprocessing,
            seed=settings.seed + number,
            steps=phase.recipe.epochs * steps(number) - first_step,
            first_step=first_step,
            batch_size=settings.step_size(phase),
            worker=devices.worker,
            workers=devices.workers,
        )

    def shares(pixels, labels):
        return pixels, tf.one_hot(labels, classes)

    own = devices.share(run.validation)
    rows = run.evaluation_rows * devices.replicas // devices.workers
    validation = evaluation_batches(own, run.preprocessing, rows).map(shares)
    validation = devices.evenly(validation, len(run.validation), rows)
    return Batches(training, validation, steps)


@contextlib.contextmanager
def _policy(name: str):
    """A time in which layers are built for a precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
