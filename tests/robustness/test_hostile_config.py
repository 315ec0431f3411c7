"""Whatever is in a config.json: a checkpoint within bounds, or the one error."""

import contextlib
import copy
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm_files import CONFIG, timm_folder

from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.tensors import WeightsError

pytestmark = pytest.mark.long

PLACES = [(key,) for key in CONFIG]
PLACES += [
    (outer, key) for outer in ("model_args", "pretrained_cfg") for key in CONFIG[outer]
]
VALUES = st.one_of(
    st.sampled_from(["__class__", 2**63, 10**400, -1, 0, 1e308, float("nan"), [], {}]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return timm_folder(tmp_path_factory.mktemp("hostile") / "flowers")


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_gives_a_checkpoint_or_the_one_error(folder, place, value):
    config = copy.deepcopy(CONFIG)
    entry = config
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    start = time.monotonic()
    with contextlib.suppress(WeightsError):
        found = resolve(folder)
        assert found.preprocessing.resize <= 10 * found.preprocessing.size <= 40960
        assert len(found.class_names) <= 10**6
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b'"architecture"',
        b"\xff\xfe\x00",
        b" " * 2**25,
    ],
    ids=["empty", "cut", "deep", "null", "text", "bytes", "long"],
)
def test_what_is_no_config_is_no_folder_of_timm(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(WeightsError):
        resolve(folder)
