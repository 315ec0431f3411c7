"""The launch lines of docs/distributed-training.md start several processes."""

import os
import re
import subprocess

import pytest
from helpers import ROOT

DOCS = ROOT / "docs" / "distributed-training.md"

STANDINS = {
    "srun": 'shift; for n in 0 1; do "$@" || exit; done',
    "resnext-keras": 'echo "$KERAS_BACKEND|$KERAS_DISTRIBUTION_JOB_ADDRESSES'
    '|$KERAS_DISTRIBUTION_NUM_PROCESSES|$KERAS_DISTRIBUTION_PROCESS_ID|$*"',
}


def blocks(heading):
    """The code under a heading."""
    section = DOCS.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w*\n(.*?)```", section, re.S)


@pytest.fixture
def run(tmp_path):
    """Runs a script of bash among the stand-ins, and gives the fields of each line."""
    for name, script in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run_script(script, **environment):
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", script],
            env=environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split("|") for line in done.stdout.splitlines()]

    return run_script


@pytest.mark.parametrize(
    ("heading", "environment", "started"),
    [
        (
            "Slurm",
            {"SLURM_NTASKS": "32", "SLURM_JOB_ID": "1"},
            [["jax", "", "32", ""]] * 2,
        ),
        (
            "Kubernetes",
            {"JOB_COMPLETION_INDEX": "3"},
            [["jax", "train-0.train:2222", "4", "3"]],
        ),
        ("Hosts with GPUs, no scheduler", {}, [["jax", "host0:2222", "2", "0"]]),
    ],
)
def test_each_process_gets_its_number(run, heading, environment, started):
    (script,) = blocks(heading)
    if heading == "Kubernetes":
        (script,) = re.findall(r"- \|\n((?: {14}.*\n)+)", script)
        script = script.replace(" " * 14, "")
    lines = run(script, **environment)
    assert len(lines) == len(started)
    for (*settings, command), expected in zip(lines, started, strict=True):
        assert command.startswith("train ")
        assert command.endswith(" --resume")
        assert settings[0] == expected[0]
        assert settings[2] == expected[2]
        if heading != "Slurm":  # which finds the others by itself
            assert settings == expected
