"""Where the files of weight sets lie: in the package, or in the user's cache."""

import contextlib
import os
from importlib import resources
from pathlib import Path

from resnext_keras.weights.tensors import WeightsError

PACKAGE = Path(str(resources.files("resnext_keras")))
PACKAGED = PACKAGE / "weights" / "bundled"
# Only a wheel has that folder. A folder `weights` beside an installed package is not
# ours.
SHIPPED = PACKAGED if PACKAGED.is_dir() else PACKAGE.parent / "weights"
"""The folder of the bundled files: in the installed package, or `weights/` of a
checkout."""

NO = ("", "0", "f", "false", "n", "no", "off")
"""Values of `RESNEXT_KERAS_OFFLINE` that allow downloads."""


def cache_folder() -> Path:
    """The folder for downloads: `RESNEXT_KERAS_HOME`, else the user's cache.

    Raises:
        WeightsError: The user has no home, as in some containers.
    """
    if home := os.environ.get("RESNEXT_KERAS_HOME"):
        return Path(os.path.expanduser(home))
    try:
        import pooch  # on first use: nothing else here needs it

        return Path(pooch.os_cache("resnext_keras"))
    except RuntimeError as error:
        raise WeightsError(
            "Expected a home for downloaded weights. Received: a user without one; set "
            "RESNEXT_KERAS_HOME to a folder"
        ) from error


def downloads_forbidden() -> bool:
    """Whether `RESNEXT_KERAS_OFFLINE` is set."""
    return os.environ.get("RESNEXT_KERAS_OFFLINE", "").lower() not in NO


def local_path(file: str) -> Path | None:
    """The path of a file of weights on this machine; None if it is not here.

    It is looked for in the installed package or in `weights/` of a checkout, and then
    in the cache. It is not verified.
    """
    folders = [SHIPPED]
    with contextlib.suppress(WeightsError):
        folders.append(cache_folder())
    paths = [folder / file for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), None)
