"""Training and fine-tuning: from images in a folder to a network in another."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from resnext_keras.classifier import load_classifier
from resnext_keras.export.saved_model import export_saved_model
from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
from resnext_keras.inference.engines import check_backend
from resnext_keras.io import atomic_write, clear_unfinished, exclusive_lock
from resnext_keras.models.backbone import freeze
from resnext_keras.models.data_format import channels_first, image_shape
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ResNeXtSpec, get_spec
from resnext_keras.training.callbacks import (
    CHECKPOINT,
    EMA,
    HISTORY,
    TrainingError,
    TrainingState,
    new_progress,
    read_progress,
    restore,
)
from resnext_keras.training.data.pipeline import evaluation_batches, training_batches
from resnext_keras.training.distribution import Devices, make_deterministic
from resnext_keras.training.evaluation import Evaluation, evaluate_images
from resnext_keras.training.optimizers import build_optimizer
from resnext_keras.training.recipes import Recipe, adjusted, get_recipe
from resnext_keras.training.report import (
    REPORT,
    check_packages,
    report_title,
    write_report,
)
from resnext_keras.training.run import SKIPPED, Run, open_run
from resnext_keras.training.settings import Phase, Settings, finetune_phases
from resnext_keras.weights.checkpoint import BEST, RUN, resolve

MODEL, EXPORT = "model.keras", "saved_model"

LOCK = ".lock"  # of the process that trains in the folder

DEFAULT = "resnext50_32x4d"


@dataclass(frozen=True)
class TrainingResult:
    """What training left behind.

    Attributes:
        history: A row of numbers for each epoch, as `history.csv` has them: `epoch`,
            `phase`, `loss`, `accuracy`, `val_loss`, `val_accuracy`, `learning_rate`,
            `seconds`, and for more than five classes `top5` and `val_top5`.
        folder: The folder of the run, which `weights=` takes.
        files: Path of each file by its name: `best.weights.h5`, `model.keras`,
            `report.html`, `history.csv`, `run.json`, `skipped.csv`,
            `checkpoint.safetensors`, and `saved_model` if it was asked for.
        evaluation: Of the best weights on the validation images.
    """

    history: list[dict]
    folder: Path
    files: dict[str, Path]
    evaluation: Evaluation


def train(
    data: str | os.PathLike,
    output: str | os.PathLike,
    model: ResNeXtSpec | str = DEFAULT,
    recipe: Recipe | str | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    recipe_changes: Mapping[str, Any] | None = None,
    size: int | None = None,
    validation_share: float = 0.2,
    precision: str = "float32",
    accumulate: int = 1,
    steps_per_execution: int = 1,
    seed: int = 0,
    deterministic: bool = False,
    checkpoint_seconds: float = 60.0,
    export: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
    on_start: Callable[[Run], None] | None = None,
    verbose: int | str = "auto",
) -> TrainingResult | None:
    """Trains a network from random weights on the images in a folder.

    Args:
        data: The images: a folder with a folder of images for each class, or with two
            or three of those named `train` and `val` or `test`; a directory of
            TensorFlow Datasets; or TFRecord files of encoded images.
        output: The folder to create, outside of `data`.
        model: Name of an architecture, as `list_models()` gives it, or a spec.
        recipe: `"paper"`, `"torchvision2"`, `"cifar"`, `"digits"` or a `Recipe`; None
            for `"cifar"` if the network is for 32 pixels, else `"paper"`.
        epochs: None for that of the recipe.
        batch_size: Images per update, over all devices; None for that of the recipe.
        learning_rate: The highest. None for that of the recipe, which is scaled with
            `batch_size`.
        recipe_changes: Other fields of the recipe and their values.
        size: Height and width of the images, in pixels; None for that of the network.
        validation_share: Share of the images to validate on, between 0 and 1, if
            `data` has no split of its own.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        accumulate: Number of parts that a batch is split into, which need less memory.
        steps_per_execution: As Keras' `compile` takes it; more is faster for small
            networks.
        seed: Of the split, the random weights, the order and the augmentation.
        deterministic: Whether the same run gives the same bits; slower on a GPU.
        checkpoint_seconds: Time between two checkpoints; each epoch ends with one too.
        export: Whether to write a SavedModel too.
        callbacks: Keras callbacks that run in every phase, in every process, on a
            model that takes uint8 pixels. One that sets `stop_training` ends the phase.
        resume: Whether to continue the run in `output`, if there is one. It ends with
            the bits of an uninterrupted one if `deterministic` is set.
        on_start: Is called with the opened `Run` before training starts.
        verbose: As Keras' `fit` takes it.

    Returns:
        The result; None in processes other than the first of several.

    Raises:
        ValueError: An argument, the data or the folder is not as expected; nothing has
            been built, downloaded or written then. Or `TrainingError`: the loss became
            NaN, or a step does not fit in memory; the last good checkpoint stays.
        ImportError: The extra `train` is not installed.
    """
    spec = get_spec(model)
    recipe = recipe or ("cifar" if spec.stem == "cifar" else "paper")
    recipe = adjusted(
        recipe if isinstance(recipe, Recipe) else get_recipe(recipe),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        **(recipe_changes or {}),
    )
    return _run(
        Settings(
            os.path.abspath(data),
            spec,
            None,
            (Phase(recipe),),
            size,
            validation_share,
            seed,
            precision,
            accumulate,
            steps_per_execution,
            deterministic,
        ),
        output,
        checkpoint_seconds,
        export,
        callbacks,
        resume,
        on_start,
        verbose,
    )


def finetune(
    data: str | os.PathLike,
    output: str | os.PathLike,
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    recipe_changes: Mapping[str, Any] | None = None,
    size: int | None = None,
    validation_share: float = 0.2,
    precision: str = "float32",
    accumulate: int = 1,
    steps_per_execution: int = 1,
    seed: int = 0,
    deterministic: bool = False,
    checkpoint_seconds: float = 60.0,
    export: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
    on_start: Callable[[Run], None] | None = None,
    verbose: int | str = "auto",
) -> TrainingResult | None:
    """Trains a network that has trained weights on the classes of other images.

    A new classifier learns first, on frozen stages; then the last two stages learn
    too, at a tenth of the rate.

    Args:
        data: As of `train`.
        output: As of `train`.
        model: Name of an architecture, or a spec; None for that of the weights, or
            without weights for `"resnext50_32x4d"`.
        weights: Weight set, file or folder of a run to start from; None for the
            ImageNet weights of the architecture.
        epochs: Of both phases; None for those of the recipes.
        batch_size: As of `train`.
        learning_rate: Of the classifier.
        recipe_changes: As of `train`, for both phases.
        size: This and all other arguments as of `train`.
        validation_share: See `train`.
        precision: See `train`.
        accumulate: See `train`.
        steps_per_execution: See `train`.
        seed: See `train`.
        deterministic: See `train`.
        checkpoint_seconds: See `train`.
        export: See `train`.
        callbacks: See `train`.
        resume: See `train`.
        on_start: See `train`.
        verbose: See `train`.

    Returns:
        As of `train`.

    Raises:
        ValueError: As of `train`.
    """
    checkpoint = resolve(weights, model)
    if checkpoint.channels != 3:
        raise ValueError(
            f"Expected weights for RGB images; {checkpoint.name} has "
            f"{checkpoint.channels} input channels. "
            f"Received: weights={checkpoint.name!r}"
        )
    spec = checkpoint.spec
    phases = finetune_phases(
        spec,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        **(recipe_changes or {}),
    )
    return _run(
        Settings(
            os.path.abspath(data),
            spec,
            checkpoint,
            phases,
            size,
            validation_share,
            seed,
            precision,
            accumulate,
            steps_per_execution,
            deterministic,
        ),
        output,
        checkpoint_seconds,
        export,
        callbacks,
        resume,
        on_start,
        verbose,
    )


def _run(
    settings: Settings,
    output: str | os.PathLike,
    checkpoint_seconds: float,
    export: bool,
    callbacks: Sequence[keras.callbacks.Callback],
    resume: bool,
    on_start: Callable[[Run], None] | None,
    verbose: int | str,
) -> TrainingResult | None:
    check_packages()
    if export:
        check_backend()
    run = open_run(settings, output, resume=resume)
    if not run.devices.is_chief:
        _train(run, callbacks, checkpoint_seconds, verbose=0)
        return None
    if on_start:
        on_start(run)
    with exclusive_lock(run.folder, LOCK):
        clear_unfinished(run.folder)
        _train(run, callbacks, checkpoint_seconds, verbose)
        return _finish(run, export)


def _train(run: Run, callbacks, seconds: float, verbose: int | str) -> None:
    settings, devices = run.settings, run.devices
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        make_deterministic()
    with devices.scope(), _dtype_policy(settings.precision):
        network = build_network(
            settings, len(run.training.class_names), run.preprocessing
        )
    run_phases(
        network,
        settings,
        _batches(run),
        run.folder,
        devices=devices,
        callbacks=callbacks,
        resume=run.resume,
        seconds=seconds,
        verbose=verbose,
    )
    devices.shutdown()


def _finish(run: Run, export: bool) -> TrainingResult:
    """Writes the model, the report and the SavedModel of a trained run."""
    classifier = load_classifier(weights=run.folder)
    with atomic_write(run.folder / MODEL) as file:
        classifier.model.save(file)
    evaluation = evaluate_images(
        classifier, run.validation, run.skipped, batch_size=run.evaluation_rows
    )
    history = read_progress(run.folder / CHECKPOINT)["history"]
    evaluation = write_report(
        run.folder,
        evaluation,
        title=report_title(run.settings.spec.name, run.settings.data),
        history=history,
        settings=(run.folder / RUN).read_text(encoding="utf-8"),
    )
    names = [BEST, MODEL, REPORT, HISTORY, RUN, SKIPPED, CHECKPOINT]
    if export:
        names.append(EXPORT)
        export_saved_model(
            classifier.model,
            run.folder / EXPORT,
            preprocessing=classifier.preprocessing,
            class_names=classifier.class_names,
            overwrite=True,
        )
    files = {name: run.folder / name for name in names}
    return TrainingResult(history, run.folder, files, evaluation)


def build_network(
    settings: Settings, classes: int, preprocessing: Preprocessing
) -> keras.Model:
    """The network that a run starts with, from preprocessed images to logits."""
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
    if settings.weights:  # a new classifier, even for as many classes
        head = network.get_layer("predictions")
        head.kernel.assign(head.kernel_initializer(head.kernel.shape))
        head.bias.assign(keras.ops.zeros(head.bias.shape))
    return network


def with_preprocessing(network: keras.Model) -> keras.Model:
    """Puts `preprocess_input` before a network, so that uint8 goes to the device.

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
    return keras.Model(pixels, logits, name=f"{network.name}_with_preprocessing")


