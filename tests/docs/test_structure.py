"""The package is as light and as ordered as CONTRIBUTING.md promises."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

# What resnext_keras itself needs, and what those need, may be loaded.
OPTIONAL = (
    "faiss",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pyarrow",
    "sklearn",
    "timm",
    "torch",
)


def python(code):
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_loads_no_optional_package():
    loaded = python(
        "import sys, keras; before = set(sys.modules); import resnext_keras;"
        "print(*(set(sys.modules) - before))"
    ).split()
    assert "resnext_keras.models.resnext" in loaded
    assert not set(OPTIONAL) & set(loaded)


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["-h"]])
def test_help_answers_in_half_a_second_and_without_tensorflow(arguments):
    code = (
        "import sys; from resnext_keras_cli import main\n"
        f"sys.argv[1:] = {arguments}\n"
        "try: main()\n"
        "finally: print('tensorflow' in sys.modules, 'numpy' in sys.modules)"
    )
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        answer = python(code)
        durations.append(time.perf_counter() - start)
        assert "Usage: resnext-keras" in answer
        assert answer.endswith("False False")
    assert min(durations) < 0.5


def test_modules_import_only_what_lies_below_them():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_gate_runs_the_oldest_packages_that_are_allowed():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {
        requirement.name: Version(specifier.version)
        for requirement in map(
            Requirement,
            project["dependencies"] + project["optional-dependencies"]["train"],
        )
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: Version(number) for name, number in pinned.items()} == allowed
