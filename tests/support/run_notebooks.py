"""Runs the notebooks, and stores their outputs.

python tests/support/run_notebooks.py [NAME ...]
"""

import copy
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"


def stored(name: str) -> nbformat.NotebookNode:
    """A notebook as it is in git."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str) -> nbformat.NotebookNode:
    """A notebook after it has run from top to bottom."""
    notebook = stored(name)
    metadata = copy.deepcopy(notebook.metadata)
    NotebookClient(
        notebook,
        timeout=2400,  # of a cell, on a machine that does other things too
        kernel_name="python3",
        resources={"metadata": {"path": FOLDER}},
        record_timing=False,
    ).execute()
    notebook.metadata = metadata  # without the version of Python
    for cell in code_cells(notebook):
        # Messages of TensorFlow depend on the machine.
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = re.sub(r"(INFO|WARNING):tensorflow:.*\n", "", output.text)
        cell.outputs = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr" and output.get("text", "-").strip()
        ]
        for output in cell.outputs:
            # Pillow offers each image as PNG and as JPEG.
            images = sorted(
                (len(content), kind)
                for kind, content in output.get("data", {}).items()
                if kind.startswith("image/")
            )
            for _, kind in images[1:]:
                del output.data[kind]
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Its cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: nbformat.NotebookNode) -> str:
    """The text of a cell's outputs; `[image]` for each image among them."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts.append(output.get("text") or data.get("text/plain", ""))
        parts.extend("[image]" for kind in data if kind.startswith("image/"))
    return "\n".join(parts)


def without_drift(text: str) -> str:
    """A text without numbers, temporary folders and the breaks of lines."""
    text = re.sub(r"/\S*/tmp\w+/", "", text)
    text = re.sub(r"[-+]?\d[\d,.:]*(e[-+]?\d+)?( ?(ms|us|s)\b)?", "0", text)
    return " ".join(text.split())


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        nbformat.write(executed(name), FOLDER / f"{name}.ipynb")
        print(f"{name}: {(FOLDER / f'{name}.ipynb').stat().st_size:,} bytes")
