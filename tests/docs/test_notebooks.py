"""The notebooks run from top to bottom, and give the outputs that are stored."""

import re

import pytest
from helpers import NO_KSERVE, has_kserve
from run_notebooks import FOLDER, code_cells, executed, stored, text_of, without_drift

pytestmark = pytest.mark.tensorflow

PRINTED = {
    "detect": r"found in the lower half: 1[012] of 12 coins",
    "explain": r"the brightest tenth: [1-6]\d% right",
    "quickstart": "the loaded model gives the same scores: True",
    "search": "360 images, 1 skipped",
    "segment": r"test scenes: 0\.[4-9]",
    "serve": '"valid": true',
    "train": r"top-1 on the held-out tiles: ([6-9]\d|100)%",
}
"""What each notebook prints, with the figures that show that it works."""

# These need packages beyond the extra `test`.
OTHERS = ("detect", "serve")

MAX_BYTES = 300_000


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.parity if name in OTHERS else pytest.mark.long
        )
        for name in PRINTED
    ],
)
# Of zmq's event loop, and of the kernel's sockets.
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_gives_what_is_stored(name):
    if name == "serve" and not has_kserve():
        pytest.skip(NO_KSERVE)
    if name == "detect":
        pytest.importorskip("keras_hub")
    texts = [text_of(cell) for cell in code_cells(executed(name))]
    expected = [text_of(cell) for cell in code_cells(stored(name))]
    assert re.search(PRINTED[name], "\n".join(texts))
    for found, text in zip(texts, expected, strict=True):
        assert without_drift(found) == without_drift(text), found


@pytest.mark.parametrize("name", PRINTED)
def test_a_notebook_is_stored_with_its_outputs(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= MAX_BYTES
    counts = [cell.execution_count for cell in code_cells(stored(name))]
    assert counts == list(range(1, len(counts) + 1))
    assert re.search(PRINTED[name], "\n".join(map(text_of, code_cells(stored(name)))))


def test_all_notebooks_are_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == PRINTED.keys()
