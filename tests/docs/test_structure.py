"""The package is light, and its names are the same for users and editors."""

import ast
import importlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

import resnext_keras

# What a command or a function needs is loaded when it is used.
ON_USE = (
    "faiss",
    "filelock",
    "jinja2",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pickletools",
    "pooch",
    "pyarrow",
    "safetensors",
    "sklearn",
    "timm",
    "torch",
    "tqdm",
)


def python(code):
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_loads_models_and_what_keras_must_find():
    loaded = python(
        "import sys, keras; before = set(sys.modules); import resnext_keras;"
        "print(*(set(sys.modules) - before))"
    ).split()
    own = [name for name in loaded if name.partition(".")[0] == "resnext_keras"]
    assert "resnext_keras.models.layers" in own
    assert len(own) <= 35
    assert not set(ON_USE) & set(loaded)


def test_a_network_is_built_with_keras_and_numpy_alone():
    others = ("PIL", "pooch", "filelock", "tqdm", "safetensors", "click")
    answer = python(
        f"import sys, keras; sys.modules.update(dict.fromkeys({others}));"
        "import resnext_keras as rk;"
        "print(rk.ResNeXt('resnext11_8x4d', weights=None).name)"
    )
    assert answer == "resnext11_8x4d"


def test_editors_and_users_find_the_same_names():
    source = Path(resnext_keras.__file__).read_text()
    block = ast.parse(source).body
    (checked,) = (node for node in block if isinstance(node, ast.If))
    for_editors = {
        alias.name: node.module for node in checked.body for alias in node.names
    }
    for name, module in for_editors.items():
        assert getattr(resnext_keras, name).__module__.startswith("resnext_keras.")
        assert getattr(importlib.import_module(module), name) is getattr(
            resnext_keras, name
        )
    eager = {
        alias.asname or alias.name
        for node in block
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    public = set(resnext_keras.__all__)
    assert public <= eager | for_editors.keys()
    assert for_editors.keys() <= public
    assert public <= set(dir(resnext_keras))
    with pytest.raises(ImportError, match="cannot import name 'ResNet50'"):
        from resnext_keras import ResNet50  # noqa: F401


def test_help_answers_in_half_a_second_and_without_tensorflow():
    code = (
        "import sys; from resnext_keras_cli import main\n"
        "sys.argv[1:] = ['predict', '-h']\n"
        "try: main()\n"
        "finally: print('tensorflow' in sys.modules, 'numpy' in sys.modules)"
    )
    seconds = []  # of CPU time: other processes may run too
    for _ in range(3):
        start = os.times()
        answer = python(code)
        end = os.times()
        seconds.append(
            end.children_user
            + end.children_system
            - start.children_user
            - start.children_system
        )
        assert "Usage: resnext-keras predict" in answer
        assert answer.endswith("False False")
    assert min(seconds) < 0.5


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


def test_the_package_knows_its_version():
    assert resnext_keras.__version__ == version("resnext-keras")
