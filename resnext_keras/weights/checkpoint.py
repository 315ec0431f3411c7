"""`Checkpoint`: the single value that every kind of `weights=` argument becomes."""

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from resnext_keras.images.labels import class_names
from resnext_keras.images.preprocessing import Preprocessing, default_preprocessing
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.models.variables import Shapes, variable_shapes
from resnext_keras.weights.find import TIMM_FILES, find, path_of
from resnext_keras.weights.hub import HUB, HubModel, hub_model
from resnext_keras.weights.loading import (
    HEAD,
    READERS,
    channels_and_classes,
    identify,
    match,
    open_file,
)
from resnext_keras.weights.registry import (
    BUNDLED,
    WEIGHT_SETS,
    WeightSet,
    as_registered,
)
from resnext_keras.weights.run_folder import BEST, best_weights, describe_run
from resnext_keras.weights.tensors import LazyTensors, WeightsError
from resnext_keras.weights.timm_config import (
    CONFIG,
    is_timm_config,
    read_timm_config,
)

DEFAULT_MODEL = "resnext50_32x4d"

WITHOUT_DOWNLOAD = (
    f". The bundled handwritten digits need no download: weights={BUNDLED.tag!r}."
)


class _WeightFile:
    """A weight file that is fetched, verified and opened once, when first needed.

    It stays open from the first listing of its tensors, which identifies the
    architecture, until they have been read or this object is collected.
    """

    def __init__(self, source: Path | WeightSet | HubModel, remedy: str = ""):
        self._source = source
        self._remedy = remedy
        self._path = source if isinstance(source, Path) else None
        self._tensors: LazyTensors | None = None
        self._closing = None

    def __reduce__(self):  # another process opens the file itself
        return type(self), (self._source, self._remedy)

    def fetch(self) -> Path:
        if self._path is None and isinstance(self._source, HubModel):
            self._path = self._source.fetch()
        elif self._path is None:
            from resnext_keras.weights.download import fetch  # loads pooch

            try:
                self._path = fetch(self._source)
            except WeightsError as error:
                message = str(error).removesuffix(".") + (self._remedy or ".")
                raise WeightsError(message) from error.__cause__
        return self._path

    def tensors(self) -> LazyTensors:
        if self._closing is None:
            stack = contextlib.ExitStack()
            self._tensors = stack.enter_context(open_file(self.fetch()))
            self._closing = weakref.finalize(self, stack.close)
        return self._tensors

    def close(self) -> None:
        if self._closing is not None:
            self._closing()
            self._tensors = self._closing = None


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights, with their architecture, preprocessing and class names.

    Attributes:
        spec: The architecture.
        classes: Number of outputs of the classifier; None without a classifier.
        preprocessing: How images are read for the weights.
        class_names: Name of each class; empty without a classifier. A network with
            one output has two names: it gives the score of the second.
        name: For messages and metadata: full name of the weight set, path of the file,
            folder of the training run or of timm's files, or address on the hub.
        licence: SPDX identifier; None where it is not known.
        channels: Number of input channels.
        activation: Activation of the classifier, `"softmax"`, or `"sigmoid"` for a
            single output or several labels an image; None where it is not known.
        weight_set: The row of the registry; None for files and runs.
    """

    spec: ResNeXtSpec
    classes: int | None
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    name: str
    licence: str | None = None
    channels: int = 3
    activation: str | None = "softmax"
    weight_set: WeightSet | None = None
    _file: _WeightFile | None = field(default=None, repr=False, compare=False)

    @property
    def short_name(self) -> str:
        """Name of the set, run's folder or file, for output files and model cards."""
        if self.weight_set is not None or self.run_folder is not None:
            return os.path.basename(self.name)
        path = Path(self.name)
        suffix = path.suffix if path.suffix.lower() in READERS else ""
        return path.name.removesuffix(suffix).removesuffix(".weights")

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have no class or several."""
        return self.activation == "sigmoid" and (self.classes or 0) > 1

    @property
    def absolute_name(self) -> str:
        """The name, which means the same in another working folder."""
        is_path = self.weight_set is None and not self.name.startswith(HUB)
        return os.path.abspath(self.name) if is_path else self.name

    @property
    def folder(self) -> Path | None:
        """The folder of the training run or of timm's files; None for other weights."""
        # An export of a weight set may be a folder with its name.
        is_folder = self.weight_set is None and os.path.isdir(self.name)
        return Path(self.name) if is_folder else None

    @property
    def run_folder(self) -> Path | None:
        """The folder of the training run; None for other weights."""
        return self.folder if self.folder and best_weights(self.folder) else None

    def check_rgb(self) -> None:
        """Checks that the weights are for RGB images.

        Raises:
            WeightsError: They are for another number of channels.
        """
        if self.channels != 3:
            raise WeightsError(
                f"Expected weights for RGB images; {self.name} has {self.channels} "
                f"input channels. Received: weights={self.name!r}"
            )

    def fetch(self) -> Path:
        """Downloads the weight file if it is missing, and verifies its hash once.

        Returns:
            The path of the file.

        Raises:
            WeightsError: The file cannot be downloaded or stored, or its hash is wrong.
                An existing file is never changed.
        """
        return self._file.fetch()

    @contextlib.contextmanager
    def open(self, shapes: Shapes) -> Iterator[LazyTensors]:
        """Context manager: opens the weights for a network, downloaded if missing.

        Args:
            shapes: Name and shape of each variable, from `variable_shapes`.

        Yields:
            The tensors by the names of `shapes`, as from `match`. They can only be
            read within the context.

        Raises:
            WeightsError: The file cannot be downloaded, is damaged, or does not fit.
        """
        if self.classes is None and HEAD[0] in shapes:
            raise WeightsError(
                "Expected weights with a classifier, or include_top=False; "
                f"{self.name} has none. Received: weights={self.name!r}"
            )
        try:
            stored, path = self._file.tensors(), self._file.fetch()
            classes = channels_and_classes(stored)[1]
            if classes != self.classes and HEAD[0] in shapes:
                raise WeightsError(
                    f"Expected {self.classes} classes in {path}, found {classes}."
                )
            yield match(stored, shapes, path)
        finally:
            self._file.close()


