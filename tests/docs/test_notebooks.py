"""The notebooks run from top to bottom, and are stored without outputs."""

import re

import nbformat
import pytest
from helpers import NO_KSERVE, ROOT, has_kserve
from nbclient import NotebookClient

pytestmark = pytest.mark.tensorflow

FOLDER = ROOT / "notebooks"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        pytest.param(
            "quickstart",
            "the loaded model gives the same scores: True",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "explain", r"the brightest tenth: [1-6]\d% right", marks=pytest.mark.long
        ),
        pytest.param("search", "360 images, 1 skipped", marks=pytest.mark.long),
        pytest.param("segment", r"test scenes: 0\.[5-9]", marks=pytest.mark.long),
        pytest.param("serve", '"valid": true', marks=pytest.mark.parity),
    ],
)
# Of zmq's event loop, and of the kernel's sockets.
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs(name, printed):
    if name == "serve" and not has_kserve():
        pytest.skip(NO_KSERVE)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    NotebookClient(
        notebook,
        timeout=1200,  # of a cell, on a machine that does other things too
        kernel_name="python3",
        resources={"metadata": {"path": FOLDER}},
    ).execute()
    text = "".join(
        output.text
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert re.search(printed, text)


def test_all_notebooks_are_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {
        "explain",
        "quickstart",
        "search",
        "segment",
        "serve",
    }
