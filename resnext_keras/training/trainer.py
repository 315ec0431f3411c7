"""Training and fine-tuning of a network on the images of a data set."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from resnext_keras.classifier import load_classifier
from resnext_keras.export.saved_model import export_saved_model
from resnext_keras.extras import optional
from resnext_keras.io import (
    atomic_write,
    clear_unfinished,
    exclusive_lock,
    explained_full_disk,
)
from resnext_keras.models.backbone import freeze
from resnext_keras.models.runtime import check_backend
from resnext_keras.models.specs import ResNeXtSpec, get_spec
from resnext_keras.training.callbacks import (
    CHECKPOINT,
    HISTORY,
    EpochProgress,
    TrainingError,
    TrainingState,
    UnreadableImages,
    read_progress,
    restore,
    step_of_phase,
)
from resnext_keras.training.distribution import make_deterministic
from resnext_keras.training.evaluation import Evaluation, evaluate_images
from resnext_keras.training.losses import (
    ClassWeights,
    build_loss,
    build_metrics,
    checked_class_weights,
)
from resnext_keras.training.network import (
    build_network,
    dtype_policy,
    with_preprocessing,
)
from resnext_keras.training.optimizers import build_optimizer
from resnext_keras.training.recipes import Recipe, adjusted, all_changes, get_recipe
from resnext_keras.training.report import (
    REPORT,
    check_packages,
    report_title,
    write_report,
)
from resnext_keras.training.run import (
    SKIPPED,
    Run,
    open_run,
    write_extension,
    write_run,
)
from resnext_keras.training.settings import (
    Phase,
    Settings,
    finetune_phases,
    settings_tables,
)
from resnext_keras.weights.checkpoint import DEFAULT_MODEL, Checkpoint, resolve
from resnext_keras.weights.run_folder import BEST, IMAGES, RUN, read_run

MODEL, EXPORT, TENSORBOARD = "model.keras", "saved_model", "tensorboard"

LOCK = ".lock"  # held by the process that trains in the folder


@dataclass(frozen=True)
class TrainingResult:
    """The result of training.

    Attributes:
        history: A dict of numbers for each epoch, the rows of `history.csv`: `epoch`,
            `phase`, `loss`, `accuracy`, `val_loss`, `val_accuracy`, `learning_rate`,
            `seconds`, `since_best` (epochs since the best one of the phase), and for
            more than five classes `top5` and `val_top5`. Multi-label data have
            `pr_auc` and `val_pr_auc`, the area under the precision-recall curve
            averaged over the classes, in place of accuracies.
        folder: The folder of the run, for arguments `weights`.
        files: Path of each main file by its name: `best.weights.h5`, `model.keras`,
            `report.html`, `history.csv`, `run.json`, `images.csv`, `skipped.csv`,
            `checkpoint.safetensors`, and if asked for `saved_model` and `tensorboard`.
        evaluation: The `Evaluation` of the best weights on the validation images.
    """

    history: list[dict]
    folder: Path
    files: dict[str, Path]
    evaluation: Evaluation


def train(
    data: str | os.PathLike,
    output: str | os.PathLike,
    model: ResNeXtSpec | str = DEFAULT_MODEL,
    recipe: Recipe | str | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    recipe_changes: Mapping[str, Any] | None = None,
    class_weights: ClassWeights = None,
    size: int | None = None,
    validation_split: float = 0.2,
    precision: str = "float32",
    accumulate: int = 1,
    steps_per_execution: int = 1,
    seed: int = 0,
    deterministic: bool = False,
    patience: int = 0,
    checkpoint_seconds: float = 60.0,
    export: bool = False,
    tensorboard: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    resume: bool = False,
    allow_changed: bool = False,
    on_start: Callable[[Run], None] | None = None,
    verbose: int | str = "auto",
) -> TrainingResult | None:
    """Trains a network from random weights on the images of a data set.

    Args:
        data: Path of the images, one of:

            - An image folder: a folder for each class with its images, at any depth;
              or folders `train` and `val`, `validation` or `test` with such folders.
              Images are those that `read_image` reads, whatever their endings. Other
              files are skipped and listed, except for hidden ones and those with the
              ending of another type, such as `.txt`.
            - A CSV or TSV file with a line for each image: its path, relative to the
              file, and its class, in this order or in columns `image` and `label`. A
              column `split` may hold `train`, `val` or `test`. Several classes in a
              cell, as in `cat|dog`, or a column of 0 and 1 for each class in place of
              `label`, make a multi-label data set: an image may have no class or
              several, and each class has a score of its own, a sigmoid. A single column
              of 0 and 1, such as `defect`, gives the classes `not defect` and `defect`,
              with one sigmoid for both.
            - A directory of TensorFlow Datasets.
            - A TFRecord file, or a folder of such files with the split in their names,
              of `tf.train.Example` with `image/encoded` and `image/class/label`, or
              with `image` and `label`. A file `labels.txt` beside them may name the
              classes, one a line.
        output: The folder to create for the run; it may not be inside `data`.
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`.
        recipe: `"paper"`, `"torchvision2"`, `"cifar"`, `"digits"` or a `Recipe`; None
            for `"cifar"` if the network is for 32 pixels, otherwise `"paper"`.
        epochs: Passes over the images; None for those of the recipe.
        batch_size: Images per update, over all devices; None for that of the recipe.
        learning_rate: The highest learning rate. None for that of the recipe, scaled in
            proportion to `batch_size`.
        recipe_changes: Other fields of the recipe and their values, such as
            `{"mixup": 0.2}`.
        class_weights: Weights of classes in the loss, against rare classes: a dict from
            names of classes to positive numbers (1 for the others), or `"balanced"`:
            weights in inverse proportion to the number of images of a class,
            N / (classes * n), as in scikit-learn (King and Zeng, 2001); in multi-label
            data (N - n) / n for the images that have the class, as PyTorch's
            `pos_weight`.
        size: Height and width of validation images in pixels, and of training images
            unless the recipe has a `train_size`; at least 32. None for the size that
            the network was made for.
        validation_split: Share of the images to validate on, between 0 and 1, if
            `data` has no validation split.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        accumulate: Number of parts that each batch is split into, to need less memory;
            their gradients are averaged.
        steps_per_execution: Argument of Keras' `compile`; a larger number is faster for
            small networks.
        seed: Seed of the split, the random weights, the order and the augmentation.
        deterministic: Whether the same run gives exactly the same weights; slower on a
            GPU.
        patience: Number of epochs without better validation figures (those that choose
            the best epoch) after which training ends; 0 trains all epochs.
        checkpoint_seconds: Time between two checkpoints; there is also one after each
            epoch.
        export: Whether to also write a SavedModel.
        tensorboard: Whether to also write the logs of Keras' `TensorBoard` callback,
            into the folder `tensorboard` of the run. It needs the extra `tensorboard`.
        callbacks: Keras callbacks, or a single one, which run in every phase and every
            process. Their model takes uint8 pixels. A callback that sets
            `stop_training` ends the phase.
        resume: Whether to continue the run in `output`, if there is one. With
            `deterministic` the result equals that of an uninterrupted run. With more
            `epochs` than before it goes on, even after its end, by the schedule of the
            new number.
        allow_changed: Whether to resume although images are missing or new; both are
            left out.
        on_start: Function that is called with the opened `Run` before training starts.
        verbose: Argument of Keras' `fit`; with 2 there are also lines within long
            epochs, at most one in ten seconds and in a tenth of the images.

    Returns:
        The `TrainingResult`. If there are several processes, None in all but the first.

    Raises:
        ValueError: An argument, the data or the folder is not as expected; nothing is
            built, downloaded or written then. Or `TrainingError`: the loss became NaN,
            or a step does not fit in memory; the last checkpoint remains.
        OSError: The disk is full; the run continues with `resume`. Or a disk or network
            has failed.
        ImportError: The extra `train`, or with `tensorboard` that, is not installed.
    """
    spec = get_spec(model)
    recipe = recipe or ("cifar" if spec.stem == "cifar" else "paper")
    changes = all_changes(
        recipe_changes,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    recipe = recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
    return _run(
        spec,
        None,
        (Phase(adjusted(recipe, **changes)),),
        data,
        output,
        class_weights=class_weights,
        size=size,
        validation_split=validation_split,
        precision=precision,
        accumulate=accumulate,
        steps_per_execution=steps_per_execution,
        seed=seed,
        deterministic=deterministic,
        patience=patience,
        checkpoint_seconds=checkpoint_seconds,
        export=export,
        tensorboard=tensorboard,
        callbacks=callbacks,
        resume=resume,
        allow_changed=allow_changed,
        on_start=on_start,
        verbose=verbose,
    )


def finetune(  # noqa: D417 - the other arguments are those of `train`
    data: str | os.PathLike,
    output: str | os.PathLike,
    model: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | Checkpoint | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    recipe_changes: Mapping[str, Any] | None = None,
    class_weights: ClassWeights = None,
    size: int | None = None,
    validation_split: float = 0.2,
    precision: str = "float32",
    accumulate: int = 1,
    steps_per_execution: int = 1,
    seed: int = 0,
    deterministic: bool = False,
    patience: int = 5,
    checkpoint_seconds: float = 60.0,
    export: bool = False,
    tensorboard: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    resume: bool = False,
    allow_changed: bool = False,
    on_start: Callable[[Run], None] | None = None,
    verbose: int | str = "auto",
) -> TrainingResult | None:
    """Trains a network with trained weights on other classes.

    First a new classifier is trained on frozen stages. Then the last two stages are
    trained too, at a tenth of the learning rate. Arguments that are not listed here are
    those of `train`.

    Args:
        model: The architecture, a name from `list_models()` or a `ResNeXtSpec`. None
            for the architecture of the weights, or without weights for
            `"resnext50_32x4d"`.
        weights: The weights to start from: name of a weight set, path of a weight file
            or folder of a training run. They need no classifier, since it is replaced.
            None for the default weights of the architecture.
        epochs: Epochs of both phases together; 1 trains only the classifier. None for
            those of the recipes.
        learning_rate: Learning rate of the classifier. None for that of the recipe,
            scaled in proportion to `batch_size`.
        recipe_changes: Fields of both recipes, and their values.
        patience: As in `train`, and counted anew in each phase: if the classifier no
            longer improves, the last two stages follow at once.
        size: Height and width of the images; None for the size of the weights.

    Returns:
        See `train`.

    Raises:
        ValueError: See `train`. Or the weights are unknown or not for RGB images.
        ImportError: The extra `train` is not installed.
    """
    checkpoint = resolve(weights, model)
    checkpoint.check_rgb()
    changes = all_changes(
        recipe_changes,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    return _run(
        checkpoint.spec,
        checkpoint,
        finetune_phases(checkpoint.spec, **changes),
        data,
        output,
        class_weights=class_weights,
        size=size,
        validation_split=validation_split,
        precision=precision,
        accumulate=accumulate,
        steps_per_execution=steps_per_execution,
        seed=seed,
        deterministic=deterministic,
        patience=patience,
        checkpoint_seconds=checkpoint_seconds,
        export=export,
        tensorboard=tensorboard,
        callbacks=callbacks,
        resume=resume,
        allow_changed=allow_changed,
        on_start=on_start,
        verbose=verbose,
    )


def _run(
    spec: ResNeXtSpec,
    weights: Checkpoint | None,
    phases: tuple[Phase, ...],
    data: str | os.PathLike,
    output: str | os.PathLike,
    *,
    checkpoint_seconds: float,
    export: bool,
    tensorboard: bool,
    callbacks: Sequence[keras.callbacks.Callback],
    resume: bool,
    allow_changed: bool,
    on_start: Callable[[Run], None] | None,
    verbose: int | str,
    **options: Any,
) -> TrainingResult | None:
    """Opens a run, trains and reports; `options` are those of `Settings`."""
    options["class_weights"] = checked_class_weights(options["class_weights"])
    settings = Settings(os.path.abspath(data), spec, weights, phases, **options)
    check_packages()
    if tensorboard:
        for package in ("tensorboard", "tensorflow"):  # also on other backends
            optional(package, "tensorboard")
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    if export:
        check_backend()
    run = open_run(settings, output, resume=resume, allow_changed=allow_changed)
    if not run.devices.is_chief:
        _train(run, callbacks, checkpoint_seconds, verbose=0)
        return None
    if on_start:
        on_start(run)
    if tensorboard:
        logs = keras.callbacks.TensorBoard(os.fspath(run.folder / TENSORBOARD))
        callbacks = [*callbacks, logs]
    with (
        explained_full_disk(run.folder, "its files are complete"),
        exclusive_lock(run.folder, LOCK),
    ):
        clear_unfinished(run.folder)
        write_extension(run)
        _train(run, callbacks, checkpoint_seconds, verbose)
        return _finish(run, export, tensorboard)


def _train(run: Run, callbacks, seconds: float, verbose: int | str) -> None:
    """Trains a network in phases, and saves checkpoints and its best weights."""
    settings, devices = run.settings, run.devices
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        make_deterministic()
    with devices.scope(), dtype_policy(settings.precision):
        network = build_network(settings, run.training.outputs, run.preprocessing)
    with devices.scope():
        model = with_preprocessing(network, run.preprocessing)
    progress = read_progress(run.folder / CHECKPOINT)
    devices.check_progress(progress["phase"], progress["step"])
    callbacks = [UnreadableImages(run.unreadable), *callbacks]
    with contextlib.closing(run.validation_batches()) as validation:
        while progress["phase"] < len(settings.phases):
            with devices.scope():
                metrics = _compile(run, progress["phase"], model, network)
                state = TrainingState(run, network, progress, metrics, seconds)
            if progress["step"] < state.steps:
                # Less than saved if the phase ended early, and was extended since.
                progress["step"] = step_of_phase(progress, state.steps_per_epoch)
                ema = [state.ema] if state.ema else []
                of_phase = [*ema, *callbacks, state]
                _fit(run, model, progress, validation, of_phase, verbose)
            else:  # the run was stopped between two phases
                restore(run.folder / CHECKPOINT, model.variables)
            progress |= {"phase": progress["phase"] + 1, "step": 0}
    devices.shutdown()


def _compile(run: Run, number: int, model, network) -> list[keras.metrics.Metric]:
    """Compiles the model for a phase, and returns its metrics, the loss first."""
    settings, phase = run.settings, run.settings.phases[number]
    # Not `network.trainable = True`, which does nothing if it is True already.
    for layer in network.layers:
        layer.trainable = True
    if phase.frozen:
        freeze(network, phase.frozen)
    optimizer = build_optimizer(
        phase.recipe,
        steps_per_epoch=run.steps(phase),
        accumulate=settings.accumulate,
    )
    if settings.precision == "mixed_float16":
        # Keras adds it by the policy of the outer model, which is float32.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    is_multi_label = run.training.is_multi_label
    metrics = build_metrics(is_multi_label, model.output_shape[-1])
    model.compile(
        optimizer,
        build_loss(is_multi_label, run.class_weights, phase.recipe.label_smoothing),
        weighted_metrics=metrics,  # the last batch may be padded
        steps_per_execution=settings.steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)  # before a checkpoint is restored
    return [model.metrics[0], *metrics]


def _fit(run: Run, model, progress, validation, callbacks, verbose) -> None:
    """Trains to the end of a phase; the rest of a resumed epoch is a separate `fit`."""
    number = progress["phase"]
    phase = run.settings.phases[number]
    epochs, steps = phase.recipe.epochs, run.steps(phase)
    if verbose == 2:
        step_size = run.settings.step_size(phase)
        callbacks = [*callbacks, EpochProgress(progress, steps, step_size)]
    # Epochs have the numbers of the history, as in what Keras and callbacks print.
    before = sum(row["phase"] <= number for row in progress["history"])
    while progress["step"] < epochs * steps:
        done, begun = divmod(progress["step"], steps)
        batches = run.training_batches(number, progress["step"])
        with contextlib.closing(batches):
            try:
                run.devices.fit(
                    model,
                    batches,
                    initial_epoch=before + done,
                    epochs=before + (done + 1 if begun else epochs),
                    steps_per_epoch=steps - begun,
                    validation_data=validation,
                    callbacks=callbacks,
                    verbose=verbose,
                    shuffle=False,
                )
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                raise TrainingError(
                    "A step does not fit in memory. Lower the batch size or the image "
                    "size, or split the batch into parts (accumulate). "
                    f"Received: {type(error).__name__}"
                ) from error


def _is_out_of_memory(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    signs = "resourceexhausted", "resource_exhausted", "out of memory"
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _finish(run: Run, export: bool, tensorboard: bool) -> TrainingResult:
    """Writes the model, the report and the SavedModel of the best weights."""
    classifier = load_classifier(weights=run.folder)
    with atomic_write(run.folder / MODEL) as file:
        classifier.model.save(file)
    evaluation = evaluate_images(
        classifier,
        run.validation,
        [*run.skipped, *(item for split in run.unreadable for item in split.items())],
        batch_size=run.evaluation_rows,
    )
    progress = read_progress(run.folder / CHECKPOINT)
    history = progress["history"]
    end = {
        "epochs": len(history),
        "planned_epochs": sum(phase.recipe.epochs for phase in run.settings.phases),
        "best_epoch": progress["best"]["epoch"],
        "metrics": evaluation.metrics,
    }
    content = read_run(run.folder) | {"end": end}
    write_run(run.folder, content)
    write_report(
        run.folder,
        evaluation,
        title=report_title(run.settings.spec.name, run.settings.data),
        data=run.settings.data,
        history=history,
        end=end,
        settings=settings_tables(content, train),
    )
    names = [BEST, MODEL, REPORT, HISTORY, RUN, IMAGES, SKIPPED, CHECKPOINT]
    if tensorboard:
        names.append(TENSORBOARD)
    if export:
        names.append(EXPORT)
        export_saved_model(
            classifier.model,
            run.folder / EXPORT,
            weights=run.folder,
            overwrite=True,
        )
    files = {name: run.folder / name for name in names}
    evaluation = dataclasses.replace(evaluation, report=files[REPORT])
    return TrainingResult(history, run.folder, files, evaluation)