@dataclass(frozen=True)
class Batches:
    """The batches of the phases of a run.

    Attributes:
        training: From the number of a phase and of its first step to a
            `tf.data.Dataset` of uint8 pixels (batch, H, W, 3) and float32 soft labels
            (batch, classes), step by step to the end of the phase.
        validation: Such a dataset of each validation image.
        steps: From the number of a phase to that of its steps per epoch.
    """

    training: Callable
    validation: object
    steps: Callable[[int], int]


def _batches(run: Run) -> Batches:
    settings, classes = run.settings, len(run.training.class_names)
    devices = run.devices

    def steps(number):
        per_execution = settings.steps_per_execution
        return run.steps(settings.phases[number]) // per_execution * per_execution

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

    def one_hot(pixels, labels):
        return pixels, tf.one_hot(labels, classes)

    own = devices.share(run.validation)
    rows = run.evaluation_rows * devices.replicas // devices.workers
    validation = evaluation_batches(own, run.preprocessing, rows).map(one_hot)
    validation = devices.pad_last_batch(validation, len(run.validation), rows)
    return Batches(training, validation, steps)


def run_phases(
    network: keras.Model,
    settings: Settings,
    batches: Batches,
    folder: Path,
    *,
    devices: Devices,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
    seconds: float = 60.0,
    verbose: int | str = "auto",
) -> dict:
    """Trains a network in phases, and saves its best weights.

    Args:
        network: From preprocessed images to logits.
        settings: Of the run.
        batches: What to train on.
        folder: Where `checkpoint.safetensors`, `best.weights.h5` and `history.csv`
            are written.
        devices: The network was built in their scope.
        callbacks: Other Keras callbacks, for each phase.
        resume: Whether to continue from the checkpoint in the folder, if there is one.
        seconds: Time between two checkpoints; each epoch ends with one too.
        verbose: As Keras' `fit` takes it.

    Returns:
        The progress, as of `new_progress`.

    Raises:
        TrainingError: The loss became NaN, or a step does not fit in memory; the last
            good checkpoint stays.
        ValueError: As of `Devices.check_progress`.
    """
    with devices.scope():
        model = with_preprocessing(network)
    path = folder / CHECKPOINT
    resume = resume and path.exists()
    progress = read_progress(path) if resume else new_progress()
    devices.check_progress(progress["phase"], progress["step"])
    while progress["phase"] < len(settings.phases):
        number = progress["phase"]
        phase, steps_per_epoch = settings.phases[number], batches.steps(number)
        recipe = phase.recipe
        steps = recipe.epochs * steps_per_epoch
        with devices.scope():
            metrics = _compile(model, network, settings, phase, steps_per_epoch)
            ema = None
            if recipe.ema_span:
                ema = EMA(network, 1 - 1 / max(recipe.ema_span * steps, 1))
        if progress["step"] < steps:
            state = TrainingState(
                folder,
                network,
                progress,
                steps_per_epoch=steps_per_epoch,
                steps=steps,
                # Each of several processes counts its own share, and the chief alone
                # writes: a resumed epoch counts its metrics from the restart there.
                metrics=metrics if devices.workers == 1 else [],
                ema=ema,
                seconds=seconds,
                resume=resume,
                writes=devices.is_chief,
            )
            all_callbacks = [*([ema] if ema else []), *callbacks, state]
            _fit(model, phase, batches, progress, all_callbacks, devices, verbose)
        elif resume:  # it was stopped between two phases
            restore(path, model.variables)
        resume = False
        progress |= {"phase": number + 1, "step": 0}
    return progress