def resolve(
    weights: str | os.PathLike | ResNeXtSpec | Checkpoint | None = None,
    model: ResNeXtSpec | str | None = None,
) -> Checkpoint:
    """Finds the weights that a user named, with their preprocessing and class names.

    A weight set is not downloaded here. A file is opened, since the names and shapes
    of its tensors identify the architecture; `Checkpoint.open` reads from the file
    that is already open.

    Args:
        weights: As `ResNeXt` takes them; also

            - a tag or alias that only one set has (of those of `model`, if given),
            - an architecture, or `"resnext50_32x4d.imagenet"`, for the default set,
            - `"hf://OWNER/NAME@REVISION"`; the hub's `config.json` is downloaded here,
            - the weight file in a folder of timm's,
            - a `Checkpoint`, which is returned,
            - None for the default set of `model`, or for the bundled digits if `model`
              is their architecture.

            Names are taken in any case, and an architecture by the name of its
            function too, unless there is a file or a run of this name.
        model: The architecture; it may have no weight sets. None for the architecture
            of the weights, or without weights for `"resnext50_32x4d"`.

    Returns:
        The `Checkpoint`. Weights of a file get the class names of ImageNet if they
        have 1000 classes, otherwise the numbers of the classes.

    Raises:
        ValueError: The architecture is unknown. Or `WeightsError`: the weights are
            unknown, ambiguous, damaged, or of another architecture.
    """
    spec = None if model is None else get_spec(model)
    if isinstance(weights, Checkpoint):
        return _of_spec(weights, spec)
    if isinstance(weights, str) and path_of(weights) is None:
        weights = as_registered(weights)
    remedy = ""
    if spec is None and (
        isinstance(weights, ResNeXtSpec)
        or (isinstance(weights, str) and weights in ARCHITECTURES)
    ):
        spec, weights = get_spec(weights), None
    if weights is None:
        if spec is None:
            spec, remedy = get_spec(DEFAULT_MODEL), WITHOUT_DOWNLOAD
        weights = BUNDLED.name if spec.name == BUNDLED.architecture else "imagenet"
    if isinstance(weights, str) and weights.startswith(HUB):
        source = hub_model(weights)
        config = source.fetch(CONFIG)
        return _of_spec(_from_timm(config, weights, source), spec)
    source = find(weights, spec and spec.name)
    if isinstance(source, WeightSet):
        checkpoint = _from_set(source, remedy)
    elif source == best_weights(source.parent):
        checkpoint = _from_run(source.parent)
    elif source.name in TIMM_FILES and is_timm_config(source.with_name(CONFIG)):
        path = Path(os.path.expanduser(weights))
        name = os.path.abspath(path) if path.name in ("", "..") else str(path)
        checkpoint = _from_timm(source.with_name(CONFIG), name, source)
    else:
        return _from_file(source, spec)
    return _of_spec(checkpoint, spec)


def weights_preprocessing(
    weights: str | os.PathLike | Checkpoint, size: int | None = None
) -> Preprocessing:
    """Finds how images have to be read for weights.

    Args:
        weights: Name of a weight set, path of a weight file or folder of a training
            run.
        size: Height and width of the network's input in pixels, one of the sizes that
            the weight set was evaluated at. None for the most accurate of them.

    Returns:
        The `Preprocessing`, for `read_image`.

    Raises:
        WeightsError: There are no such weights, or they were not evaluated at this
            size.

    Examples:
        >>> rk.weights_preprocessing("resnext50_32x4d.tv2_in1k")
        Preprocessing(size=224, resize=232, interpolation='bilinear')
    """
    checkpoint = resolve(weights)
    if size is None:
        return checkpoint.preprocessing
    evaluations = checkpoint.weight_set.evaluations if checkpoint.weight_set else ()
    readings = [e.preprocessing for e in evaluations] or [checkpoint.preprocessing]
    by_size = {reading.size: reading for reading in readings}
    if size not in by_size:
        raise WeightsError(
            f"Expected a size that {checkpoint.name} has a preprocessing for: "
            f"{' or '.join(map(str, by_size))}. For another size, make a "
            f"`Preprocessing`. Received: size={size!r}"
        )
    return by_size[size]


