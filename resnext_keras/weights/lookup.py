"""What a user's name for weights stands for: a weight set, or a file."""

import contextlib
import difflib
import os
from collections.abc import Collection
from pathlib import Path

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.models.specs import ARCHITECTURES, get_spec
from resnext_keras.weights.files import HINTS, READERS
from resnext_keras.weights.registry import WEIGHT_SETS, WeightSet
from resnext_keras.weights.runs import best_weights
from resnext_keras.weights.tensors import WeightsError


def list_weights(architecture: str | None = None) -> list[str]:
    """Names of the weight sets, each of which `weights=` takes.

    Args:
        architecture: Name of an architecture, for its sets alone.

    Returns:
        The full names, as in `"resnext50_32x4d.tv2_in1k"`.

    Raises:
        ValueError: There is no such architecture.
    """
    architecture = None if architecture is None else get_spec(architecture).name
    return [weight_set.name for weight_set in _sets_of(architecture)]


def weights_preprocessing(name: str, size: int | None = None) -> Preprocessing:
    """How images are read for a weight set.

    Args:
        name: Full name of the set, or a tag or alias that no other set has, or
            `"{architecture}.imagenet"` for the architecture's default.
        size: Height and width in pixels that the network is to see, one of
            those that the set was evaluated at; None for the best of them.

    Returns:
        What `read_image` takes.

    Raises:
        WeightsError: There is no such set, or it was not evaluated at this size.
    """
    found = find_set(name)
    by_size = {e.preprocessing.size: e.preprocessing for e in found.evaluations}
    if size is None:
        return found.preprocessing
    if size not in tuple(by_size):
        raise WeightsError(
            f"Expected `size` to be one that {found.name} was evaluated at: "
            f"{' or '.join(map(str, by_size))}. Received: size={size!r}"
        )
    return by_size[size]


def find_set(name: str) -> WeightSet:
    """The row of a weight set.

    Args:
        name: Full name of the set, or a tag or alias that no other set has.

    Returns:
        The row.

    Raises:
        WeightsError: There is no such set, or it is the path of a file.
    """
    found = find_weights(name)
    if not isinstance(found, WeightSet):
        raise WeightsError(
            "Expected `name` to be the name of a weight set, found a file, of which "
            f"nothing is known but its contents. Received: name={name!r}"
        )
    return found


def default_set(architecture: str) -> WeightSet | None:
    """The set that `"imagenet"` stands for, if any set may.

    Torchvision's second generation where there is one, else the most accurate
    one; never one that forbids commercial use.
    """
    permissive = [s for s in _imagenet_sets(architecture) if not s.non_commercial]
    second_generation = [s for s in permissive if "IMAGENET1K_V2" in s.aliases]
    return max(second_generation or permissive, key=_accuracy, default=None)


