"""What a name of weights means: a weight set or a file."""

import contextlib
import os
from pathlib import Path

from resnext_keras.arguments import did_you_mean, few
from resnext_keras.models.specs import ARCHITECTURES
from resnext_keras.weights.hub import HUB, WEIGHTS, hub_hint
from resnext_keras.weights.loading import HINTS, READERS
from resnext_keras.weights.registry import WEIGHT_SETS, WeightSet, names_of, sets_of
from resnext_keras.weights.run_folder import BEST, RUN, best_weights
from resnext_keras.weights.tensors import WeightsError

TIMM_FILES = (WEIGHTS, "pytorch_model.bin")
"""Weight files of timm and transformers, beside their `config.json`."""


def find(weights: str | os.PathLike, architecture: str | None) -> WeightSet | Path:
    """The weight set of a name, or the path of an existing file."""
    if not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(
            "Expected `weights` to be the name of a weight set, the path of a file or "
            "of the folder of a training run or of timm, hf://OWNER/NAME, or None. "
            f"Received: weights={weights!r}"
        )
    named = [s for s in WEIGHT_SETS.values() if weights in names_of(s)]
    sets = [s for s in named if architecture in (None, s.architecture)]
    if len(sets) == 1:
        return sets[0]
    if path := path_of(weights):
        return path
    path = Path(os.path.expanduser(weights))
    is_path = (
        path.name != weights  # a path object, or it has folders
        or path.suffix.lower() in (*READERS, *HINTS)
        or os.path.lexists(path)
    )
    if is_path and not named:
        raise _no_such_file(weights, path)
    raise _no_such_set(weights, architecture, named)


def path_of(weights: str | os.PathLike) -> Path | None:
    """The path of a weight file, or of that in the folder of a run or of timm."""
    path = Path(os.path.expanduser(weights))
    files = path, path / TIMM_FILES[0]
    return best_weights(path) or next(filter(os.path.isfile, files), None)


def _no_such_file(weights: str | os.PathLike, path: Path) -> WeightsError:
    found = "no such file"
    is_file = path.suffix.lower() in (*READERS, *HINTS) or path.parent.is_dir()
    hint = "" if is_file else hub_hint(os.fspath(weights))
    if os.path.isdir(path):
        found = (
            f"a folder without {BEST} and {RUN} of a training run, and without timm's "
            f"{TIMM_FILES[0]}"
        )
        pickled = [name for name in TIMM_FILES[1:] if os.path.isfile(path / name)]
        if pickled:
            hint = f" To read {pickled[0]}, which is a pickle, give its path."
    files = []
    with contextlib.suppress(OSError, ValueError):
        files = [f.name for f in path.parent.iterdir() if f.suffix.lower() in READERS]
    return WeightsError(
        f"Expected a weight file, found {found}."
        f"{hint or did_you_mean(path.name, files)} "
        f"Received: weights={os.fspath(weights)!r}"
    )


def _no_such_set(
    weights: str, architecture: str | None, named: list[WeightSet]
) -> WeightsError:
    """The error for a name of no set, of several, or of sets of other architectures."""
    owner, _, tag = weights.rpartition(".")
    if tag == "imagenet" and owner in ARCHITECTURES:
        architecture = architecture or owner
    sets = sets_of(architecture)
    names = list(dict.fromkeys(n for weight_set in sets for n in names_of(weight_set)))
    hint = did_you_mean(weights, names if architecture else [*names, *ARCHITECTURES])
    files = "a weight file, the folder of a training run or of timm"
    if architecture is None:
        expected = f"a weight set (see list_weights()), {files}, or {HUB}OWNER/NAME"
    elif sets:
        which = f"of {architecture!r} ({_names(sets)})"
        expected = f"a weight set {which}, {files}, or {HUB}OWNER/NAME"
    else:
        expected = (
            f"{files}, {HUB}OWNER/NAME, or None for random weights ({architecture!r} "
            "has no weight set)"
        )
    if named and architecture is None:
        listed = few(weight_set.name for weight_set in named)
        hint = f" Several sets have this name; add the architecture: {listed}."
    elif named and weights != "imagenet":
        hint = f" This is the name of {_names(named)}."
    elif tag == "imagenet" and sets and sets[0].non_commercial:
        hint = f" No set is the default, as {sets[0].licence} forbids commercial use."
    return WeightsError(f"Expected {expected}.{hint} Received: weights={weights!r}")


def _names(sets: list[WeightSet]) -> str:
    return ", ".join(weight_set.name for weight_set in sets)