def weights_info(name: str) -> WeightSet:
    """Finds what is known about a weight set: its licence, accuracy, URL and more.

    Args:
        name: A name from `list_weights()`, or another name of the set, see `ResNeXt`.

    Returns:
        The `WeightSet`. Nothing is downloaded.

    Raises:
        WeightsError: There is no such weight set.

    Examples:
        >>> rk.weights_info("ResNeXt50.imagenet").licence
        'BSD-3-Clause'
    """
    weight_set = WEIGHT_SETS.get(name)
    if weight_set is None and not str(name).startswith(HUB):
        weight_set = resolve(name).weight_set
    if weight_set is None:
        raise WeightsError(
            "Expected the name of a weight set, which list_weights() gives. "
            f"Received: weights={name!r}"
        )
    return weight_set


def fetch_weights(
    weights: str | os.PathLike | Iterable[str | os.PathLike],
) -> list[Path]:
    """Downloads weights that are not on this machine, and verifies their files.

    All names are checked before the first file of weights is downloaded.

    Args:
        weights: Name of a weight set or address on the Hugging Face hub, or several.

    Returns:
        The path of each file: in the cache, see `RESNEXT_KERAS_HOME`, or of the
        bundled weights in the package.

    Raises:
        WeightsError: There are no such weights, they cannot be downloaded, or a hash
            is wrong.

    Examples:
        >>> rk.fetch_weights("digits")[0].name
        'resnext11_8x4d.digits.weights.h5'
    """
    is_single = isinstance(weights, (str, os.PathLike))
    checkpoints = [resolve(name) for name in ([weights] if is_single else weights)]
    return [checkpoint.fetch() for checkpoint in checkpoints]


def _of_spec(checkpoint: Checkpoint, spec: ResNeXtSpec | None) -> Checkpoint:
    """The checkpoint, or an error if it is of another architecture than `spec`."""
    if spec in (None, checkpoint.spec):
        return checkpoint
    if spec == replace(checkpoint.spec, name=spec.name) and not checkpoint.weight_set:
        return replace(checkpoint, spec=spec)
    if spec.name == checkpoint.spec.name:
        raise WeightsError(
            f"Expected the spec {checkpoint.spec!r} for the weights {checkpoint.name}; "
            f"give yours a name of its own. Received: {spec!r}"
        )
    raise WeightsError(
        f"Expected weights of {spec.name!r}; {checkpoint.name} is of "
        f"{checkpoint.spec.name!r}. Received: weights={checkpoint.name!r}"
    )


def _from_set(weight_set: WeightSet, remedy: str = "") -> Checkpoint:
    labels = weight_set.labels
    return Checkpoint(
        get_spec(weight_set.architecture),
        weight_set.classes,
        weight_set.preprocessing,
        class_names(labels) if labels else _numbers(weight_set.classes),
        weight_set.name,
        weight_set.licence,
        weight_set=weight_set,
        _file=_WeightFile(weight_set, remedy),
    )


def _from_timm(config: Path, name: str, source: Path | HubModel) -> Checkpoint:
    return Checkpoint(name=name, _file=_WeightFile(source), **read_timm_config(config))


def _from_file(path: Path, spec: ResNeXtSpec | None) -> Checkpoint:
    file = _WeightFile(path)
    try:
        stored = file.tensors()
        if spec is None:
            spec, channels, classes = identify(stored, ARCHITECTURES.values(), path)
        else:
            channels, classes = channels_and_classes(stored)
            channels = channels or 3
            if classes is None and any(name in stored for name in HEAD):
                classes = spec.classes  # damaged: `match` then names the tensor
            match(stored, variable_shapes(spec, channels, classes), path)
    except BaseException:
        file.close()
        raise
    return Checkpoint(
        spec,
        classes,
        default_preprocessing(spec.image_size),
        class_names("imagenet") if classes == 1000 else _numbers(classes),
        str(path),
        channels=channels,
        activation=None,
        _file=file,
    )


def _from_run(folder: Path) -> Checkpoint:
    name = str(folder) if folder.name else os.path.abspath(folder)
    return Checkpoint(
        name=name, _file=_WeightFile(folder / BEST), **describe_run(folder)
    )


def _numbers(classes: int | None) -> tuple[str, ...]:
    # With one output, it is the probability of the second of two classes.
    return tuple(map(str, range(2 if classes == 1 else classes or 0)))
