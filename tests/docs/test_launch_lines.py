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


def check_command(line):
    assert line.startswith("train ")
    assert line.endswith(" --resume")


def test_slurm_starts_as_many_processes_of_jax_as_tasks(run):
    (script,) = blocks("Slurm")
    found = run(script, SLURM_NTASKS="32", SLURM_JOB_ID="1")
    assert len(found) == 2
    for backend, _, processes, _, command in found:
        assert (backend, processes) == ("jax", "32")
        check_command(command)


def test_each_pod_of_kubernetes_gets_its_number(run):
    (manifest,) = blocks("Kubernetes")
    (script,) = re.findall(r"- \|\n((?: {14}.*\n)+)", manifest)
    ((*environment, command),) = run(
        script.replace(" " * 14, ""), JOB_COMPLETION_INDEX="3"
    )
    assert environment == ["jax", "train-0.train:2222", "4", "3"]
    check_command(command)


def test_each_host_gets_its_number(run):
    (script,) = blocks("Hosts with GPUs, no scheduler")
    ((*environment, command),) = run(script)
    assert environment == ["jax", "host0:2222", "2", "0"]
    check_command(command)