def find_weights(
    weights: str | os.PathLike, architecture: str | None = None
) -> WeightSet | Path:
    """What the argument `weights` stands for.

    Args:
        weights: Full name of a weight set; its tag or an alias, where one set
            alone of the architecture (without it: of all) has that;
            `"imagenet"`, or in full `"resnext50_32x4d.imagenet"`, for the
            default set of the architecture, torchvision's second generation
            where there is one, else the most accurate one, and never one that
            forbids commercial use; or the path of a file, or of the folder of a
            run of training, for its best weights.
        architecture: Architecture that it has to fit, if that is known. It may
            be one without weight sets.

    Returns:
        The row of the set, or the path of an existing file.

    Raises:
        WeightsError: It is neither, is ambiguous, or of another architecture.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(
            "Expected `weights` to be None, the name of a weight set or the path of "
            f"a file. Received: weights={weights!r}"
        )
    is_name = isinstance(weights, str) and os.sep not in weights
    owner, _, tag = os.fsdecode(weights).rpartition(".")
    if is_name and tag == "imagenet":
        if architecture not in (None, owner or architecture) and owner in ARCHITECTURES:
            raise _of_another(weights, [_default(owner, weights)], architecture)
        if architecture in (None, owner or architecture):
            return _default(owner or architecture, weights)
    if weights in WEIGHT_SETS:
        found = WEIGHT_SETS[weights]
        if architecture not in (None, found.architecture):
            raise _of_another(weights, [found], architecture)
        return found
    named = [s for s in WEIGHT_SETS.values() if weights in (s.tag, *s.aliases)]
    fitting = [s for s in named if architecture in (None, s.architecture)]
    if len(fitting) == 1:
        return fitting[0]
    path = Path(os.path.expanduser(weights))
    if os.path.isfile(path):  # of a path that cannot be, Path.is_file may raise
        return path
    if best := best_weights(path):
        return best
    if fitting:
        raise WeightsError(
            "Expected the name of one weight set, found several: "
            f"{_listed(fitting)}. Add the architecture, as these names have it. "
            f"Received: weights={weights!r}"
        )
    if named:
        raise _of_another(weights, named, architecture)
    raise _unknown(weights, path, architecture)


def _sets_of(architecture: str | None) -> list[WeightSet]:
    sets = WEIGHT_SETS.values()
    return [s for s in sets if architecture in (None, s.architecture)]


def _imagenet_sets(architecture: str) -> list[WeightSet]:
    return [s for s in _sets_of(architecture) if s.labels == "imagenet"]


def _default(architecture: str | None, weights: str) -> WeightSet:
    """The set that `"imagenet"` stands for, or what to do without one."""
    if architecture is None:
        raise WeightsError(
            "Expected the name of an architecture before it, as in "
            "'resnext50_32x4d.imagenet': each has a default of its own. "
            f"Received: weights={weights!r}"
        )
    if found := default_set(architecture):
        return found
    if sets := _imagenet_sets(architecture):
        raise WeightsError(
            f"Expected a weight set of {architecture!r} by its name: all of them "
            f"forbid commercial use ({sets[0].licence}), so none is the default. "
            f"There are {_listed(sets)}. Received: weights={weights!r}"
        )
    others = _listed(_sets_of(architecture))
    mistyped = weights != "imagenet" and architecture not in ARCHITECTURES
    hint = _did_you_mean(architecture, ARCHITECTURES) if mistyped else ""
    raise WeightsError(
        f"No ImageNet weights of {architecture!r} are published.{hint} Pass the path "
        f"of a file{f', another weight set ({others})' if others else ''}, or None for "
        f"a random start. Received: weights={weights!r}"
    )


def _accuracy(weight_set: WeightSet) -> tuple[bool, float]:
    """Best top-1 accuracy; what was measured goes before what is claimed."""
    return max((e.source == "timm", e.top1 or 0.0) for e in weight_set.evaluations)


def _of_another(weights, found, architecture) -> WeightsError:
    others = _listed(_sets_of(architecture))
    return WeightsError(
        f"Expected weights of {architecture!r} "
        f"({f'there are {others}' if others else 'no set is published'}); "
        f"that is the name of {_listed(found)}. Received: weights={weights!r}"
    )


def _unknown(weights, path, architecture) -> WeightsError:
    received = f"Received: weights={os.fspath(weights)!r}"
    if _is_meant_as_path(weights, path):
        found = "a folder" if os.path.isdir(path) else "no such file"
        hint = _did_you_mean(path.name, _files_beside(path))
        return WeightsError(f"Expected a weight file, found {found}.{hint} {received}")
    sets = _sets_of(architecture)
    names = [
        n for s in sets or WEIGHT_SETS.values() for n in (s.tag, s.name, *s.aliases)
    ]
    listed = f"of {architecture!r} there are {_listed(sets)}"
    if architecture and default_set(architecture):
        names = ["imagenet", f"{architecture}.imagenet", *names]
    return WeightsError(
        "Expected the name of a weight set or the path of a file."
        f"{_did_you_mean(weights, dict.fromkeys(names))} {received}; "
        f"{listed if architecture and sets else 'list_weights() gives the names'}."
    )


def _is_meant_as_path(weights: str | os.PathLike, path: Path) -> bool:
    return (
        not isinstance(weights, str)
        or path.name != weights  # it has folders
        or path.suffix.lower() in (*READERS, *HINTS)
        or os.path.lexists(path)
    )


def _files_beside(path: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return [f.name for f in path.parent.iterdir() if f.suffix.lower() in READERS]
    return []


def _did_you_mean(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    near = near or difflib.get_close_matches(name.lower(), names, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _listed(sets: list[WeightSet]) -> str:
    return ", ".join(weight_set.name for weight_set in sets)
