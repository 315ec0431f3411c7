"""Fixtures that the tests of features share."""

import functools

import pytest

from resnext_keras.features import extraction


@pytest.fixture(autouse=True, scope="module")
def cached_extractor():
    """Builds each extractor once a module; gives the function that `extract` calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "Extractor", functools.cache(extraction.Extractor))
        yield extraction.Extractor