def _compile(model, network, settings, phase, steps_per_epoch):
    # Not `network.trainable = True`, which does nothing if it is True already.
    for layer in network.layers:
        layer.trainable = True
    if phase.frozen:
        freeze(network, phase.frozen)
    recipe, accumulate = phase.recipe, settings.accumulate
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if network.output_shape[-1] > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    optimizer = build_optimizer(
        recipe,
        steps_per_epoch=steps_per_epoch,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )
    if settings.precision == "mixed_float16":
        # Keras goes by the policy of the model, which takes pixels and is float32.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        weighted_metrics=metrics,  # the last batch may be padded
        steps_per_execution=settings.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)  # a checkpoint may fill them
    return [model.metrics[0], *metrics]  # the first is the loss


def _fit(model, phase, batches, progress, callbacks, devices, verbose):
    """Trains to the end of a phase; what is left of an epoch has a `fit` of its own."""
    number, epochs = progress["phase"], phase.recipe.epochs
    steps = batches.steps(number)
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
                shuffle=False,  # Keras warns that it shuffles no datasets
            )
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            raise TrainingError(
                "A step does not fit in memory. Lower the batch size or the image "
                "size, or split the batch into parts (accumulate). "
                f"Received: {error}"
            ) from error


def _is_out_of_memory(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in text
        for sign in ("resourceexhausted", "resource_exhausted", "out of memory", "oom")
    )


@contextlib.contextmanager
def _dtype_policy(name: str):
    """Context manager in which layers are built with a Keras dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
