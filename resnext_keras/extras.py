"""Packages that come with an extra, imported where they are used."""

import importlib
from types import ModuleType


def optional(package: str, extra: str) -> ModuleType:
    """Imports a package, or raises an `ImportError` that names its extra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Expected the package {package.partition('.')[0]} to be installed: "
            f'pip install "resnext-keras[{extra}]". Received: {error}'
        ) from error
